//! Where packs lie: web servers and local folders.
#![forbid(unsafe_code)]

mod assets;
mod folder;
mod layout;
mod objects;
mod web;

use forkd_core::hub::{Answer, Location, PartUrls, Remote, Request};
use forkd_core::{Cancel, Progress, Result};
use forkd_http::HttpClient;
use std::path::Path;

pub use assets::AssetFolder;
pub use forkd_http::{HttpOptions, SharedAuthority, WebAuthority};
pub use layout::LayoutRepository;
pub use objects::catalogue::ObjectCatalogue;
pub use objects::collect::{CollectOptions, CollectReport, collect, unreferenced};
pub use objects::folder::FolderObjects;
pub use objects::init::init;
pub use objects::object_hub::packages;
pub use objects::port::{ObjectInfo, Objects};
pub use objects::profile::AwsSettings;
pub use objects::registry::ObjectRegistry;
pub use objects::repository::ObjectRepository;
pub use objects::s3::{BucketPlace, S3Objects};
pub use web::{WebRepository, web_packages};

/// All transports; which one serves a location is decided by its scheme.
#[derive(Debug)]
pub struct AnyRemote {
    http: HttpClient,
    offline: bool,
}

impl AnyRemote {
    /// Transports with these settings.
    ///
    /// # Errors
    /// [`forkd_core::Kind::General`] where TLS or the proxy settings cannot be set up.
    pub fn new(options: &HttpOptions) -> Result<Self> {
        Ok(Self { http: HttpClient::new(options)?, offline: options.offline })
    }
}

impl Remote for AnyRemote {
    fn is_offline(&self) -> bool {
        self.offline
    }

    fn request(&self, location: &Location, request: &Request, cancel: &Cancel) -> Result<Answer> {
        if location.url().scheme() == "file" {
            folder::request(location, request)
        } else {
            self.http.request(location, request, cancel)
        }
    }

    fn ask_to_put(&self, location: &Location, cancel: &Cancel) -> Result<()> {
        if location.url().scheme() == "file" {
            folder::ask_to_put(location)
        } else {
            self.http.ask_to_put(location, cancel)
        }
    }

    fn put(&self, location: &Location, file: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        if location.url().scheme() == "file" {
            folder::put(location, file, progress, cancel)
        } else {
            self.http.put(location, file, progress, cancel)
        }
    }

    fn put_parts(
        &self,
        urls: &PartUrls,
        file: &Path,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<()> {
        self.http.put_parts(urls, file, progress, cancel)
    }
}
