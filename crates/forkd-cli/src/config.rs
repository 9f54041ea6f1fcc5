//! What the environment says.

use crate::hub_names::{hub_names, hub_place};
use crate::user_config::{self, home};
use forkd_app::{AwsSettings, CredentialFiles, HttpOptions, HubEntry, HubPlace, Hubs, Settings};
use forkd_core::{Error, Kind, Result, Store};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The store of this user: `$XDG_DATA_HOME/forkd`, else `~/.local/share/forkd`.
pub(crate) fn store() -> Result<Store> {
    let data = env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let data = data.or_else(|| home().map(|home| home.join(".local/share")));
    let data = data.ok_or_else(|| {
        Error::new(Kind::Usage, "neither XDG_DATA_HOME nor HOME names a folder for the store")
    })?;
    let store = Store::new(&data.join("forkd"), &command_line());
    match env::var("FORKD_LOCK_TIMEOUT") {
        Err(_) => Ok(store),
        Ok(text) => match text.parse::<u32>() {
            Ok(seconds) => Ok(store.with_lock_timeout(Duration::from_secs(seconds.into()))),
            Err(_) => {
                Err(Error::new(Kind::Usage, format!("FORKD_LOCK_TIMEOUT is '{text}'; expected seconds")))
            }
        },
    }
}

/// How this process names itself to those who wait for its locks; never with a URL, which may hold a secret.
fn command_line() -> String {
    let words = env::args_os()
        .skip(1)
        .take(8)
        .map(|word| word.to_string_lossy().into_owned())
        .map(|word| if word.contains("://") { "URL".to_owned() } else { word });
    format!("forkd {}", words.collect::<Vec<_>>().join(" "))
}

/// Where machines have their folders: short-lived files of this user, with short paths.
pub(crate) fn runtime_dir() -> PathBuf {
    match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute() && dir.is_dir()) {
        Some(dir) => dir.join("forkd"),
        None => env::temp_dir().join(format!("forkd-{}", rustix::process::geteuid().as_raw())),
    }
}

/// What can be made or fetched again: `$XDG_CACHE_HOME/forkd`, else `~/.cache/forkd`.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| home().map(|home| home.join(".cache")));
    let cache = cache.ok_or_else(|| {
        Error::new(Kind::Usage, "neither XDG_CACHE_HOME nor HOME names a folder for the cache")
    })?;
    Ok(cache.join("forkd"))
}

/// The hubs for short names: those that are named, or the default.
pub(crate) fn hubs(flag: Option<&str>) -> Result<Hubs> {
    let (names, from) = match (flag, env::var("FORKD_HUB_URL").ok().filter(|text| !text.is_empty())) {
        (Some(flag), _) => (hub_names(flag), "--hub".to_owned()),
        (None, Some(text)) => (hub_names(&text), "FORKD_HUB_URL".to_owned()),
        (None, None) => return user_config::load()?.hubs(),
    };
    let entries = names.iter().map(|name| {
        let place = hub_place(name, &from)?;
        Ok(HubEntry { place, mirrors: Vec::new() })
    });
    entries.collect::<Result<Vec<_>>>().map(Hubs)
}

/// The hub that is named, to publish to; it need not be there yet.
pub(crate) fn publishing_hub(flag: Option<&str>) -> Result<HubPlace> {
    let named =
        flag.map(str::to_owned).or_else(|| env::var("FORKD_HUB_URL").ok().filter(|text| !text.is_empty()));
    let unnamed = || {
        Error::new(Kind::Usage, "no hub is named to publish to")
            .hint("add --hub, or set FORKD_HUB_URL: a folder, s3://BUCKET/PREFIX or oci://HOST/NAMESPACE")
    };
    let named = named.ok_or_else(unnamed)?;
    match hub_names(&named).as_slice() {
        [one] => HubPlace::parse(one),
        more => {
            Err(Error::new(Kind::Usage, format!("{} hubs are named, and one is published to", more.len()))
                .hint("name it by --to, --from or --hub"))
        }
    }
}

/// The time that goes into packs: `SOURCE_DATE_EPOCH` where set, else now. RFC 3339, UTC, whole seconds.
pub(crate) fn timestamp() -> Result<String> {
    let seconds = match env::var("SOURCE_DATE_EPOCH") {
        Err(_) => jiff::Timestamp::now().as_second(),
        Ok(text) => text.parse().map_err(|_| {
            Error::new(Kind::Usage, format!("SOURCE_DATE_EPOCH is '{text}'; expected seconds since 1970"))
        })?,
    };
    let time = jiff::Timestamp::from_second(seconds).map_err(|_| {
        Error::new(Kind::Usage, format!("SOURCE_DATE_EPOCH {seconds} is no time that a calendar knows"))
    })?;
    Ok(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// Whether this user may do everything.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A path as people write it: below the home folder with `~`.
pub(crate) fn display(path: &Path) -> String {
    forkd_app::shown(home().as_deref(), path)
}

/// The variables of this host by which programs find their mirrors and proxies.
const PASSED_ON: [&str; 11] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_DEFAULT_TIMEOUT",
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
];
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where programs are looked for.
pub(crate) fn search_path() -> Option<OsString> {
    env::var_os("PATH")
}

/// All of it.
pub(crate) fn settings() -> Result<Settings> {
    let named = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let passed_on = PASSED_ON.iter().filter_map(|name| Some(format!("{name}={}", env::var(name).ok()?)));
    Ok(Settings {
        store: store()?,
        cache_dir: cache_dir().ok(),
        cache_limit: cache_limit()?,
        runtime_dir: runtime_dir(),
        temp_dir: env::temp_dir(),
        home: home(),
        search_path: search_path(),
        http: http()?,
        credential_files: credential_files(),
        login_file: login_file(),
        netrc: env::var_os("NETRC").map(PathBuf::from).or_else(|| home().map(|home| home.join(".netrc"))),
        hub_token: env::var("FORKD_HUB_TOKEN").ok().filter(|token| !token.is_empty()),
        aws: aws(),
        plain_registries: list("FORKD_PLAIN_REGISTRIES"),
        token_servers: list("FORKD_TOKEN_SERVERS"),
        timestamp: timestamp()?,
        timestamp_is_fixed: env::var_os("SOURCE_DATE_EPOCH").is_some(),
        set_up_env: passed_on.collect(),
        certificates: named.into_iter().chain([CERTIFICATES.into()]).find(|path| path.is_file()),
    })
}

/// The settings of the transports. The variables are for tests and odd networks.
pub(crate) fn http() -> Result<HttpOptions> {
    let mut options = HttpOptions::default();
    for (name, field) in
        [("FORKD_STALL_TIMEOUT_MS", &mut options.stall_timeout), ("FORKD_BACKOFF_MS", &mut options.backoff)]
    {
        if let Ok(text) = env::var(name) {
            let wrong = |_| Error::new(Kind::Usage, format!("{name} is '{text}'; expected milliseconds"));
            *field = Duration::from_millis(text.parse().map_err(wrong)?);
        }
    }
    let excepted = env::var("NO_PROXY").or_else(|_| env::var("no_proxy")).unwrap_or_default();
    options.direct_hosts =
        excepted.split(',').filter(|entry| entry.contains([':', '*'])).map(str::to_owned).collect();
    let proxies = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    options.proxies = proxies.into_iter().filter_map(|name| Some((name, env::var(name).ok()?))).collect();
    options.certificates = env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    options.offline = match env::var("FORKD_OFFLINE") {
        Ok(text) => !matches!(text.as_str(), "" | "0" | "false"),
        Err(_) => user_config::load()?.offline,
    };
    if options.offline {
        options.tries = 1;
    }
    Ok(options)
}

/// The words of a variable, with commas between.
fn list(name: &str) -> Vec<String> {
    let text = env::var(name).unwrap_or_default();
    text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Where containers' tools keep credentials, in the order in which they look.
pub(crate) fn credential_files() -> CredentialFiles {
    let dir = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let files = [
        env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from),
        dir("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        home().map(|home| home.join(".config/containers/auth.json")),
        dir("DOCKER_CONFIG")
            .or_else(|| home().map(|home| home.join(".docker")))
            .map(|dir| dir.join("config.json")),
    ];
    CredentialFiles(files.into_iter().flatten().collect())
}

/// What the AWS conventions name.
fn aws() -> AwsSettings {
    let variables =
        env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
    AwsSettings { variables: variables.filter(|(name, _)| name.starts_with("AWS_")).collect(), home: home() }
}

/// Where a login is kept: the file that is named, else the one of the user's that outlives a session.
fn login_file() -> Option<PathBuf> {
    let named = env::var_os("REGISTRY_AUTH_FILE").filter(|name| !name.is_empty()).map(PathBuf::from);
    named.or_else(|| home().map(|home| home.join(".config/containers/auth.json")))
}

/// What the cache may take on the disk, in bytes: `FORKD_CACHE_LIMIT_MIB`, else 20 GiB.
pub(crate) fn cache_limit() -> Result<u64> {
    match env::var("FORKD_CACHE_LIMIT_MIB") {
        Err(_) => Ok(20 << 30),
        Ok(text) => text.parse::<u32>().map(|mib| u64::from(mib) << 20).map_err(|_| {
            Error::new(Kind::Usage, format!("FORKD_CACHE_LIMIT_MIB is '{text}'; expected a number of MiB"))
        }),
    }
}
