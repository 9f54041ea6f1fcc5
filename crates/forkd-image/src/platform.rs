//! What an image runs on.

use forkd_core::{Error, Kind};
use std::fmt;

/// An operating system and a processor, as images name them: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64` …
    pub architecture: String,
    /// `v7` …; `arm64` has none, as its first is understood.
    pub variant: Option<String>,
}

/// The level of x86-64 that guests have: they are shown a Nehalem (docs/engine.md).
pub(crate) const GUEST_LEVEL: u32 = 2;

impl Default for Platform {
    fn default() -> Self {
        Self::new("linux", "amd64", None)
    }
}

impl Platform {
    /// From its parts; other names of the same processor become the usual one.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let variant = variant.filter(|v| !v.is_empty() && (architecture, *v) != ("arm64", "v8"));
        Self { os: os.into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
    }

    /// Whether what is made for `other` is wanted here: without a variant, any will do that guests can run.
    #[must_use]
    pub fn accepts(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && match self.variant {
                None => other.level() <= GUEST_LEVEL,
                Some(_) => self.variant == other.variant,
            }
    }

    /// The level of x86-64 that it needs (psABI): 1 where it does not say; 0 for other processors.
    pub(crate) fn level(&self) -> u32 {
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("amd64", Some(variant)) => {
                variant.strip_prefix('v').and_then(|level| level.parse().ok()).unwrap_or(u32::MAX)
            }
            ("amd64", None) => 1,
            _ => 0,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", forkd_registry::shown(&self.os), forkd_registry::shown(&self.architecture))?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{}", forkd_registry::shown(variant)))
    }
}

impl std::str::FromStr for Platform {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |s: &str| {
            !s.is_empty()
                && s.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.'))
        };
        match parts.as_slice() {
            [os, architecture, rest @ ..] if rest.len() < 2 && parts.iter().all(|part| word(part)) => {
                Ok(Self::new(os, architecture, rest.first().copied()))
            }
            _ => Err(Error::new(
                Kind::Usage,
                format!(
                    "'{}' is no platform; expected OS/ARCHITECTURE[/VARIANT], such as linux/amd64",
                    forkd_registry::shown(text)
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_parsed_and_compared() {
        assert_eq!("linux/x86_64".parse::<Platform>().unwrap(), Platform::default());
        assert_eq!("linux/arm64/v8".parse::<Platform>().unwrap().to_string(), "linux/arm64");
        for bad in ["", "linux", "linux/", "a/b/c/d", "Linux/amd64", "linux/a b"] {
            assert_eq!(bad.parse::<Platform>().unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        let arm: Platform = "linux/arm".parse().unwrap();
        let v7: Platform = "linux/arm/v7".parse().unwrap();
        assert!(arm.accepts(&v7) && !v7.accepts(&arm) && !arm.accepts(&Platform::default()));
        let amd = |variant| Platform::new("linux", "amd64", variant);
        let plain = Platform::default();
        assert!(plain.accepts(&amd(Some("v1"))) && plain.accepts(&amd(Some("v2"))) && plain.accepts(&plain));
        assert!(!plain.accepts(&amd(Some("v3"))) && !plain.accepts(&amd(Some("v4"))));
    }
}
