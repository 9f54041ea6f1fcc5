//! What an image says of how it is to be run.

use crate::platform::Platform;
use forkd_core::{Error, Kind, Result};
use forkd_format::Digest;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// An image's configuration, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value`, for the command.
    pub env: Vec<String>,
    /// Where the command starts; may be empty.
    pub working_dir: String,
    /// As whom: name or number, `user[:group]`; empty for root.
    pub user: String,
    /// What is run, before [`ImageConfig::cmd`].
    pub entrypoint: Vec<String>,
    /// Its arguments, or the command itself.
    pub cmd: Vec<String>,
    /// Folders that a container has although no layer may hold them.
    pub volumes: Vec<String>,
    /// `amd64` …; empty where the image does not say.
    pub architecture: String,
    /// `linux`; empty where the image does not say.
    pub os: String,
    /// `v7` …; mostly empty.
    pub variant: String,
    /// The digests of the layers' tars, lowest first.
    pub diff_ids: Vec<Digest>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    config: Option<RawRun>,
    rootfs: RawRootfs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl ImageConfig {
    /// Reads the configuration of an image with so many layers; `what` is for messages.
    ///
    /// # Errors
    /// [`Kind::Integrity`].
    pub fn parse(bytes: &[u8], layers: Option<usize>, what: &str) -> Result<Self> {
        let wrong = |why: String| Error::new(Kind::Integrity, format!("{what}: its configuration {why}"));
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        let digest = |text: String| {
            let hex = text.strip_prefix("sha256:");
            hex.and_then(|hex| hex.parse().ok()).ok_or_else(|| {
                wrong(format!("has a diff_id that is no sha256: '{}'", forkd_registry::shown(&text)))
            })
        };
        let diff_ids: Vec<Digest> =
            raw.rootfs.diff_ids.unwrap_or_default().into_iter().map(digest).collect::<Result<_>>()?;
        if let Some(layers) = layers.filter(|layers| *layers != diff_ids.len()) {
            return Err(wrong(format!("lists {} diff_ids for {layers} layers", diff_ids.len())));
        }
        let run = raw.config.unwrap_or_default();
        let config = Self {
            env: run.env.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            architecture: raw.architecture.unwrap_or_default(),
            os: raw.os.unwrap_or_default(),
            variant: raw.variant.unwrap_or_default(),
            diff_ids,
        };
        let lists = [&config.env, &config.entrypoint, &config.cmd, &config.volumes];
        let words = lists.into_iter().flatten().chain([&config.working_dir, &config.user]);
        if words.into_iter().any(|word| word.contains('\0')) {
            return Err(wrong("has a NUL byte in a word".into()));
        }
        Ok(config)
    }

    /// Fails where the image says that it is for another platform.
    pub(crate) fn check(&self, platform: &Platform, what: &str) -> Result<()> {
        let own = Platform::new(&self.os, &self.architecture, Some(&self.variant));
        let said = !self.os.is_empty() && !self.architecture.is_empty();
        // A variant that the configuration leaves out may stand in the list that led here.
        let fits = platform.accepts(&own)
            || (own.variant.is_none()
                && (&own.os, &own.architecture) == (&platform.os, &platform.architecture));
        if said && !fits {
            return Err(Error::new(Kind::Incompatible, format!("{what} is for {own}, not for {platform}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read() {
        let id = format!("sha256:{}", Digest::of(b""));
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["A=b"],"Cmd":null,"Entrypoint":["/x"],"WorkingDir":"/w",
"Volumes":{{"/data":{{}},"/log":null}},"User":"1:2","Labels":null}},"rootfs":{{"type":"layers","diff_ids":["{id}"]}},"history":[{{}}]}}"#
        );
        let config = ImageConfig::parse(text.as_bytes(), Some(1), "x").unwrap();
        assert_eq!((config.env, config.entrypoint), (vec!["A=b".to_owned()], vec!["/x".to_owned()]));
        assert_eq!(config.volumes, ["/data", "/log"]);
        assert_eq!((config.working_dir.as_str(), config.user.as_str(), config.cmd.len()), ("/w", "1:2", 0));
        let error = ImageConfig::parse(text.as_bytes(), Some(2), "x").unwrap_err();
        assert!(error.to_string().contains("1 diff_ids for 2 layers"), "{error}");
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"rootfs":{"diff_ids":["md5:0"]}}"#,
            r#"{"rootfs":{},"config":{"User":"a\u0000"}}"#,
        ] {
            assert_eq!(
                ImageConfig::parse(bad.as_bytes(), None, "x").unwrap_err().kind(),
                Kind::Integrity,
                "{bad}"
            );
        }
        let arm =
            ImageConfig::parse(br#"{"rootfs":{},"os":"linux","architecture":"arm64"}"#, None, "x").unwrap();
        assert_eq!(arm.check(&Platform::default(), "x").unwrap_err().kind(), Kind::Incompatible);
    }
}
