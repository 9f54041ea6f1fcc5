//! What is known of registries before one is spoken to.

use crate::credentials::CredentialFiles;
use forkd_http::HttpOptions;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How registries are spoken to.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    pub http: HttpOptions,
    /// Where containers' tools keep credentials.
    pub files: CredentialFiles,
    /// Hosts that are spoken to without TLS, because the user says so.
    pub plain: Vec<String>,
    /// Hosts of token servers that may be told passwords of other hosts' registries.
    pub realms: Vec<String>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
