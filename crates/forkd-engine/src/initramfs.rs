//! The initial RAM filesystem: the agent, and the modules that the kernel needs for its disk and its ports.

use crate::agent::AGENT;
use crate::kernel::Kernel;
use forkd_core::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a guest needs; what a kernel has built in has no module.
const WANTED: [&str; 6] = ["virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "ext4", "virtio_rng"];

/// Makes the archive: `/init` is the agent, `/modules` the modules in the order to load them.
///
/// # Errors
/// Where a module cannot be read.
pub fn initramfs(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Cpio::default();
    archive.add("init", 0o100_755, AGENT);
    archive.add("dev", 0o040_755, &[]);
    // For the time before the agent has mounted the kernel's own.
    archive.add_device("dev/console", 5, 1);
    archive.add_device("dev/null", 1, 3);
    archive.add("modules", 0o040_755, &[]);
    if let Some(dir) = &kernel.modules {
        for (i, (name, bytes)) in modules(dir)?.into_iter().enumerate() {
            archive.add(&format!("modules/{i:02}-{name}.ko"), 0o100_644, &bytes);
        }
    }
    Ok(archive.finish())
}

/// The modules that are wanted and those they need, in the order to load them.
fn modules(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    collect(&dir.join("kernel"), &mut files)?;
    let mut ordered: Vec<(String, Vec<u8>)> = Vec::new();
    for name in WANTED {
        load(name, &files, &mut ordered, 0)?;
    }
    Ok(ordered)
}

fn collect(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("read", dir))? {
        let entry = entry.map_err(Error::io("read", dir))?;
        let path = entry.path();
        if entry.file_type().map_err(Error::io("read", &path))?.is_dir() {
            collect(&path, files)?;
        } else if let Some((name, "ko" | "ko.xz" | "ko.zst")) =
            entry.file_name().to_str().and_then(|n| n.split_once('.'))
        {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Adds a module after those that it needs. Modules need few others; a deep nesting is a damaged file.
fn load(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    ordered: &mut Vec<(String, Vec<u8>)>,
    depth: usize,
) -> Result<()> {
    let Some(path) = files.get(name).filter(|_| depth < 16 && ordered.iter().all(|(known, _)| known != name))
    else {
        return Ok(());
    };
    let bytes = read_module(path)?;
    for needed in depends(&bytes) {
        load(&needed, files, ordered, depth + 1)?;
    }
    // Named by a checksum driver at run time, which no module's own list tells.
    if name == "ext4" {
        load("crc32c_generic", files, ordered, depth + 1)?;
    }
    ordered.push((name.to_owned(), bytes));
    Ok(())
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    match path.extension().and_then(|end| end.to_str()) {
        Some("zst") => {
            let file = fs::File::open(path).map_err(Error::io("open", path))?;
            zstd::decode_all(file).map_err(Error::io("decompress", path))
        }
        Some("xz") => {
            let output =
                Command::new("xz").arg("-dc").arg(path).output().map_err(Error::io("run xz for", path))?;
            match output.status.success() {
                true => Ok(output.stdout),
                false => {
                    Err(Error::new(Kind::Integrity, format!("{}: xz cannot decompress it", path.display())))
                }
            }
        }
        _ => fs::read(path).map_err(Error::io("read", path)),
    }
}

/// The modules that a module names in its `.modinfo`: `depends=a,b`, ended by a zero.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else { return Vec::new() };
    let rest = &module[at + KEY.len()..];
    let text = String::from_utf8_lossy(rest.split(|byte| *byte == 0).next().unwrap_or_default());
    text.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// An archive in the kernel's format (Documentation/driver-api/early-userspace/buffer-format.rst: "newc").
#[derive(Default)]
struct Cpio(Vec<u8>, u32);

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.entry(name, mode, (0, 0), bytes);
    }

    /// A character device, by its numbers.
    fn add_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, 0o020_600, (major, minor), &[]);
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), bytes: &[u8]) {
        self.1 += 1;
        let links = if mode & 0o040_000 != 0 { 2 } else { 1 };
        let fields =
            [self.1, mode, 0, 0, links, 0, bytes.len() as u32, 0, 0, major, minor, name.len() as u32 + 1, 0];
        self.0.extend_from_slice(b"070701");
        fields.iter().for_each(|field| self.0.extend_from_slice(format!("{field:08x}").as_bytes()));
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_after_what_they_need() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel/drivers");
        fs::create_dir_all(&kernel).unwrap();
        let module = |name: &str, needs: &str| {
            fs::write(kernel.join(format!("{name}.ko")), format!("\x7fELF\0license=GPL\0depends={needs}\0x"))
                .unwrap();
        };
        module("virtio_blk", "virtio_ring,virtio");
        module("virtio", "virtio_ring");
        module("virtio_ring", "");
        module("virtio_console", "virtio");
        module("loop", "loop");
        module("unwanted", "");
        let names: Vec<String> = modules(dir.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio_blk", "virtio_console"]);
    }

    #[test]
    fn the_archive_is_one_that_cpio_reads() {
        let mut archive = Cpio::default();
        archive.add("init", 0o100_755, b"hello");
        archive.add("modules", 0o040_755, &[]);
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"07070100000001000081ed0000000000000000000000010000000000000005"));
        assert_eq!(bytes.len() % 4, 0);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs::write(&file, bytes).unwrap();
        let output = Command::new("cpio").arg("-t").stdin(fs::File::open(&file).unwrap()).output();
        // Where the command is there, it must agree.
        if let Ok(output) = output {
            assert_eq!(String::from_utf8_lossy(&output.stdout), "init\nmodules\n");
        }
    }
}
