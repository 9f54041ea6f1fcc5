//! `forkd.lock`: exactly which artifacts names stand for (`docs/format/lockfile.md`).

use crate::digest::Digest;
use crate::error::FormatError;
use crate::reference::Reference;
use crate::registry::{Artifact, PackDetails, Variant, Version};
use serde::{Deserialize, Serialize};

/// A lockfile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lockfile {
    /// 1.
    pub lock_version: u32,
    #[serde(default, rename = "package")]
    pub packages: Vec<LockedPackage>,
}

/// What one name stands for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedPackage {
    /// As it was asked for: `owner/name@version`.
    pub reference: String,
    /// The hub that had it.
    pub hub: String,
    /// SHA-256 of the manifest of the release; `None` where it has packs only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_sha256: Option<Digest>,
    /// What that runs under: a JSON object, as the registry has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The pack that every host reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pack: Option<PackDetails>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "artifact")]
    pub artifacts: Vec<Artifact>,
    /// The same for other engines and processors.
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "variant")]
    pub variants: Vec<LockedVariant>,
}

/// A version for another engine or processor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedVariant {
    /// What it runs under: a JSON object, as the registry has it.
    pub engine: String,
    pub pack: PackDetails,
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "artifact")]
    pub artifacts: Vec<Artifact>,
}

impl From<Variant> for LockedVariant {
    fn from(Variant { engine, pack, paged }: Variant) -> Self {
        Self { engine: serde_json::Value::Object(engine).to_string(), pack, artifacts: paged }
    }
}

impl Lockfile {
    /// The largest one that is read, in bytes.
    pub const MAX_LEN: u64 = 16 << 20;

    /// One with these packages.
    #[must_use]
    pub fn new(packages: Vec<LockedPackage>) -> Self {
        Self { lock_version: 1, packages }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`FormatError::Lockfile`] where it is no TOML of this form, or a package of it names nothing.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let wrong = |message: String| FormatError::Lockfile(message);
        let lock: Self = toml::from_str(text).map_err(|e| wrong(toml_fault(text, &e)))?;
        if lock.lock_version != 1 {
            return Err(wrong(format!("lock_version is {}; this forkd reads 1", lock.lock_version)));
        }
        for package in &lock.packages {
            package.reference()?;
            if package.pack.is_none() && package.release_sha256.is_none() {
                return Err(wrong(format!(
                    "'{}' has neither a pack nor a release",
                    crate::error::shorten(&package.reference)
                )));
            }
        }
        Ok(lock)
    }

    /// Its text.
    ///
    /// # Errors
    /// [`FormatError::Lockfile`] where a number is larger than TOML has them.
    pub fn to_text(&self) -> Result<String, FormatError> {
        let text = toml::to_string(self).map_err(|e| FormatError::Lockfile(e.to_string()))?;
        Ok(format!("# Written by `forkd lock`; `forkd pull --locked` takes exactly these.\n{text}"))
    }
}

/// What is wrong, and in which line, without what stands there: it may be a secret.
fn toml_fault(text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(1, |before| before.matches('\n').count() + 1);
    format!("line {line}: {}", crate::error::shorten(error.message()))
}

impl LockedPackage {
    /// The name.
    ///
    /// # Errors
    /// [`FormatError::Reference`].
    pub fn reference(&self) -> Result<Reference, FormatError> {
        self.reference.parse()
    }

    /// Its packs, as a registry would list them.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        let PackDetails { url, sha256, size_bytes } = self.pack.clone()?;
        let paged = self.artifacts.clone();
        let variant = |LockedVariant { engine, pack, artifacts }: LockedVariant| {
            Some(Variant { engine: serde_json::from_str(&engine).ok()?, pack, paged: artifacts })
        };
        let variants = self.variants.iter().cloned().filter_map(variant).collect();
        let engine = self.engine.as_deref().and_then(|engine| serde_json::from_str(engine).ok());
        Some(Version { url, sha256, size_bytes, memory_mib: None, base_image: None, paged, engine, variants })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let digest = Digest::of(b"x");
        let artifact = Artifact {
            format: 3,
            url: "w".into(),
            manifest_sha256: digest,
            size_bytes: 5,
            head_bytes: None,
            bases: Vec::new(),
        };
        let package = LockedPackage {
            reference: "a/b@v1".into(),
            hub: "https://h/registry.json".into(),
            release_sha256: None,
            engine: Some(r#"{"name":"qemu"}"#.into()),
            pack: Some(PackDetails { url: "u".into(), sha256: digest, size_bytes: 9 }),
            artifacts: vec![artifact.clone()],
            variants: vec![LockedVariant {
                engine: r#"{"name":"qemu"}"#.into(),
                pack: PackDetails { url: "v".into(), sha256: digest, size_bytes: 9 },
                artifacts: vec![artifact],
            }],
        };
        let lock = Lockfile::new(vec![package]);
        let text = lock.to_text().unwrap();
        assert_eq!(Lockfile::parse(&text).unwrap(), lock);
        for (from, to) in [
            ("lock_version = 1", "lock_version = 2"),
            ("a/b@v1", "ab"),
            ("size_bytes = 9", "size_bytes = \"9\""),
            ("hub =", "hubs ="),
        ] {
            assert!(Lockfile::parse(&text.replace(from, to)).is_err(), "{from}");
        }
        assert!(
            Lockfile::parse("lock_version = 1\n[[package]]\nreference = \"a/b\"\nhub = \"h\"\n").is_err()
        );
    }
}
