//! What a shell may offer behind a command.

use crate::config;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use std::ffi::OsStr;

/// The tags in the store.
pub(crate) fn tags() -> ArgValueCompleter {
    ArgValueCompleter::new(|begun: &OsStr| {
        let begun = begun.to_string_lossy();
        let tags = config::store().and_then(|store| store.tags()).unwrap_or_default();
        let fitting = tags.into_iter().filter(|tag| tag.as_str().starts_with(&*begun));
        fitting.map(|tag| CompletionCandidate::new(tag.as_str())).collect()
    })
}
