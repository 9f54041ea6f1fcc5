//! Releases in repositories: published, listed, taken away.

use crate::app::App;
use crate::hub_place::{HubPlace, OpenOptions, OpenRepository, bucket, open_registry};
use forkd_core::hub::ManifestName;
use forkd_core::{
    Error, Kind, MirrorReport, MirrorSides, ReleaseOptions, ReleaseReport, ReleaseTarget, Result,
};
use forkd_format::Reference;
use forkd_registry::{LoginReport, RegistryReference, Secret};
use forkd_remote::{CollectOptions, CollectReport};
use serde::Serialize;
use std::fmt;

/// Where a release is: a repository and a name in it.
#[derive(Debug, Clone)]
pub enum ReleasePlace {
    /// `oci://HOST/NAME[:TAG][@sha256:HEX]`.
    Registry(RegistryReference),
    /// A package of a hub.
    Package { hub: HubPlace, package: String, name: ManifestName },
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
    /// Reads a place: `oci://HOST/NAME[:TAG][@sha256:HEX]`, `s3://BUCKET[/PREFIX]/OWNER/NAME[:TAG][@sha256:HEX]`, `oci-layout:DIR[:TAG]`.
    /// `None` where the text is of another kind.
    ///
    /// # Errors
    /// [`Kind::Usage`].
    pub fn parse(text: &str) -> Result<Option<Self>> {
        if text.starts_with("oci://") {
            return RegistryReference::parse_url(text).map(Self::Registry).map(Some);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            let wrong =
                || Error::new(Kind::Usage, "expected s3://BUCKET[/PREFIX]/OWNER/NAME[:TAG][@sha256:HEX]");
            let (path, name) = manifest_name(rest)?;
            let mut parts: Vec<&str> = path.split('/').collect();
            let last = parts.pop().zip(parts.pop()).filter(|_| !parts.is_empty());
            let (name_part, owner) = last.ok_or_else(wrong)?;
            let hub = HubPlace::Bucket(bucket(&format!("s3://{}", parts.join("/")))?);
            let package: Reference = format!("{owner}/{name_part}").parse().map_err(|_| wrong())?;
            return Ok(Some(Self::Package { hub, package: package.package, name }));
        }
        let Some(rest) = text.strip_prefix("oci-layout:") else { return Ok(None) };
        let (dir, name) = manifest_name(rest)?;
        let hub = HubPlace::parse(&format!("oci-layout:{dir}"))?;
        Ok(Some(Self::Package { hub, package: String::new(), name }))
    }

    /// A package of a hub, as a reference names it.
    #[must_use]
    pub fn of_package(hub: HubPlace, reference: &Reference) -> Self {
        let name = match reference.digest {
            Some(digest) => ManifestName::Digest(digest),
            None => ManifestName::Tag(reference.version.clone()),
        };
        Self::Package { hub, package: reference.package.clone(), name }
    }

    /// What names the release in the repository.
    #[must_use]
    pub fn name(&self) -> ManifestName {
        match self {
            Self::Registry(reference) => match reference.digest() {
                Some(digest) => ManifestName::Digest(*digest),
                None => ManifestName::Tag(reference.tag().unwrap_or("latest").to_owned()),
            },
            Self::Package { name, .. } => name.clone(),
        }
    }

    /// How what was pulled from there is recorded.
    pub(crate) fn recorded(&self) -> String {
        match self {
            Self::Registry(reference) => format!("{}:{}", reference.url(), self.name()),
            Self::Package { hub: hub @ HubPlace::Layout(_), name, .. } => format!("{hub}:{name}"),
            Self::Package { hub, package, name } => format!("{hub}/{package}:{name}"),
        }
    }

    pub(crate) fn open(&self, options: OpenOptions<'_>) -> Result<OpenRepository> {
        match self {
            Self::Registry(reference) => Ok(open_registry(reference, options)),
            Self::Package { hub, package, .. } => hub.open(package, options),
        }
    }

    /// The tag.
    fn tag(&self) -> Result<String> {
        match self.name() {
            ManifestName::Tag(tag) => Ok(tag),
            ManifestName::Digest(_) => {
                Err(Error::new(Kind::Usage, "a digest names what is there already; name a tag"))
            }
        }
    }
}

/// A path, and the tag or digest behind it.
fn manifest_name(text: &str) -> Result<(&str, ManifestName)> {
    let wrong = |why: &str| Error::new(Kind::Usage, format!("{why}; expected …[:TAG][@sha256:HEX]"));
    let (named, digest) = match text.split_once('@') {
        None => (text, None),
        Some((named, pin)) => {
            let hex = pin.strip_prefix("sha256:").and_then(|hex| hex.parse().ok());
            (named, Some(hex.ok_or_else(|| wrong("the digest is not sha256:HEX"))?))
        }
    };
    let last = named.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match named[last..].split_once(':') {
        Some((name, tag)) => (&named[..last + name.len()], Some(tag)),
        None => (named, None),
    };
    let is_tag = |tag: &str| {
        (1..=128).contains(&tag.len())
            && !tag.starts_with(['.', '-'])
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'+'))
    };
    if !tag.is_none_or(is_tag) {
        return Err(wrong("the tag is not letters, digits, '_', '.' and '-'"));
    }
    let name = match digest {
        Some(digest) => ManifestName::Digest(digest),
        None => ManifestName::Tag(tag.unwrap_or("latest").to_owned()),
    };
    Ok((path, name))
}

impl fmt::Display for ReleasePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "oci://{reference}"),
            Self::Package { name: ManifestName::Digest(digest), .. } => {
                let text = self.recorded();
                let bare = text.strip_suffix(&format!(":sha256:{digest}")).unwrap_or(&text);
                write!(f, "{bare}@sha256:{digest}")
            }
            Self::Package { .. } => f.write_str(&self.recorded()),
        }
    }
}

/// What is mirrored.
#[derive(Debug, Clone)]
pub struct MirrorRequest {
    pub from: HubPlace,
    pub to: HubPlace,
    /// `owner/name`; all that the hub tells of, where none is named.
    pub packages: Vec<String>,
    /// Blobs at a time.
    pub connections: usize,
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
        let name = place.tag()?;
        let open = place.open(self.opened(None, true))?;
        let target =
            ReleaseTarget { repository: &*open.repository, remote: &*open.remote, name: &name, connections };
        let cache = self.settings.cache();
        forkd_core::push_release(&self.settings.store, cache.as_ref(), options, target, self.env)
    }

    /// The tags of a repository.
    ///
    /// # Errors
    /// As [`forkd_core::hub::Repository::tags`].
    pub fn tags(&self, place: &ReleasePlace) -> Result<TagsReport> {
        let open = place.open(self.opened(None, false))?;
        let tags = open.repository.tags(self.env.cancel)?;
        Ok(TagsReport { repository: open.repository.name(), tags })
    }

    /// Takes a tag of a repository away.
    ///
    /// # Errors
    /// As [`forkd_core::hub::Repository::delete`]; [`Kind::Usage`] for a place that is named by a digest.
    pub fn remove_remote(&self, place: &ReleasePlace) -> Result<RemoteRemoval> {
        let tag = place.tag()?;
        let open = place.open(self.opened(None, true))?;
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

    pub(crate) fn opened(&self, limit_rate: Option<u64>, writes: bool) -> OpenOptions<'_> {
        OpenOptions { settings: self.settings, limit_rate, writes }
    }

    /// Mirrors all tags of packages; `told` hears of each.
    ///
    /// # Errors
    /// As [`forkd_core::mirror`].
    pub fn mirror(
        &self,
        request: &MirrorRequest,
        told: &mut dyn FnMut(&MirrorReport),
    ) -> Result<Vec<MirrorReport>> {
        let MirrorRequest { from, to, packages, connections } = request;
        let all = match packages.as_slice() {
            [] => from.packages(self.opened(None, false), self.env.cancel)?,
            named => named.to_vec(),
        };
        let mut reports = Vec::new();
        for package in &all {
            let source = from.open(package, self.opened(None, false))?;
            let target = to.open(package, self.opened(None, true))?;
            let sides = MirrorSides {
                from: &*source.repository,
                remote: &*source.remote,
                to: &*target.repository,
                temp: &self.settings.temp_dir,
                connections: *connections,
            };
            for tag in source.repository.tags(self.env.cancel)? {
                let report = forkd_core::mirror(sides, &tag, self.env)?;
                told(&report);
                reports.push(report);
            }
        }
        Ok(reports)
    }

    /// Deletes blobs of a hub that no tag reaches.
    ///
    /// # Errors
    /// As [`forkd_remote::collect`]; [`Kind::Usage`] for a hub of another kind.
    pub fn collect_hub(&self, hub: &HubPlace, options: CollectOptions) -> Result<CollectReport> {
        forkd_remote::collect(&hub.objects(self.opened(None, true))?, options, self.env.cancel)
    }
}
