//! Releases in repositories: published, listed, taken away.

use crate::app::App;
use crate::settings::Settings;
use forkd_core::hub::{ManifestName, Remote, Repository};
use forkd_core::{Error, Kind, ReleaseOptions, ReleaseReport, ReleaseTarget, Result};
use forkd_registry::{LoginReport, RegistryReference, RegistryRepository, Secret};
use forkd_remote::{AnyRemote, HttpOptions, LayoutRepository};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a release is: a repository and a name in it.
#[derive(Debug, Clone)]
pub enum ReleasePlace {
    /// `oci://HOST/NAME[:TAG][@sha256:HEX]`.
    Registry(RegistryReference),
    /// `oci-layout:DIR[:TAG]`: a folder.
    Layout { dir: PathBuf, tag: Option<String> },
}

/// A repository, and what reads its blobs.
pub(crate) struct OpenRepository {
    pub(crate) repository: Arc<dyn Repository>,
    pub(crate) remote: Arc<dyn Remote>,
}

/// What a repository holds.
#[derive(Debug, Clone, Serialize)]
pub struct TagsReport {
    pub repository: String,
    pub tags: Vec<String>,
}

/// What was taken away.
#[derive(Debug, Clone, Serialize)]
pub struct RemoteRemoval {
    pub repository: String,
    pub tag: String,
}

impl ReleasePlace {
    /// Reads a place; `None` where the text is of another kind.
    ///
    /// # Errors
    /// [`Kind::Usage`].
    pub fn parse(text: &str) -> Result<Option<Self>> {
        if text.starts_with("oci://") {
            return RegistryReference::parse_url(text).map(Self::Registry).map(Some);
        }
        let Some(rest) = text.strip_prefix("oci-layout:") else { return Ok(None) };
        let (dir, tag) = rest.split_once(':').map_or((rest, None), |(dir, tag)| (dir, Some(tag)));
        if dir.is_empty() || tag == Some("") {
            return Err(Error::new(
                Kind::Usage,
                "'oci-layout:' names no folder; expected oci-layout:DIR[:TAG]",
            ));
        }
        let dir = std::path::absolute(dir).map_err(Error::io("find", Path::new(dir)))?;
        Ok(Some(Self::Layout { dir, tag: tag.map(str::to_owned) }))
    }

    /// The tag; `latest` where neither tag nor digest is named.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match self {
            Self::Registry(reference) => reference.tag(),
            Self::Layout { tag, .. } => Some(tag.as_deref().unwrap_or("latest")),
        }
    }

    /// What names the release in the repository.
    #[must_use]
    pub fn name(&self) -> ManifestName {
        match self {
            Self::Registry(reference) => match reference.digest() {
                Some(digest) => ManifestName::Digest(*digest),
                None => ManifestName::Tag(reference.tag().unwrap_or("latest").to_owned()),
            },
            Self::Layout { .. } => ManifestName::Tag(self.tag().unwrap_or("latest").to_owned()),
        }
    }

    /// How what was pulled from there is recorded.
    pub(crate) fn recorded(&self) -> String {
        match self {
            Self::Registry(reference) => format!("{}:{}", reference.url(), self.name()),
            Self::Layout { dir, .. } => format!("oci-layout:{}:{}", dir.display(), self.name()),
        }
    }

    pub(crate) fn open(
        &self,
        settings: &Settings,
        limit_rate: Option<u64>,
        writes: bool,
    ) -> Result<OpenRepository> {
        let limit_rate = limit_rate.or(settings.http.limit_rate);
        let http = HttpOptions { limit_rate, ..settings.http.clone() };
        Ok(match self {
            Self::Registry(reference) => {
                let mut options = settings.registry();
                options.http = http;
                let open = if writes { RegistryRepository::writing } else { RegistryRepository::reading };
                let repository = Arc::new(open(reference.clone(), &options));
                OpenRepository { remote: repository.clone(), repository }
            }
            Self::Layout { dir, .. } => OpenRepository {
                repository: Arc::new(LayoutRepository::new(dir)?),
                remote: Arc::new(AnyRemote::new(&http)?),
            },
        })
    }
}

impl fmt::Display for ReleasePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "oci://{reference}"),
            Self::Layout { dir, tag } => {
                write!(f, "oci-layout:{}", dir.display())?;
                tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
            }
        }
    }
}

impl App<'_> {
    /// Publishes a snapshot and its ancestors as a release.
    ///
    /// # Errors
    /// As [`forkd_core::push_release`]; [`Kind::Usage`] for a place that is named by a digest.
    pub fn push_release(
        &self,
        options: &ReleaseOptions,
        place: &ReleasePlace,
        connections: usize,
    ) -> Result<ReleaseReport> {
        let name = tag_of(place)?;
        let open = place.open(self.settings, None, true)?;
        let target = ReleaseTarget { repository: &*open.repository, name, connections };
        let cache = self.settings.cache();
        forkd_core::push_release(&self.settings.store, cache.as_ref(), options, target, self.env)
    }

    /// The tags of a repository.
    ///
    /// # Errors
    /// As [`Repository::tags`].
    pub fn tags(&self, place: &ReleasePlace) -> Result<TagsReport> {
        let open = place.open(self.settings, None, false)?;
        let tags = open.repository.tags(self.env.cancel)?;
        Ok(TagsReport { repository: open.repository.name(), tags })
    }

    /// Takes a tag of a repository away.
    ///
    /// # Errors
    /// As [`Repository::delete`]; [`Kind::Usage`] for a place that is named by a digest.
    pub fn remove_remote(&self, place: &ReleasePlace) -> Result<RemoteRemoval> {
        let tag = tag_of(place)?.to_owned();
        let open = place.open(self.settings, None, true)?;
        open.repository.delete(&tag, self.env.cancel)?;
        Ok(RemoteRemoval { repository: open.repository.name(), tag })
    }

    /// Tries a user's name and password with a registry and keeps them.
    ///
    /// # Errors
    /// As [`forkd_registry::login`]; [`Kind::Usage`] where nothing says where credentials are kept.
    pub fn login(&self, host: &str, user: &str, password: Secret) -> Result<LoginReport> {
        let nowhere =
            || Error::new(Kind::Usage, "neither REGISTRY_AUTH_FILE nor HOME names a file for credentials");
        let keep = self.settings.login_file.as_deref().ok_or_else(nowhere)?;
        forkd_registry::login(host, (user, password), keep, &self.settings.registry(), self.env.cancel)
    }

    /// Forgets a registry's credentials; gives where they were.
    ///
    /// # Errors
    /// As [`forkd_registry::logout`].
    pub fn logout(&self, host: &str) -> Result<Vec<String>> {
        forkd_registry::logout(host, &self.settings.credential_files.0, self.env.cancel)
    }
}

fn tag_of(place: &ReleasePlace) -> Result<&str> {
    match place {
        ReleasePlace::Registry(reference) if reference.digest().is_some() => {
            let message = "a digest names what is there already; name a tag";
            Err(Error::new(Kind::Usage, message))
        }
        _ => Ok(place.tag().unwrap_or("latest")),
    }
}
