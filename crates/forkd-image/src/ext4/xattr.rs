//! Extended attributes: in the inode where they fit, else in a block of their own.

use crate::ext4::bytes::{BLOCK, put16, put32};
use std::borrow::Cow;

const MAGIC: u32 = 0xea02_0000;
const ENTRY: usize = 16;
const BLOCK_HEADER: usize = 32;
/// What the attributes of one file may take, in bytes, names and values.
pub(crate) const MAX_XATTRS: usize = BLOCK - BLOCK_HEADER - 4;

/// The number for a name's prefix, and the rest of it; `None` for one that ext4 has no place for.
pub(crate) fn name_index(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((2, b"")),
        b"system.posix_acl_default" => return Some((3, b"")),
        _ => {}
    }
    let prefixes: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
    let found = prefixes.iter().find_map(|(prefix, index)| Some((*index, name.strip_prefix(*prefix)?)));
    found.filter(|(_, rest)| !rest.is_empty() && rest.len() <= 255)
}

/// An access control list as it lies on the disk (version 1), from what programs see of it (version 2); `None` where it is none.
fn acl(value: &[u8]) -> Option<Vec<u8>> {
    let entries = value.strip_prefix(&2u32.to_le_bytes())?;
    let mut out = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks(8) {
        let entry: &[u8; 8] = entry.try_into().ok()?;
        out.extend_from_slice(&entry[..4]);
        match u16::from_le_bytes([entry[0], entry[1]]) {
            // Of a named user or group: its number follows.
            2 | 8 => out.extend_from_slice(&entry[4..]),
            1 | 4 | 0x10 | 0x20 => {}
            _ => return None,
        }
    }
    Some(out)
}

struct Attribute<'a> {
    index: u8,
    name: &'a [u8],
    value: Cow<'a, [u8]>,
}

impl Attribute<'_> {
    /// As the kernel hashes an entry: its name, then its value in words.
    fn hash(&self) -> u32 {
        let hash = self.name.iter().fold(0u32, |hash, c| hash.rotate_left(5) ^ u32::from(*c));
        self.value.chunks(4).fold(hash, |hash, word| {
            let mut bytes = [0; 4];
            bytes[..word.len()].copy_from_slice(word);
            hash.rotate_left(16) ^ u32::from_le_bytes(bytes)
        })
    }
}

/// Those that can be kept, in the order in which they must lie.
fn attributes(xattrs: &[(Vec<u8>, Vec<u8>)]) -> Vec<Attribute<'_>> {
    let mut all: Vec<_> = xattrs
        .iter()
        .filter_map(|(name, value)| {
            let (index, name) = name_index(name)?;
            let value = if matches!(index, 2 | 3) {
                Cow::Owned(acl(value)?)
            } else {
                Cow::Borrowed(value.as_slice())
            };
            Some(Attribute { index, name, value })
        })
        .collect();
    all.sort_by(|a, b| (a.index, a.name.len(), a.name).cmp(&(b.index, b.name.len(), b.name)));
    all
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Entries from `first` on, values from the end back; offsets count from `base`. False where there is no room.
fn place(area: &mut [u8], first: usize, base: usize, all: &[Attribute<'_>]) -> bool {
    let (mut at, mut end) = (first, area.len());
    for one in all {
        let size = ENTRY + padded(one.name.len());
        let room = padded(one.value.len());
        // Four zero bytes end the entries.
        if at + size + 4 + room > end {
            return false;
        }
        end -= room;
        area[at] = one.name.len() as u8;
        area[at + 1] = one.index;
        put16(area, at + 2, if one.value.is_empty() { 0 } else { (end - base) as u16 });
        put32(area, at + 8, one.value.len() as u32);
        put32(area, at + 12, one.hash());
        area[at + ENTRY..at + ENTRY + one.name.len()].copy_from_slice(one.name);
        area[end..end + one.value.len()].copy_from_slice(&one.value);
        at += size;
    }
    true
}

/// Where the attributes of a file go.
pub(super) enum Placed {
    Nowhere,
    /// Into the inode, behind its fields.
    Inside(Vec<u8>),
    Block(Vec<u8>),
}

/// `room` is that behind the inode's fields, in bytes.
pub(super) fn place_all(xattrs: &[(Vec<u8>, Vec<u8>)], room: usize) -> Result<Placed, String> {
    let all = attributes(xattrs);
    if all.is_empty() {
        return Ok(Placed::Nowhere);
    }
    let mut inside = vec![0; room];
    put32(&mut inside, 0, MAGIC);
    if place(&mut inside, 4, 4, &all) {
        return Ok(Placed::Inside(inside));
    }
    let mut block = vec![0; BLOCK];
    if !place(&mut block, BLOCK_HEADER, 0, &all) {
        return Err(format!("its extended attributes take more than {MAX_XATTRS} bytes"));
    }
    let hash = all.iter().fold(0u32, |hash, one| hash.rotate_left(16) ^ one.hash());
    for (at, value) in [(0, MAGIC), (4, 1), (8, 1), (12, hash)] {
        put32(&mut block, at, value);
    }
    Ok(Placed::Block(block))
}
