//! Where a `registry.json` comes from, and where what it names lies.

use crate::cache::answers::AnswerCache;
use crate::cache::folder::Cache;
use crate::env::Cancel;
use crate::error::Result;
use crate::hub::remote::{Location, Remote};
use forkd_format::registry::MAX_REGISTRY;

/// A registry's text and surroundings.
pub trait RegistrySource: Send + Sync {
    /// How messages name it; never with a secret.
    fn name(&self) -> String;

    /// The text as it is now.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] and what the transport says.
    fn text(&self, cancel: &Cancel) -> Result<String>;

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
        AnswerCache(self.cache).get_text(self.remote, &self.index, MAX_REGISTRY, cancel)
    }

    fn locate(&self, url: &str) -> Result<Location> {
        self.index.join(url)
    }

    fn is_local(&self) -> bool {
        self.index.url().scheme() == "file"
    }
}
