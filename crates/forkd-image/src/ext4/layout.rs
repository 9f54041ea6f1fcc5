//! The superblock, the groups, their bitmaps and inode tables.

use crate::ext4::blocks::Blocks;
use crate::ext4::bytes::{BLOCK, put16, put32};
use crate::ext4::inode::INODE;
use forkd_core::{Error, Kind, Result};

/// The inode of the root folder, of `lost+found`, and the first that is free for others.
pub(crate) const ROOT: u32 = 2;
pub(crate) const LOST_AND_FOUND: u32 = 11;
pub(crate) const FIRST_INODE: u32 = 12;
const GROUP_BLOCKS: u32 = 32_768;
const DESCRIPTOR: u32 = 32;
const INODES_PER_BLOCK: u32 = (BLOCK / INODE) as u32;
/// One inode for so many bytes of the disk.
const BYTES_PER_INODE: u64 = 16_384;
/// Every disk has the same: what is made of the same is the same.
const UUID: [u8; 16] = *b"forkd\0\x80\0\x80\0rootfs";

/// How a disk is divided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    blocks: u32,
    groups: u32,
    inodes_per_group: u32,
}

impl Layout {
    /// Blocks at the front that are the superblock's and its descriptors', on a disk of so many bytes.
    pub(crate) fn reserved(bytes: u64) -> Result<u32> {
        let groups = Self::block_count(bytes)?.div_ceil(GROUP_BLOCKS);
        Ok(1 + (groups * DESCRIPTOR).div_ceil(BLOCK as u32))
    }

    pub(crate) fn block_count(bytes: u64) -> Result<u32> {
        let blocks = u32::try_from(bytes / BLOCK as u64).ok().filter(|blocks| *blocks < u32::MAX);
        blocks.ok_or_else(|| Error::new(Kind::Usage, "a disk has less than 16 TiB"))
    }

    /// A disk with room for so many inodes, and for others.
    pub(crate) fn new(bytes: u64, inodes: u32) -> Result<Self> {
        let blocks = Self::block_count(bytes)?;
        let groups = blocks.div_ceil(GROUP_BLOCKS).max(1);
        let wanted = (bytes / BYTES_PER_INODE).max(u64::from(inodes) + u64::from(inodes) / 4 + 1024);
        let per_group = wanted.div_ceil(groups.into()).next_multiple_of(INODES_PER_BLOCK.into());
        let inodes_per_group = u32::try_from(per_group).ok().filter(|count| *count <= 8 * BLOCK as u32);
        let inodes_per_group = inodes_per_group.ok_or_else(|| {
            Error::new(Kind::Usage, format!("{inodes} files need a larger disk than {} MiB", bytes >> 20))
        })?;
        Ok(Self { blocks, groups, inodes_per_group })
    }

    fn table_blocks(&self) -> u32 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    /// Writes all that is not data. `inodes` are those from the first one on, `folders` how many of them are folders of each group.
    pub(crate) fn write(&self, inodes: &[[u8; INODE]], blocks: &mut Blocks, reserved: u32) -> Result<()> {
        let own = 1 + (self.groups * DESCRIPTOR).div_ceil(BLOCK as u32);
        if own < reserved {
            blocks.give(own, reserved - own)?;
        }
        blocks.set_limit(self.blocks);
        let bitmaps = blocks.take_run(self.groups * 2)?;
        let tables = blocks.take_run(self.groups * self.table_blocks())?;
        let used_end = blocks.end();
        let free = blocks.free().to_vec();
        let mut descriptors = vec![0; (self.groups * DESCRIPTOR) as usize];
        let (mut free_blocks, mut free_inodes) = (0u32, 0u32);
        for group in 0..self.groups {
            let first = group * GROUP_BLOCKS;
            let len = GROUP_BLOCKS.min(self.blocks - first);
            let mut bitmap = vec![0; BLOCK];
            set(&mut bitmap, 0, used_end.saturating_sub(first).min(len), true);
            for (start, count) in &free {
                let from = (*start).max(first);
                let to = (start + count).min(first + len);
                if from < to {
                    set(&mut bitmap, from - first, to - first, false);
                }
            }
            let used = bitmap.iter().map(|byte: &u8| byte.count_ones()).sum::<u32>();
            // Behind the end there is nothing to be had.
            set(&mut bitmap, len, GROUP_BLOCKS, true);
            blocks.write(bitmaps + group * 2, &bitmap)?;

            let mine = (inodes.len() as u32)
                .saturating_sub(group * self.inodes_per_group)
                .min(self.inodes_per_group);
            let mut bitmap = vec![0; BLOCK];
            set(&mut bitmap, 0, mine, true);
            set(&mut bitmap, self.inodes_per_group, 8 * BLOCK as u32, true);
            blocks.write(bitmaps + group * 2 + 1, &bitmap)?;
            let table = tables + group * self.table_blocks();
            let from = (group * self.inodes_per_group) as usize;
            let of_group = inodes.get(from..from + mine as usize).unwrap_or_default();
            if !of_group.is_empty() {
                blocks.write(table, of_group.as_flattened())?;
            }
            let folders = of_group.iter().filter(|inode| inode[1] & 0xf0 == 0x40).count();

            let descriptor = &mut descriptors[(group * DESCRIPTOR) as usize..][..DESCRIPTOR as usize];
            put32(descriptor, 0, bitmaps + group * 2);
            put32(descriptor, 4, bitmaps + group * 2 + 1);
            put32(descriptor, 8, table);
            put16(descriptor, 12, (len - used) as u16);
            put16(descriptor, 14, (self.inodes_per_group - mine) as u16);
            put16(descriptor, 16, folders as u16);
            free_blocks += len - used;
            free_inodes += self.inodes_per_group - mine;
        }
        blocks.write(1, &descriptors)?;
        blocks.write_at(1024, &self.superblock(free_blocks, free_inodes))?;
        blocks.set_len(u64::from(self.blocks) * BLOCK as u64)
    }

    fn superblock(&self, free_blocks: u32, free_inodes: u32) -> [u8; 1024] {
        let mut out = [0; 1024];
        for (at, value) in [
            (0, self.groups * self.inodes_per_group),
            (4, self.blocks),
            (12, free_blocks),
            (16, free_inodes),
            (24, 2), // blocks of 1024 << 2 bytes
            (28, 2),
            (32, GROUP_BLOCKS),
            (36, GROUP_BLOCKS),
            (40, self.inodes_per_group),
            (76, 1), // dynamic inode sizes
            (84, 11),
            (92, 0x8 | 0x20 | 0x200), // ext_attr, dir_index, sparse_super2
            (96, 0x2 | 0x40 | 0x200), // filetype, extents, flex_bg
            (100, 0x2 | 0x20 | 0x40), // large_file, dir_nlink, extra_isize
            (256, 0x4 | 0x8),         // mounted with user_xattr and acl
            (352, 1),                 // hashes of names take characters as signed
        ] {
            put32(&mut out, at, value);
        }
        // Not to be checked after so many mounts; magic; clean; go on after errors; size of inodes.
        for (at, value) in
            [(54, 0xffff), (56, 0xef53), (58, 1), (60, 1), (88, INODE as u16), (348, 32), (350, 32)]
        {
            put16(&mut out, at, value);
        }
        out[104..120].copy_from_slice(&UUID);
        out[236..252].copy_from_slice(&UUID);
        out[252] = 1; // names are hashed by half MD4
        out[372] = 4; // 16 groups lie together
        out
    }
}

/// Sets or clears bits `from..to`.
fn set(bitmap: &mut [u8], from: u32, to: u32, on: bool) {
    for at in from..to {
        let (byte, bit) = ((at / 8) as usize, 1 << (at % 8));
        if on { bitmap[byte] |= bit } else { bitmap[byte] &= !bit }
    }
}
