//! Work on all cores in bounded memory.

pub(crate) mod buffers;
pub(crate) mod each;
pub(crate) mod lanes;
pub(crate) mod mutex;
