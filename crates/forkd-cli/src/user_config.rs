//! `~/.config/forkd/config.toml`: what a user says once for all commands (`docs/hubs.md`).

use crate::hub_names::{DEFAULT_HUB, hub_place};
use forkd_app::{HubEntry, HubPlace, Hubs};
use forkd_core::{Error, Kind, Result};
use serde::Deserialize;
use std::env;
use std::path::PathBuf;

/// The user's folder.
pub(crate) fn home() -> Option<PathBuf> {
    env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute())
}

/// What the file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UserConfig {
    /// Hubs, in the order in which names are looked up.
    hubs: Vec<String>,
    /// Other places of the same.
    mirror: Vec<Mirrors>,
    /// Whether no server is asked.
    pub(crate) offline: bool,
    #[serde(skip)]
    path: PathBuf,
}

/// Other places of a hub.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mirrors {
    of: String,
    at: Vec<String>,
}

/// Reads it; an empty one where there is none.
pub(crate) fn load() -> Result<UserConfig> {
    let dir = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let Some(dir) = dir.or_else(|| home().map(|home| home.join(".config"))) else {
        return Ok(UserConfig::default());
    };
    let path = dir.join("forkd/config.toml");
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(UserConfig::default()),
        text => text.map_err(Error::io("read", &path))?,
    };
    let wrong = |e: toml::de::Error| {
        Error::new(Kind::Usage, format!("{}: {}", path.display(), e.to_string().trim_end()))
    };
    let config: UserConfig = toml::from_str(&text).map_err(wrong)?;
    Ok(UserConfig { path, ..config })
}

impl UserConfig {
    /// The hubs that it names, or the default.
    pub(crate) fn hubs(&self) -> Result<Hubs> {
        if self.hubs.is_empty() {
            return HubPlace::parse(DEFAULT_HUB).map(Hubs::one);
        }
        let from = self.path.display().to_string();
        let entries = self.hubs.iter().map(|name| {
            let mirrors =
                self.mirror.iter().filter(|mirror| mirror.of == *name).flat_map(|mirror| &mirror.at);
            Ok(HubEntry {
                place: hub_place(name, &from)?,
                mirrors: mirrors.map(|name| hub_place(name, &from)).collect::<Result<_>>()?,
            })
        });
        entries.collect::<Result<Vec<_>>>().map(Hubs)
    }
}
