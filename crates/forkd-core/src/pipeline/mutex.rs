use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; what a thread that panicked left is taken as it is, for its failure is told elsewhere.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
