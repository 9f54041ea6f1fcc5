//! What an environment says, said by whoever has one.

use forkd_core::cache::Cache;
use forkd_core::hub::Location;
use forkd_core::{Error, Kind, Result, Store};
use forkd_registry::{CredentialFiles, RegistryOptions};
use forkd_remote::{AwsSettings, HttpOptions, SharedAuthority, WebAuthority};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What operations know of this host and its user.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The user's snapshots.
    pub store: Store,
    /// The folder of what can be made or fetched again; `None` where nothing names one.
    pub cache_dir: Option<PathBuf>,
    /// What images and root disks may take in the cache, in bytes.
    pub cache_limit: u64,
    /// Where machines have their folders: short-lived files, with short paths.
    pub runtime_dir: PathBuf,
    /// For files that need no name.
    pub temp_dir: PathBuf,
    /// Shown as `~`.
    pub home: Option<PathBuf>,
    /// Where programs are looked for, as `PATH` has it.
    pub search_path: Option<OsString>,
    /// For hubs and registries.
    pub http: HttpOptions,
    /// Where containers' tools keep credentials.
    pub credential_files: CredentialFiles,
    /// The one of them in which a login is kept.
    pub login_file: Option<PathBuf>,
    /// The user's `.netrc`.
    pub netrc: Option<PathBuf>,
    /// A token for the server of the hub that is used.
    pub hub_token: Option<String>,
    /// For S3 stores: what the AWS conventions name.
    pub aws: AwsSettings,
    /// Registries that are spoken to without TLS.
    pub plain_registries: Vec<String>,
    /// Token servers on other hosts than their registries' that may be told passwords.
    pub token_servers: Vec<String>,
    /// The time that is recorded: RFC 3339, UTC.
    pub timestamp: String,
    /// Whether the user has chosen it.
    pub timestamp_is_fixed: bool,
    /// `NAME=VALUE` for guests that are set up: how programs find mirrors and proxies.
    pub set_up_env: Vec<String>,
    /// Certificates that a guest that is set up trusts.
    pub certificates: Option<PathBuf>,
}

impl Settings {
    /// The folder of the cache.
    ///
    /// # Errors
    /// [`Kind::Usage`] where nothing names one.
    pub fn cache_dir(&self) -> Result<&Path> {
        let wrong =
            || Error::new(Kind::Usage, "neither XDG_CACHE_HOME nor HOME names a folder for the cache");
        self.cache_dir.as_deref().ok_or_else(wrong)
    }

    /// How web servers are spoken to, the hub's own among them. A `.netrc` that cannot be read says nothing.
    #[must_use]
    pub fn web(&self, hub: &Location, limit_rate: Option<u64>) -> HttpOptions {
        let netrc = self.netrc.as_deref().and_then(|path| std::fs::read_to_string(path).ok());
        let token = self.hub_token.as_deref().map(|token| (hub.url(), token));
        let authority = WebAuthority::new(token, &netrc.unwrap_or_default());
        let limit_rate = limit_rate.or(self.http.limit_rate);
        HttpOptions {
            limit_rate,
            authority: (!authority.is_empty()).then(|| SharedAuthority(Arc::new(authority))),
            ..self.http.clone()
        }
    }

    /// How registries are spoken to.
    #[must_use]
    pub fn registry(&self) -> RegistryOptions {
        RegistryOptions {
            http: self.http.clone(),
            files: self.credential_files.clone(),
            plain: self.plain_registries.clone(),
            realms: self.token_servers.clone(),
        }
    }

    /// The cache, for what does without where there is none.
    #[must_use]
    pub fn cache(&self) -> Option<Cache> {
        self.cache_dir.as_deref().map(Cache::new)
    }

    /// A path as people write it: below the home folder with `~`.
    #[must_use]
    pub fn shown(&self, path: &Path) -> String {
        shown(self.home.as_deref(), path)
    }
}

/// A path as people write it: below the home folder with `~`.
#[must_use]
pub fn shown(home: Option<&Path>, path: &Path) -> String {
    match home.and_then(|home| path.strip_prefix(home).ok()) {
        Some(below) => format!("~/{}", below.display()),
        None => path.display().to_string(),
    }
}
