//! Files that lie beside a pack, compressed with zstd: a root disk, or a kernel.

use crate::digest::block_sums::BlockSums;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::stream::zstd_frames::most_compressed;
use forkd_format::manifest::RootfsSidecar;
use forkd_format::zstd_frame::MAX_WINDOW_LOG;
use forkd_format::{Digest, Hasher};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A file that belongs to a pack file and lies beside it: its root disk, or a kernel.
pub(crate) fn open_sidecar(pack: &Path, name: &str) -> Result<Box<dyn Read + Send>> {
    let path = pack.with_file_name(name);
    match path.metadata() {
        Ok(metadata) if !metadata.is_file() => Err(Error::new(
            Kind::Integrity,
            format!("{} is not a regular file; expected what belongs to the pack", path.display()),
        )),
        Ok(_) => File::open(&path).map(|file| Box::new(file) as _).map_err(Error::io("open", &path)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(Error::new(
            Kind::NotFound,
            format!(
                "{} is missing, which belongs to the pack; expected it beside {}",
                path.display(),
                pack.display()
            ),
        )),
        Err(e) => Err(Error::io("open", &path)(e)),
    }
}

/// Reads the root disk beside a pack, handing on its bytes and where they belong; gives its block sums once its size and
/// digest hold.
pub(crate) fn read_sidecar(
    rootfs: &RootfsSidecar,
    input: Box<dyn Read + Send>,
    env: Env<'_>,
    each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<String> {
    let mut sums = BlockSums::default();
    decode(&rootfs.file_name(), (rootfs.size, rootfs.sha256), input, env, &mut |at, bytes| {
        sums.update(bytes);
        each(at, bytes)
    })?;
    Ok(sums.finish())
}

/// Decodes a file, handing on its bytes and where they belong, no further than its declared size; checks that and its digest.
pub(crate) fn decode(
    name: &str,
    (size, sha256): (u64, Digest),
    input: Box<dyn Read + Send>,
    env: Env<'_>,
    each: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let failed = |e: std::io::Error| sidecar_error(name, e);
    let input = BoundedReader { input, left: most_compressed(size), name: name.to_owned() };
    let mut decoder = zstd::stream::read::Decoder::new(input).map_err(failed)?;
    decoder.window_log_max(MAX_WINDOW_LOG).map_err(failed)?;
    let mut buffer = vec![0; 1 << 20];
    let (mut hasher, mut at) = (Hasher::default(), 0);
    loop {
        env.cancel.check()?;
        let read = decoder.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            break;
        }
        if at + read as u64 > size {
            let message = format!("{name}: more than the {size} bytes that the manifest declares");
            return Err(Error::new(Kind::Integrity, message));
        }
        hasher.update(&buffer[..read]);
        each(at, &buffer[..read])?;
        at += read as u64;
    }
    let found = hasher.finish();
    if at != size || found != sha256 {
        let message = format!(
            "{name}: {at} bytes with sha256 {found}; the manifest declares {size} bytes with {sha256}"
        );
        return Err(Error::new(Kind::Integrity, message));
    }
    Ok(())
}

/// Compressed bytes, no more than content of a declared size may take: a frame may be skipped for ever.
struct BoundedReader {
    input: Box<dyn Read + Send>,
    left: u64,
    name: String,
}

impl Read for BoundedReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            let message = format!("{}: far more compressed bytes than what is declared can take", self.name);
            std::io::Error::other(Error::new(Kind::Integrity, message))
        })?;
        Ok(read)
    }
}

/// A decoder says in words of its own that its input is damaged; everything else is the disk's or the network's.
fn sidecar_error(name: &str, error: std::io::Error) -> Error {
    if error.raw_os_error().is_none()
        && !error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Error>)
    {
        return Error::new(Kind::Integrity, format!("{name}: {error}"));
    }
    crate::pack::stream::zstd_frames::read_error(name, error)
}

/// Opens a file that lies beside the pack.
pub(crate) type OpenSidecar<'a> = &'a mut dyn FnMut(&str) -> Result<Box<dyn Read + Send>>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::{Cancel, Silent};

    #[test]
    fn a_sidecar_that_is_skipped_for_ever_ends() {
        /// Skippable frames of a MiB, one after another.
        struct Skipped(u64);
        impl Read for Skipped {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                let frame = [[0x50, 0x2a, 0x4d, 0x18], (1_u32 << 20).to_le_bytes()].concat();
                for byte in &mut *buffer {
                    let at = self.0 % (frame.len() as u64 + (1 << 20));
                    *byte = frame.get(at as usize).copied().unwrap_or(0);
                    self.0 += 1;
                }
                Ok(buffer.len())
            }
        }
        let cancel = Cancel::default();
        let env = Env { progress: &Silent, cancel: &cancel, jobs: 1 };
        let input = Box::new(Skipped(0));
        let error = decode("k.zst", (5, Digest::of(b"12345")), input, env, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity);
        assert!(error.to_string().contains("far more compressed bytes"), "{error}");
    }
}
