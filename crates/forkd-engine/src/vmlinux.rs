//! The uncompressed kernel inside a kernel image, whose pages a guest's memory repeats.
//!
//! Images may come from anyone: sizes that they tell are held against the file and [`LONGEST`] before anything is made of them.

use forkd_core::{Error, Kind, Result};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The most that a kernel may have, compressed or not; Debian's has 51 MiB.
const LONGEST: usize = 512 << 20;
/// What one block of lz4's older format stands for, but for the last one.
const LZ4_BLOCK: usize = 8 << 20;
/// Of the boot sector, the fields up to `payload_length`.
const HEADER: usize = 0x250;

/// See [`crate::kernel::Kernel::vmlinux`].
pub(crate) fn vmlinux(image: &Path) -> Result<Vec<u8>> {
    let file = File::open(image).map_err(Error::io("open", image))?;
    let length = file.metadata().map_err(Error::io("read", image))?.len();
    let mut head = [0; HEADER];
    let read = file.read_at(&mut head, 0).map_err(Error::io("read", image))?;
    if is_elf(&head[..read]) {
        return at(&file, 0, length, image);
    }
    if read < HEADER || head[0x202..0x206] != *b"HdrS" {
        let message = format!("{}: neither an x86 bzImage nor an x86-64 ELF vmlinux", image.display());
        return Err(Error::new(Kind::Incompatible, message));
    }
    if u16::from_le_bytes([head[0x206], head[0x207]]) < 0x208 {
        let message = format!("{}: a kernel this old does not say where its payload is", image.display());
        return Err(Error::new(Kind::Incompatible, message));
    }
    // The boot protocol: 0 setup sectors mean 4, and the boot sector itself is one more. What the payload's fields count is behind them.
    let sectors = if head[0x1f1] == 0 { 4 } else { u64::from(head[0x1f1]) };
    let word =
        |at: usize| u64::from(u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
    let start = (sectors + 1) * 512 + word(0x248);
    let size = word(0x24c);
    if start + size > length {
        return Err(damaged(image, "its payload is said to end behind the file"));
    }
    let vmlinux = unpack(&at(&file, start, size, image)?, image)?;
    match is_elf(&vmlinux) {
        true => Ok(vmlinux),
        false => Err(damaged(image, "what its payload holds is no x86-64 ELF file")),
    }
}

/// Whether a file that begins so is 64-bit, little-endian ELF for x86-64.
pub(crate) fn is_elf(head: &[u8]) -> bool {
    head.len() >= 64 && head[..6] == *b"\x7fELF\x02\x01" && head[18..20] == [62, 0]
}

fn damaged(image: &Path, why: &str) -> Error {
    Error::new(Kind::Integrity, format!("{}: {why}", image.display()))
}

/// A part of the file, in memory.
fn at(file: &File, start: u64, size: u64, image: &Path) -> Result<Vec<u8>> {
    let mut bytes = room(size, image)?;
    file.read_exact_at(&mut bytes, start).map_err(Error::io("read", image))?;
    Ok(bytes)
}

/// That many zeros, which take up memory only when they are written to.
fn room(size: u64, image: &Path) -> Result<Vec<u8>> {
    match usize::try_from(size) {
        Ok(size) if size <= LONGEST => Ok(vec![0; size]),
        _ => {
            let message = format!(
                "{}: {size} bytes of kernel; forkd takes at most {} MiB",
                image.display(),
                LONGEST >> 20
            );
            Err(Error::new(Kind::Incompatible, message))
        }
    }
}

fn unpack(payload: &[u8], image: &Path) -> Result<Vec<u8>> {
    // The kernel's build puts the size behind all but gzip, which ends with it anyway.
    let Some((body, size)) = payload.split_last_chunk::<4>() else {
        return Err(damaged(image, "its payload is too short"));
    };
    let mut out = room(u32::from_le_bytes(*size).into(), image)?;
    let wrong = |why: std::io::Error| damaged(image, &format!("its payload does not decompress: {why}"));
    match payload {
        [0x1f, 0x8b, ..] => fill(flate2::bufread::GzDecoder::new(payload), &mut out).map_err(wrong)?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::Decoder::with_buffer(body).map_err(wrong)?;
            fill(decoder.single_frame(), &mut out).map_err(wrong)?;
        }
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => {
            lz4(&blocks[..blocks.len().saturating_sub(size.len())], &mut out).map_err(wrong)?;
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => xz(body, &mut out, image)?,
        _ => {
            let name = match payload {
                [b'B', b'Z', b'h', ..] => "bzip2",
                [0x5d, 0, 0, ..] => "lzma",
                [0x89, b'L', b'Z', b'O', ..] => "lzo",
                _ => "something unknown",
            };
            let magic: Vec<String> = payload.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            let message = format!(
                "{}: its payload is compressed with {name} (it begins with {}); forkd reads gzip, lz4, xz and zstd",
                image.display(),
                magic.join(" ")
            );
            return Err(Error::new(Kind::Incompatible, message));
        }
    }
    Ok(out)
}

fn invalid(why: impl Into<String>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, why.into())
}

/// Reads exactly that many bytes, and sees that no more come, without reading what more there is.
fn fill(mut from: impl Read, out: &mut [u8]) -> std::io::Result<()> {
    from.read_exact(out).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => invalid("it is cut off, or shorter than it says"),
        _ => e,
    })?;
    match std::io::copy(&mut from.take(1), &mut std::io::sink())? {
        0 => Ok(()),
        _ => Err(invalid("it is longer than it says")),
    }
}

/// lz4's older format without its magic: blocks that know nothing of each other, each behind its compressed size.
fn lz4(mut blocks: &[u8], mut out: &mut [u8]) -> std::io::Result<()> {
    while let Some((size, rest)) = blocks.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size) as usize;
        let (block, rest) = rest.split_at_checked(size).ok_or_else(|| invalid("a block is cut off"))?;
        let limit = out.len().min(LZ4_BLOCK);
        let written = lz4_flex::block::decompress_into(block, &mut out[..limit])
            .map_err(|why| invalid(why.to_string()))?;
        (out, blocks) = (&mut out[written..], rest);
    }
    match (out.is_empty(), blocks.is_empty()) {
        (true, true) => Ok(()),
        (false, _) => Err(invalid("it is shorter than it says")),
        (_, false) => Err(invalid("there is more behind its blocks")),
    }
}

fn xz(body: &[u8], out: &mut [u8], image: &Path) -> Result<()> {
    // From a file: a pipe would have to be filled while the other is emptied.
    let mut input = tempfile::tempfile().map_err(Error::io("create a file for", image))?;
    input.write_all(body).and_then(|()| input.rewind()).map_err(Error::io("copy the payload of", image))?;
    let mut command = Command::new("xz");
    command.args(["-dcq", "--format=xz", "--single-stream", "--memlimit-decompress=256MiB"]);
    let child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = match child {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let message =
                format!("{}: this host has no xz to decompress it with (Debian: xz-utils)", image.display());
            return Err(Error::new(Kind::Incompatible, message));
        }
        child => child.map_err(Error::io("run xz for", image))?,
    };
    let filled = match child.stdout.take() {
        // Closed behind it, which ends an xz that has more to say.
        Some(stdout) => fill(stdout, out),
        None => Err(invalid("xz has no output")),
    };
    let status = child.wait().map_err(Error::io("run xz for", image))?;
    match filled {
        Ok(()) if status.success() => Ok(()),
        Ok(()) => Err(damaged(image, "xz cannot decompress its payload")),
        Err(why) => Err(damaged(image, &format!("xz cannot decompress its payload: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes that need three blocks of lz4, of bytes that compress somewhat.
    fn kernel() -> Vec<u8> {
        let mut state = 1u64;
        let mut bytes: Vec<u8> = (0..(2 * LZ4_BLOCK + 12_345) / 8)
            .flat_map(|i: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i as u64 | 1);
                if i.is_multiple_of(4) { state.to_le_bytes() } else { [i as u8; 8] }
            })
            .collect();
        elf(&mut bytes);
        bytes
    }

    fn elf(bytes: &mut [u8]) {
        bytes[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
    }

    /// A payload as the kernel's build makes it.
    fn packed(how: &str, vmlinux: &[u8]) -> Vec<u8> {
        let mut out = match how {
            "gzip" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(vmlinux).unwrap();
                return encoder.finish().unwrap();
            }
            "zstd" => {
                let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
                encoder.include_checksum(true).unwrap();
                encoder.write_all(vmlinux).unwrap();
                encoder.finish().unwrap()
            }
            "lz4" => {
                let mut out = vec![0x02, 0x21, 0x4c, 0x18];
                for block in vmlinux.chunks(LZ4_BLOCK).map(lz4_flex::block::compress) {
                    out.extend((block.len() as u32).to_le_bytes());
                    out.extend(block);
                }
                out
            }
            _ => {
                let mut input = tempfile::tempfile().unwrap();
                input.write_all(vmlinux).unwrap();
                input.rewind().unwrap();
                let how = ["-1c", "--check=crc32", "--x86", "--lzma2=preset=0"];
                let output = Command::new("xz").args(how).stdin(input).output();
                let output = output.expect("this test needs the program xz (Debian: xz-utils)");
                assert!(output.status.success());
                output.stdout
            }
        };
        out.extend((vmlinux.len() as u32).to_le_bytes());
        out
    }

    const ALL: [&str; 4] = ["gzip", "zstd", "lz4", "xz"];
    const OFFSET: usize = 300;

    fn bz_image(sectors: u8, payload: &[u8]) -> Vec<u8> {
        let start = (if sectors == 0 { 4 } else { usize::from(sectors) } + 1) * 512 + OFFSET;
        let mut image = vec![0x90; start];
        image[0x1f1] = sectors;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&(OFFSET as u32).to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend(payload);
        image.extend([0xcc; 700]);
        image
    }

    fn of(image: &[u8]) -> Result<Vec<u8>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), image).unwrap();
        vmlinux(file.path())
    }

    fn kind(image: &[u8]) -> Kind {
        of(image).unwrap_err().kind()
    }

    #[test]
    fn each_compression_is_undone() {
        let kernel = kernel();
        for how in ALL {
            let payload = packed(how, &kernel);
            for sectors in [0, 1, 39, 255] {
                assert!(of(&bz_image(sectors, &payload)).unwrap() == kernel, "{how} {sectors}");
            }
        }
        assert!(of(&kernel).unwrap() == kernel);
    }

    #[test]
    fn other_compressions_are_named() {
        for (magic, name) in
            [(&b"BZh9"[..], "bzip2"), (b"\x89LZO", "lzo"), (b"\x5d\0\0\0", "lzma"), (b"????", "3f 3f 3f 3f")]
        {
            let error = of(&bz_image(1, &[magic, &[0; 64]].concat())).unwrap_err();
            assert_eq!(error.kind(), Kind::Incompatible);
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn a_size_that_is_not_so_is_refused() {
        let mut kernel = vec![7; 100_000];
        elf(&mut kernel);
        for how in ALL {
            let payload = packed(how, &kernel);
            let end = payload.len() - 4;
            for (size, expected) in [
                (0u32, Kind::Integrity),
                (99_999, Kind::Integrity),
                (100_001, Kind::Integrity),
                ((LONGEST as u32) + 1, Kind::Incompatible),
                (u32::MAX, Kind::Incompatible),
            ] {
                let said = [&payload[..end], &size.to_le_bytes()].concat();
                assert_eq!(kind(&bz_image(1, &said)), expected, "{how} {size}");
            }
        }
    }

    #[test]
    fn a_bomb_is_left_where_it_passes_its_size() {
        // Each would become 64 MiB.
        let mut kernel = vec![0; 64 << 20];
        elf(&mut kernel);
        for how in ALL {
            let mut payload = packed(how, &kernel);
            let end = payload.len() - 4;
            payload[end..].copy_from_slice(&100_000u32.to_le_bytes());
            assert_eq!(kind(&bz_image(1, &payload)), Kind::Integrity, "{how}");
        }
        // A block of lz4 that stands for more than a block may.
        let block = lz4_flex::block::compress(&kernel[..LZ4_BLOCK + 1]);
        let size = (LZ4_BLOCK as u32 + 1).to_le_bytes();
        let payload = [&[0x02, 0x21, 0x4c, 0x18], &(block.len() as u32).to_le_bytes()[..], &block, &size];
        assert_eq!(kind(&bz_image(1, &payload.concat())), Kind::Integrity);
    }

    #[test]
    fn what_unpacks_to_no_kernel_is_refused() {
        for how in ALL {
            for content in [&b""[..], b"\x7fELF\x02\x01", &[1; 4096]] {
                assert_eq!(kind(&bz_image(1, &packed(how, content))), Kind::Integrity, "{how}");
            }
        }
    }

    #[test]
    fn headers_are_not_believed() {
        let mut kernel = vec![7; 5000];
        elf(&mut kernel);
        let good = bz_image(1, &packed("zstd", &kernel));
        let changed = |at: usize, bytes: &[u8]| {
            let mut image = good.clone();
            image[at..at + bytes.len()].copy_from_slice(bytes);
            kind(&image)
        };
        assert_eq!(changed(0x206, &[7, 2]), Kind::Incompatible, "too old");
        assert_eq!(changed(0x248, &[0xff; 4]), Kind::Integrity, "offset");
        assert_eq!(changed(0x24c, &[0xff; 4]), Kind::Integrity, "length");
        assert_eq!(changed(0x248, &[0xff; 8]), Kind::Integrity, "both");
        assert_eq!(changed(0x1f1, &[255]), Kind::Integrity, "sectors");
        assert_eq!(changed(0x202, b"hdrs"), Kind::Incompatible, "no header");
        for length in 0..4 {
            assert_eq!(changed(0x24c, &[length, 0, 0, 0]), Kind::Integrity, "{length}");
        }
        for length in [0, 1, 0x1f1, HEADER - 1] {
            assert_eq!(kind(&good[..length]), Kind::Incompatible, "{length}");
        }
    }

    #[test]
    fn files_that_are_too_long_are_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut head = vec![0; 64];
        elf(&mut head);
        std::fs::write(file.path(), &head).unwrap();
        file.as_file().set_len(LONGEST as u64 + 1).unwrap();
        assert_eq!(vmlinux(file.path()).unwrap_err().kind(), Kind::Incompatible);
        std::fs::write(file.path(), bz_image(1, &[])).unwrap();
        file.as_file().write_all_at(&(LONGEST as u32 + 1).to_le_bytes(), 0x24c).unwrap();
        file.as_file().set_len(1 << 40).unwrap();
        assert_eq!(vmlinux(file.path()).unwrap_err().kind(), Kind::Incompatible);
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let mut kernel: Vec<u8> = (0..4000u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        elf(&mut kernel);
        for how in ALL {
            // lz4 has no sum; and a program is started for each xz.
            let step = if how == "xz" { 997 } else { 13 };
            let good = bz_image(1, &packed(how, &kernel));
            let start = 1024 + OFFSET;
            for at in (start..good.len() - 700).step_by(step) {
                assert!(of(&good[..at]).is_err(), "{how} {at}");
                for bit in [1, 0x80] {
                    let mut image = good.clone();
                    image[at] ^= bit;
                    match of(&image) {
                        Ok(found) if how == "lz4" => assert_eq!(found.len(), kernel.len()),
                        Ok(found) => assert!(found == kernel, "{how} {at}"),
                        Err(error) => {
                            assert!(matches!(error.kind(), Kind::Integrity | Kind::Incompatible), "{error}")
                        }
                    }
                }
            }
        }
    }
}
