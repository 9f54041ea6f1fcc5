//! Where packs lie: web servers and local folders.
#![forbid(unsafe_code)]

mod folder;
mod http;

use forkd_core::remote::{Download, Location, Remote};
use forkd_core::{Cancel, Progress, Result};
use std::path::Path;

pub use http::HttpOptions;

/// All transports; which one serves a location is decided by its scheme.
#[derive(Debug)]
pub struct AnyRemote {
    http: http::Http,
}

impl AnyRemote {
    /// Transports with these settings.
    ///
    /// # Errors
    /// [`forkd_core::Kind::General`] where TLS or the proxy settings cannot be set up.
    pub fn new(options: &HttpOptions) -> Result<Self> {
        Ok(Self { http: http::Http::new(options)? })
    }
}

impl Remote for AnyRemote {
    fn get(&self, location: &Location, cancel: &Cancel) -> Result<Download> {
        if location.url().scheme() == "file" {
            folder::get(location)
        } else {
            self.http.get(location, cancel)
        }
    }

    fn put(&self, location: &Location, file: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        if location.url().scheme() == "file" {
            folder::put(location, file, progress, cancel)
        } else {
            self.http.put(location, file, progress, cancel)
        }
    }
}
