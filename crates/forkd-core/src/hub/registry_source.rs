//! Where a `registry.json` comes from, and where what it names lies.

use crate::cache::folder::Cache;
use crate::cache::registries::RegistryCache;
use crate::env::Cancel;
use crate::error::Result;
use crate::hub::remote::{Location, Remote};

/// A registry's text and surroundings.
pub trait RegistrySource: Send + Sync {
    /// How messages name it; never with a secret.
    fn name(&self) -> String;

    /// The text as it is now.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] and what the transport says.
    fn text(&self, cancel: &Cancel) -> Result<String>;

    /// A registry of the packages that are wanted, of their names and descriptions, and perhaps of more.
    ///
    /// # Errors
    /// As [`RegistrySource::text`].
    fn part(&self, wanted: &dyn Fn(&str, Option<&str>) -> bool, cancel: &Cancel) -> Result<String> {
        let _ = wanted;
        self.text(cancel)
    }

    /// Where something lies that the registry names.
    ///
    /// # Errors
    /// Where that is no URL.
    fn locate(&self, url: &str) -> Result<Location>;

    /// Whether the registry lies on this host, so that it may name files of it.
    fn is_local(&self) -> bool;
}

/// A registry behind a URL. With a cache, one that has not changed is not sent again.
#[derive(Clone)]
pub(crate) struct WebRegistry<'a> {
    pub(crate) remote: &'a dyn Remote,
    pub(crate) index: Location,
    pub(crate) cache: Option<&'a Cache>,
}

impl RegistrySource for WebRegistry<'_> {
    fn name(&self) -> String {
        self.index.to_string()
    }

    fn text(&self, cancel: &Cancel) -> Result<String> {
        RegistryCache(self.cache).get(self.remote, &self.index, None, cancel)
    }

    fn part(&self, wanted: &dyn Fn(&str, Option<&str>) -> bool, cancel: &Cancel) -> Result<String> {
        RegistryCache(self.cache).get(self.remote, &self.index, Some(wanted), cancel)
    }

    fn locate(&self, url: &str) -> Result<Location> {
        self.index.join(url)
    }

    fn is_local(&self) -> bool {
        self.index.url().scheme() == "file"
    }
}
