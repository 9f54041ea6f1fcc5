/// The unit in which zero bytes become holes, in bytes. Equal to the page size of every guest we run.
pub const PAGE_SIZE: usize = 4096;

/// A frame never spans an aligned piece of this many bytes of one file (`docs/format/pack.md`).
pub const PIECE_SIZE: usize = 4 << 20;
