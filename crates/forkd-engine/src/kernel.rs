//! The kernel that machines boot: given by the user, found in the cache, or fetched as a Debian package.

use crate::vmlinux::{is_elf, vmlinux};
use forkd_core::{Error, Kind, Progress, Result};
use forkd_format::{Digest, Hasher};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's kernel for virtual machines: small, with virtio, ext4 and little else. A metapackage.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel that a machine can boot, and where its modules lie.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// A bzImage, or an ELF vmlinux with a PVH entry.
    pub image: PathBuf,
    /// Its release, as `uname -r` says it, where it can be told.
    pub release: Option<String>,
    /// `lib/modules/<release>`; none where all it needs is built in.
    pub modules: Option<PathBuf>,
}

impl Kernel {
    /// A kernel of the user's. Its modules are looked for beside it, as packages have them, and in `/lib/modules`.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] where the file is no kernel.
    pub fn given(image: &Path) -> Result<Self> {
        let release = release(image)?;
        let modules = release.as_ref().and_then(|release| {
            let beside = image.canonicalize().ok()?.parent()?.parent().map(|root| root.join("lib/modules"));
            let places = beside.into_iter().chain([PathBuf::from("/lib/modules")]);
            places.map(|dir| dir.join(release)).find(|dir| dir.is_dir())
        });
        Ok(Self { image: image.to_owned(), release, modules })
    }

    /// The kernel in a cache folder, where there is one.
    #[must_use]
    pub fn cached(cache: &Path) -> Option<Self> {
        packages(cache).iter().find_map(|dir| in_package(dir))
    }

    /// The kernel in a cache folder whose image has this digest: the one that a `snapshot.json` names in `kernel.sha256`.
    ///
    /// # Errors
    /// Where an image cannot be read.
    pub fn with_digest(cache: &Path, sha256: &Digest) -> Result<Option<Self>> {
        for kernel in packages(cache).iter().filter_map(|dir| in_package(dir)) {
            if digest(&kernel.image)? == *sha256 {
                return Ok(Some(kernel));
            }
        }
        Ok(None)
    }

    /// The uncompressed kernel: of an ELF image all of it, of a bzImage what its payload holds, which is an ELF file with what the
    /// kernel's own unpacking needs behind it. It is the same, byte for byte, wherever the image is. At most 512 MiB.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] where the image is no such kernel or too large, where its compression is none of gzip, lz4, xz and zstd, or
    /// where this host has no `xz` for one; [`Kind::Integrity`] where it is damaged.
    pub fn vmlinux(&self) -> Result<Vec<u8>> {
        vmlinux(&self.image)
    }

    /// The kernel in the cache, or else fetched by the host's own package manager: Debian's, without root.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] where the host has no such packages; [`Kind::Transient`] where they cannot be fetched.
    pub fn find(cache: &Path, progress: &dyn Progress) -> Result<Self> {
        match Self::cached(cache) {
            Some(kernel) => Ok(kernel),
            None => fetch(cache, progress),
        }
    }
}

/// The packages in a cache, the newest first.
fn packages(cache: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cache.join("kernels")).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|dir| dir.join("complete").exists()).collect();
    folders.sort_by(|a, b| b.cmp(a));
    folders
}

fn digest(image: &Path) -> Result<Digest> {
    let mut file = File::open(image).map_err(Error::io("open", image))?;
    let (mut hasher, mut buffer) = (Hasher::default(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(Error::io("read", image))? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// The kernel in an unpacked package.
fn in_package(dir: &Path) -> Option<Kernel> {
    let mut entries = fs::read_dir(dir.join("boot")).ok()?.flatten().map(|entry| entry.path());
    let image = entries
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))?;
    Kernel::given(&image).ok()
}

fn fetch(cache: &Path, progress: &dyn Progress) -> Result<Kernel> {
    progress.note(&format!("fetching a kernel: Debian's package {PACKAGE}"));
    let kernels = cache.join("kernels");
    forkd_sys::create_private_dirs(&kernels).map_err(Error::io("create", &kernels))?;
    let work = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(&kernels)
        .map_err(Error::io("create a folder in", &kernels))?;
    let mut options: Vec<String> = Vec::new();
    let package = match depends(&options) {
        Some(package) => package,
        None => {
            // No lists on this host, as in a fresh container: some of our own will do, and need no root.
            let lists = work.path().join("lists");
            let partial = lists.join("partial");
            fs::create_dir_all(&partial).map_err(Error::io("create", &partial))?;
            options.extend([
                format!("-oDir::State::lists={}", lists.display()),
                format!("-oDir::Cache={}", work.path().display()),
                "-oAPT::Sandbox::User=root".into(),
                "-oDebug::NoLocking=1".into(),
            ]);
            run(Command::new("apt-get").arg("-q").args(&options).arg("update"))?;
            depends(&options).ok_or_else(|| no_kernel(&format!("apt knows no package {PACKAGE}")))?
        }
    };
    let package = if package.is_empty() { PACKAGE.to_owned() } else { package };
    run(Command::new("apt-get")
        .current_dir(work.path())
        .arg("-q")
        .args(&options)
        .args(["download", &package]))?;
    let mut entries = fs::read_dir(work.path())
        .map_err(Error::io("read", work.path()))?
        .flatten()
        .map(|entry| entry.path());
    let deb = entries.find(|path| path.extension().is_some_and(|end| end == "deb"));
    let deb = deb.ok_or_else(|| no_kernel("apt-get download brought no package"))?;
    let unpacked = work.path().join("package");
    run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    let mark = unpacked.join("complete");
    fs::write(&mark, "").map_err(Error::io("create", &mark))?;
    let place = kernels.join(&package);
    // Another process may just have put the same there.
    if let Err(error) = fs::rename(&unpacked, &place)
        && !place.join("complete").exists()
    {
        return Err(Error::io("create", &place)(error));
    }
    in_package(&place).ok_or_else(|| no_kernel(&format!("{package} holds no boot/vmlinuz-*")))
}

fn no_kernel(why: &str) -> Error {
    Error::new(Kind::Incompatible, why)
        .hint("give a kernel by --kernel FILE (a bzImage or vmlinux with virtio and ext4)")
}

/// The package that the metapackage stands for; `None` where apt has no lists.
fn depends(options: &[String]) -> Option<String> {
    let output = Command::new("apt-cache").args(options).args(["depends", PACKAGE]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "))?;
    name.starts_with("linux-image").then(|| name.to_owned())
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = match command.env("LC_ALL", "C").output() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(no_kernel(&format!("this host has no {name} to fetch a kernel with")));
        }
        output => output.map_err(Error::io("run", Path::new(&name)))?,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
    Err(Error::new(
        Kind::Transient,
        format!("cannot fetch a kernel: {name} ended with {} and said: {said}", output.status),
    ))
}

/// Looks at an image; gives its release.
fn release(image: &Path) -> Result<Option<String>> {
    let file = File::open(image).map_err(Error::io("open", image))?;
    if !file.metadata().map_err(Error::io("open", image))?.is_file() {
        return Err(Error::new(
            Kind::Usage,
            format!("{} is not a regular file; expected a kernel", image.display()),
        ));
    }
    let mut head = [0; 0x212];
    let read = file.read_at(&mut head, 0).map_err(Error::io("read", image))?;
    // The x86 boot protocol: "HdrS" at 0x202, and at 0x20e where the version text is, counted from 0x200.
    if read == head.len() && head[0x202..0x206] == *b"HdrS" {
        let at = u64::from(u16::from_le_bytes([head[0x20e], head[0x20f]])) + 0x200;
        let mut text = [0; 256];
        let read = file.read_at(&mut text, at).map_err(Error::io("read", image))?;
        return Ok(first_word(&text[..read]));
    }
    if is_elf(&head[..read]) {
        return banner(file, image);
    }
    let message =
        format!("{} is no kernel: expected an x86 bzImage or an x86-64 ELF vmlinux", image.display());
    Err(Error::new(Kind::Usage, message))
}

fn first_word(text: &[u8]) -> Option<String> {
    let word = text.split(|byte| *byte == b' ' || *byte == 0).next()?;
    let word = std::str::from_utf8(word).ok()?;
    // It becomes part of a path.
    (!word.is_empty() && !word.contains('/') && word != "." && word != "..").then(|| word.to_owned())
}

/// The release in a vmlinux: after the words `Linux version `.
fn banner(mut file: File, image: &Path) -> Result<Option<String>> {
    const WORDS: &[u8] = b"Linux version ";
    let mut window = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(Error::io("read", image))?;
        if read == 0 {
            return Ok(None);
        }
        window.extend_from_slice(&buffer[..read]);
        if let Some(at) = window.windows(WORDS.len()).position(|words| words == WORDS)
            && window.len() > at + 256
        {
            return Ok(first_word(&window[at + WORDS.len()..]));
        }
        window.drain(..window.len().saturating_sub(512));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_told_from_what_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        for (bytes, ok) in [(vec![], false), (vec![0; 4096], false), (b"\x7fELF\x02\x01".to_vec(), false)] {
            fs::write(&path, &bytes).unwrap();
            assert_eq!(Kernel::given(&path).is_ok(), ok, "{}", bytes.len());
        }
        let mut image = vec![0; 4096];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
        image[0x500..0x512].copy_from_slice(b"6.1.0-49-cloud (x)");
        fs::write(&path, &image).unwrap();
        assert_eq!(Kernel::given(&path).unwrap().release.as_deref(), Some("6.1.0-49-cloud"));
        image[0x500..0x509].copy_from_slice(b"../../x y");
        fs::write(&path, &image).unwrap();
        assert_eq!(Kernel::given(&path).unwrap().release, None);
        let mut elf = vec![0; 3 << 20];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18] = 62;
        elf[(1 << 20) - 5..(1 << 20) + 15].copy_from_slice(b"Linux version 6.9.1 ");
        fs::write(&path, &elf).unwrap();
        assert_eq!(Kernel::given(&path).unwrap().release.as_deref(), Some("6.9.1"));
        assert_eq!(Kernel::given(dir.path()).unwrap_err().kind(), Kind::Usage);
    }

    #[test]
    fn a_kernel_is_found_by_its_digest() {
        let cache = tempfile::tempdir().unwrap();
        assert!(Kernel::with_digest(cache.path(), &Digest::of(b"")).unwrap().is_none());
        let mut digests = Vec::new();
        for (number, complete) in [(1, true), (2, true), (3, false)] {
            let package = cache.path().join(format!("kernels/linux-{number}"));
            fs::create_dir_all(package.join("boot")).unwrap();
            let mut image = vec![number; 3 << 20];
            image[..6].copy_from_slice(b"\x7fELF\x02\x01");
            image[18..20].copy_from_slice(&[62, 0]);
            digests.push(Digest::of(&image));
            fs::write(package.join(format!("boot/vmlinuz-{number}")), image).unwrap();
            if complete {
                fs::write(package.join("complete"), "").unwrap();
            }
        }
        let found = |digest| Kernel::with_digest(cache.path(), digest).unwrap();
        assert!(found(&digests[0]).unwrap().image.ends_with("linux-1/boot/vmlinuz-1"));
        assert!(found(&digests[1]).unwrap().image.ends_with("linux-2/boot/vmlinuz-2"));
        assert!(found(&digests[2]).is_none(), "it is not complete");
        assert!(Kernel::cached(cache.path()).unwrap().image.ends_with("linux-2/boot/vmlinuz-2"));
    }
}
