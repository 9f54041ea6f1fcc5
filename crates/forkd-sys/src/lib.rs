//! What the operating system must be asked for directly: sparse files, atomic renames, locks, child processes.
//! All of the host's unsafe code is here; a guest's is in crates/forkd-agent/src/agent/sys.rs.

mod child;
mod disk;
mod filter;
mod fuse;
mod lock;
mod socket;
mod sparse;

pub use child::{
    die_with_parent, inherit, join_cgroup, kill, new_session, process_of, small_pages, terminate, user_id,
};
pub use disk::{Call, DiskIo, Probe, SHARED_DIR, create_private_dirs, for_group};
pub use filter::no_huge_reads;
pub use fuse::{FuseMount, mount_fuse};
pub use lock::{LockKind, NO_FOLLOW, try_lock};
pub use socket::{connect, is_hung_up, listen};
pub use sparse::{
    allocate, allocated, copy_sparse, free_space, is_zero, next_data, next_hole, punch_hole, start_writeback,
};
