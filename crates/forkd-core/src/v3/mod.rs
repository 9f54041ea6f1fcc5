//! Pack format 3: frames of pages that refer to pages that are known already.

mod assemble;
mod decode;
mod encode;
mod head;
mod search;
mod sources;

pub(crate) use assemble::{Assembly, Feed, Feeder, Target};
pub(crate) use decode::Pages;
pub(crate) use encode::{Encoded, Place, encode};
pub(crate) use head::{Head, read_exact};
pub(crate) use search::{PageRef, Search};
pub(crate) use sources::SourceFile;

use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
