//! Inodes, extents and directories.

use crate::ext4::blocks::{Blocks, Extent};
use crate::ext4::bytes::{BLOCK, put16, put32};
use crate::ext4::xattr::{Placed, place_all};
use forkd_core::{Error, Kind, Result};

/// Size of an inode in bytes.
pub(super) const INODE: usize = 256;
/// Of it, the fields that we write.
const FIELDS: usize = 160;
const EXTENTS_FL: u32 = 0x8_0000;
/// Entries of an extent tree in the inode, and in a block.
const IN_INODE: usize = 4;
const IN_BLOCK: usize = (BLOCK - 12) / 12;
/// The most blocks that one extent holds.
const MAX_EXTENT: u32 = 32_768;
/// The most links that a folder counts; with more it says 1 (dir_nlink).
const MAX_LINKS: u32 = 65_000;

/// What an inode holds.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    /// A file or folder: its bytes lie in these extents, in their order.
    Extents(u64, &'a [Extent]),
    /// A symbolic link to there.
    Link(&'a [u8]),
    /// A device, by its major and minor number.
    Device(u32, u32),
    Nothing,
}

/// An inode.
#[derive(Debug)]
pub(crate) struct Inode<'a> {
    /// Type and permissions, as `st_mode`.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
    pub(crate) content: Content<'a>,
}

impl Inode<'_> {
    /// Its bytes; what does not fit into them is written to blocks.
    pub(crate) fn encode(&self, blocks: &mut Blocks, name: &dyn Fn() -> String) -> Result<[u8; INODE]> {
        let refuse = |why: String| Error::new(Kind::General, format!("{}: {why}", name()));
        let mut out = [0; INODE];
        let (mut used, mut flags, mut size) = (0u32, 0, 0);
        match &self.content {
            Content::Nothing => {}
            Content::Device(major, minor) => {
                // The kernel's old encoding where the numbers fit into it, else the new one in the second word.
                if *major < 256 && *minor < 256 {
                    put32(&mut out, 40, major << 8 | minor);
                } else {
                    put32(&mut out, 44, minor & 0xff | major << 8 | (minor & !0xff) << 12);
                }
            }
            Content::Link(target) if target.len() < 60 => {
                size = target.len() as u64;
                out[40..40 + target.len()].copy_from_slice(target);
            }
            Content::Link(target) => {
                let block = blocks.take()?;
                blocks.write(block, target)?;
                (size, flags, used) = (target.len() as u64, EXTENTS_FL, 1);
                let extent = Extent { logical: 0, start: block, len: 1 };
                extent_tree(&[extent], &mut out[40..100], blocks)?;
            }
            Content::Extents(bytes, extents) => {
                (size, flags) = (*bytes, EXTENTS_FL);
                used = extents.iter().map(|extent| extent.len).sum();
                used += extent_tree(extents, &mut out[40..100], blocks)?;
            }
        }
        match place_all(self.xattrs, INODE - FIELDS).map_err(refuse)? {
            Placed::Nowhere => {}
            Placed::Inside(bytes) => out[FIELDS..].copy_from_slice(&bytes),
            Placed::Block(bytes) => {
                let block = blocks.take()?;
                blocks.write(block, &bytes)?;
                put32(&mut out, 104, block);
                used += 1;
            }
        }
        let links = if self.mode & 0o170_000 == 0o040_000 && self.links > MAX_LINKS { 1 } else { self.links };
        let links = u16::try_from(links).map_err(|_| refuse(format!("{links} hard links; at most 65000")))?;
        for (at, value) in [
            (0, self.mode as u16),
            (2, self.uid as u16),
            (24, self.gid as u16),
            (26, links),
            (120, (self.uid >> 16) as u16),
            (122, (self.gid >> 16) as u16),
            (128, (FIELDS - 128) as u16),
        ] {
            put16(&mut out, at, value);
        }
        // Blocks are counted in sectors of 512 bytes; more than 2 TiB would need another feature.
        let sectors = u64::from(used) * (BLOCK as u64 / 512);
        put32(&mut out, 28, u32::try_from(sectors).map_err(|_| refuse("more than 2 TiB".into()))?);
        put32(&mut out, 4, size as u32);
        put32(&mut out, 108, (size >> 32) as u32);
        put32(&mut out, 32, flags);
        let (seconds, nanoseconds) = self.mtime;
        // 34 bits, from 1901 to 2446.
        let seconds = seconds.clamp(i64::from(i32::MIN), 0x3_7fff_ffff);
        let low = seconds as i32;
        let epoch = ((seconds - i64::from(low)) >> 32) as u32 & 3;
        // Access, change, modification and creation, and what does not fit into their 32 bits.
        for (at, extra) in [(8, 140), (12, 132), (16, 136), (144, 148)] {
            put32(&mut out, at, low as u32);
            put32(&mut out, extra, nanoseconds << 2 | epoch);
        }
        Ok(out)
    }
}

fn header(out: &mut [u8], entries: usize, max: usize, depth: u16) {
    put16(out, 0, 0xf30a);
    put16(out, 2, entries as u16);
    put16(out, 4, max as u16);
    put16(out, 6, depth);
}

/// Writes the tree of extents, its root into the inode; says how many blocks the rest of it took.
fn extent_tree(extents: &[Extent], root: &mut [u8], blocks: &mut Blocks) -> Result<u32> {
    let mut entries: Vec<[u8; 12]> = Vec::new();
    for extent in extents {
        let mut done = 0;
        while done < extent.len {
            let len = (extent.len - done).min(MAX_EXTENT);
            let mut entry = [0; 12];
            put32(&mut entry, 0, extent.logical + done);
            put16(&mut entry, 4, len as u16);
            put32(&mut entry, 8, extent.start + done);
            entries.push(entry);
            done += len;
        }
    }
    let (mut depth, mut used) = (0, 0);
    while entries.len() > IN_INODE {
        let mut above = Vec::new();
        for chunk in entries.chunks(IN_BLOCK) {
            let mut bytes = vec![0; BLOCK];
            header(&mut bytes, chunk.len(), IN_BLOCK, depth);
            bytes[12..12 + chunk.len() * 12].copy_from_slice(chunk.as_flattened());
            let block = blocks.take()?;
            blocks.write(block, &bytes)?;
            used += 1;
            let mut entry = [0; 12];
            entry[..4].copy_from_slice(&chunk[0][..4]);
            put32(&mut entry, 4, block);
            above.push(entry);
        }
        entries = above;
        depth += 1;
    }
    header(root, entries.len(), IN_INODE, depth);
    root[12..12 + entries.len() * 12].copy_from_slice(entries.as_flattened());
    Ok(used)
}

/// The blocks of a folder: entries of a name, an inode and its type, none across the end of a block.
pub(crate) fn directory<'a>(entries: impl Iterator<Item = (&'a [u8], u32, u32)>) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    let mut last = 0;
    for (name, inode, mode) in entries {
        let size = (8 + name.len()).next_multiple_of(4);
        let left = out.len().next_multiple_of(BLOCK) - out.len();
        if out.is_empty() || left < size {
            // The last one of a block reaches to its end.
            let end = out.len() + left;
            if !out.is_empty() {
                put16(&mut out, last + 4, (end - last) as u16);
            }
            out.resize(end, 0);
        }
        last = out.len();
        out.resize(last + size, 0);
        put32(&mut out, last, inode);
        put16(&mut out, last + 4, size as u16);
        out[last + 6] = name.len() as u8;
        out[last + 7] = match mode & 0o170_000 {
            0o100_000 => 1,
            0o040_000 => 2,
            0o010_000 => 5,
            0o120_000 => 7,
            _ => 0,
        };
        out[last + 8..last + 8 + name.len()].copy_from_slice(name);
    }
    let end = out.len().next_multiple_of(BLOCK);
    put16(&mut out, last + 4, (end - last) as u16);
    out.resize(end, 0);
    out
}
