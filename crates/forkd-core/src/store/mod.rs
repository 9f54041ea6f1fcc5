//! The local store (`docs/format/store.md`): one folder a tag, work in progress beside them, locks.

pub(crate) mod arrival_note;
pub(crate) mod by_content;
pub(crate) mod by_source;
pub(crate) mod chain_memory;
pub(crate) mod lock;
pub(crate) mod record;
pub(crate) mod root;
pub(crate) mod sharing;
pub(crate) mod small_file;
pub(crate) mod staged;
pub(crate) mod stored;
pub(crate) mod usage;
pub(crate) mod work_file;
pub(crate) mod workdir;

pub use lock::{LockKind, TagLock};
pub use record::{Provenance, Record, RecordedFile};
pub use sharing::{Sharing, SharingReport};
pub use stored::StoredSnapshot;
pub use workdir::ScratchStore;
