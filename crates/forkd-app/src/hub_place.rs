//! Hubs by the text that names them.

use crate::settings::Settings;
use forkd_core::hub::{Location, Remote, Repository};
use forkd_core::{Cancel, Error, Kind, Result};
use forkd_registry::{RegistryReference, RegistryRepository, repositories};
use forkd_remote::{
    AnyRemote, BucketPlace, FolderObjects, HttpOptions, LayoutRepository, ObjectRepository, Objects,
    S3Objects, WebRepository, packages, web_packages,
};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A hub of any kind.
#[derive(Debug, Clone)]
pub enum HubPlace {
    /// `file:///DIR`: a folder of objects.
    Folder(PathBuf),
    /// `https://HOST/…/registry.json`: read only.
    Web(Location),
    /// `oci://HOST[/NAMESPACE]`.
    Registry { host: RegistryReference, namespace: String },
    /// `s3://BUCKET[/PREFIX]`.
    Bucket(BucketPlace),
    /// `oci-layout:DIR`: one package, in a folder that other tools read.
    Layout(PathBuf),
}

/// A repository, and what reads its blobs.
pub(crate) struct OpenRepository {
    pub(crate) repository: Arc<dyn Repository>,
    pub(crate) remote: Arc<dyn Remote>,
}

/// How a hub is opened.
#[derive(Clone, Copy)]
pub(crate) struct OpenOptions<'a> {
    pub(crate) settings: &'a Settings,
    /// Bytes a second; the settings' own where none is given.
    pub(crate) limit_rate: Option<u64>,
    pub(crate) writes: bool,
}

impl OpenOptions<'_> {
    fn http(&self) -> HttpOptions {
        let http = &self.settings.http;
        HttpOptions { limit_rate: self.limit_rate.or(http.limit_rate), ..http.clone() }
    }
}

impl HubPlace {
    /// Reads a hub's name.
    ///
    /// # Errors
    /// [`Kind::Usage`].
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("oci://") {
            let (host, namespace) = rest.split_once('/').unwrap_or((rest, ""));
            let namespace = namespace.trim_matches('/').to_owned();
            return Ok(Self::Registry { host: RegistryReference::of_host(host)?, namespace });
        }
        if text.starts_with("s3://") {
            return bucket(text).map(Self::Bucket);
        }
        if let Some(dir) = text.strip_prefix("oci-layout:") {
            return absolute(dir).map(Self::Layout);
        }
        if text.contains("://") || text.starts_with("file:") {
            let location = Location::parse(text)?;
            if !location.is_file() {
                return Ok(Self::Web(location));
            }
            let wrong = |()| Error::new(Kind::Usage, format!("{location} names no folder of this host"));
            let path = location.url().to_file_path().map_err(wrong)?;
            return Self::of_path(path);
        }
        Self::of_path(absolute(text)?)
    }

    /// A folder, or a registry in one; one that has another name is only read.
    fn of_path(path: PathBuf) -> Result<Self> {
        match path.extension() {
            Some(_) if path.file_name().is_some_and(|name| name == "registry.json") => {
                Ok(Self::Folder(path.parent().unwrap_or(&path).to_owned()))
            }
            Some(json) if json == "json" && !path.is_dir() => Location::of_file(&path).map(Self::Web),
            _ => Ok(Self::Folder(path)),
        }
    }

    /// Where its registry lies, where that is a file or behind a web server.
    pub(crate) fn index(&self) -> Option<Result<Location>> {
        match self {
            Self::Folder(dir) => Some(Location::of_file(&dir.join("registry.json"))),
            Self::Web(index) => Some(Ok(index.clone())),
            Self::Registry { .. } | Self::Bucket(_) | Self::Layout(_) => None,
        }
    }

    /// What is looked into for a name.
    #[must_use]
    pub fn index_name(&self) -> String {
        match self.index() {
            Some(Ok(index)) => index.to_string(),
            _ => self.to_string(),
        }
    }

    /// One package of it.
    pub(crate) fn open(&self, package: &str, options: OpenOptions<'_>) -> Result<OpenRepository> {
        let http = options.http();
        let any = || AnyRemote::new(&http).map(|remote| Arc::new(remote) as Arc<dyn Remote>);
        Ok(match self {
            Self::Registry { host, namespace } => {
                let name =
                    if namespace.is_empty() { package.to_owned() } else { format!("{namespace}/{package}") };
                let reference = RegistryReference::parse_url(&format!("oci://{}/{name}", host.host()))?;
                open_registry(&reference, options)
            }
            Self::Layout(dir) => {
                OpenRepository { repository: Arc::new(LayoutRepository::new(dir)?), remote: any()? }
            }
            Self::Web(index) => {
                let web = options.settings.web(index, options.limit_rate);
                let remote = Arc::new(AnyRemote::new(&web)?) as Arc<dyn Remote>;
                let repository = Arc::new(WebRepository::new(Arc::clone(&remote), index, package));
                OpenRepository { repository, remote }
            }
            Self::Folder(_) | Self::Bucket(_) => {
                let objects = self.objects(options)?;
                OpenRepository {
                    repository: Arc::new(ObjectRepository::new(objects, package)),
                    remote: any()?,
                }
            }
        })
    }

    /// Its objects, where it is made of such.
    pub(crate) fn objects(&self, options: OpenOptions<'_>) -> Result<Arc<dyn Objects>> {
        match self {
            Self::Folder(dir) => Ok(Arc::new(FolderObjects::new(dir))),
            Self::Bucket(place) => {
                Ok(Arc::new(S3Objects::open(place, &options.settings.aws, &options.http())?))
            }
            _ => Err(Error::new(Kind::Usage, format!("{self} is no bucket and no folder of objects"))),
        }
    }

    /// All packages, as far as the hub tells.
    pub(crate) fn packages(&self, options: OpenOptions<'_>, cancel: &Cancel) -> Result<Vec<String>> {
        match self {
            Self::Registry { host, namespace } => {
                let mut registry = options.settings.registry();
                registry.http = options.http();
                let all = repositories(host, namespace, &registry, cancel)?;
                let below = |name: String| match namespace.as_str() {
                    "" => name,
                    namespace => name[namespace.len() + 1..].to_owned(),
                };
                Ok(all.into_iter().map(below).collect())
            }
            Self::Web(index) => {
                let web = options.settings.web(index, options.limit_rate);
                web_packages(&AnyRemote::new(&web)?, index, cancel)
            }
            Self::Folder(_) | Self::Bucket(_) => packages(&*self.objects(options)?, cancel),
            Self::Layout(_) => {
                Err(Error::new(Kind::Usage, format!("{self} holds one package, without its name"))
                    .hint("name it: owner/name"))
            }
        }
    }
}

/// One repository of a registry.
pub(crate) fn open_registry(reference: &RegistryReference, options: OpenOptions<'_>) -> OpenRepository {
    let mut registry = options.settings.registry();
    registry.http = options.http();
    let open = if options.writes { RegistryRepository::writing } else { RegistryRepository::reading };
    let repository = Arc::new(open(reference.clone(), &registry));
    OpenRepository { remote: repository.clone(), repository }
}

/// Reads `s3://BUCKET[/PREFIX]`.
pub(crate) fn bucket(text: &str) -> Result<BucketPlace> {
    let wrong = || Error::new(Kind::Usage, "a bucket is named s3://BUCKET[/PREFIX]");
    let rest = text.strip_prefix("s3://").ok_or_else(wrong)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    let prefix = prefix.trim_matches('/');
    if !is_name(bucket) || !(prefix.is_empty() || prefix.split('/').all(is_name)) {
        return Err(wrong());
    }
    Ok(BucketPlace { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

fn absolute(dir: &str) -> Result<PathBuf> {
    if dir.is_empty() {
        return Err(Error::new(Kind::Usage, "no folder is named"));
    }
    std::path::absolute(dir).map_err(Error::io("find", Path::new(dir)))
}

impl fmt::Display for HubPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(dir) => write!(f, "file://{}", dir.display()),
            Self::Web(index) => index.fmt(f),
            Self::Registry { host, namespace } if namespace.is_empty() => write!(f, "oci://{}", host.host()),
            Self::Registry { host, namespace } => write!(f, "oci://{}/{namespace}", host.host()),
            Self::Bucket(BucketPlace { bucket, prefix }) if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket(BucketPlace { bucket, prefix }) => write!(f, "s3://{bucket}/{prefix}"),
            Self::Layout(dir) => write!(f, "oci-layout:{}", dir.display()),
        }
    }
}
