//! Pack format 3: frames of pages that refer to pages that are known already.

mod decode;
mod encode;
mod search;
mod sources;

pub(crate) use encode::{Encoded, Place, encode};
pub(crate) use search::Search;
pub(crate) use sources::SourceFile;

use std::sync::{Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
