//! Checksums and digests of files, computed while their bytes go by.

pub(crate) mod block_sums;
pub(crate) mod checked_reader;
pub(crate) mod file_digest;
pub(crate) mod file_root;
pub(crate) mod sparse;
