//! Writing an ext4 filesystem into a file: from top to bottom, no block twice, nothing but holes where nothing is. Layout and numbers
//! as the kernel's documentation has them ("ext4 Data Structures and Algorithms", docs.kernel.org/filesystems/ext4).
//!
//! Blocks of 4 KiB, inodes of 256 bytes, no journal (a child's disk ends with the child), no checksums, one superblock. Bitmaps and
//! inode tables lie behind all data (flex_bg), so that data is written before anyone knows how much there is.

mod blocks;
mod bytes;
mod inode;
mod layout;
mod xattr;

pub(crate) use blocks::{Blocks, Extent};
pub(crate) use bytes::BLOCK;
pub(crate) use inode::{Content, Inode, directory};
pub(crate) use layout::{FIRST_INODE, LOST_AND_FOUND, Layout, ROOT};
pub(crate) use xattr::{MAX_XATTRS, name_index};
