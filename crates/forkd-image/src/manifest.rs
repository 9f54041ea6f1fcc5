//! Manifests and indexes, OCI's and Docker's.

use crate::platform::{GUEST_LEVEL, Platform};
use forkd_core::{Error, Kind, Result};
use forkd_format::Digest;
use forkd_registry::shown;
use serde::Deserialize;
use std::collections::HashMap;

/// The largest manifest or index that is read.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;
/// The largest configuration that is read.
pub(crate) const MAX_CONFIG: u64 = 8 << 20;
/// The most layers.
pub(crate) const MAX_LAYERS: usize = 512;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";
const CONFIGS: [&str; 6] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    // As old registries and tools have written them, and docker takes them.
    "application/vnd.docker.container.image.v1",
    "application/octet-stream",
    "text/html",
    "",
];
const LAYERS: [&str; 8] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    // The same; what a layer is shows in its bytes.
    "application/vnd.docker.container.image.rootfs.diff+x-gtar",
    "application/octet-stream",
    "application/x-tar",
    "",
];

/// What is asked of a registry, the preferred first.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// Something that a manifest or index names.
#[derive(Debug, Clone)]
pub struct Descriptor {
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// What it is for, where an index says so.
    pub platform: Option<Platform>,
    /// Its tag in an image layout.
    pub name: Option<String>,
}

/// One image.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub config: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What lies under a tag.
#[derive(Debug, Clone)]
pub enum Document {
    /// Several images, one a platform.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: String,
    size: u64,
    urls: Option<Vec<String>>,
    platform: Option<RawPlatform>,
    annotations: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

impl RawDescriptor {
    fn checked(self) -> Option<Descriptor> {
        let digest = self.digest.strip_prefix("sha256:")?.parse().ok()?;
        let platform = self.platform.map(|p| {
            Platform::new(
                &p.os.unwrap_or_default(),
                &p.architecture.unwrap_or_default(),
                p.variant.as_deref(),
            )
        });
        let mut annotations = self.annotations.unwrap_or_default();
        let name = annotations.remove("org.opencontainers.image.ref.name");
        let media_type = self.media_type.unwrap_or_default();
        Some(Descriptor { media_type, digest, size: self.size, platform, name })
    }
}

/// Reads a manifest or an index; `content_type` is what the server calls it, `what` is for messages.
///
/// # Errors
/// [`Kind::Integrity`]; [`Kind::Incompatible`] for what is well-formed but cannot be used.
pub fn parse(bytes: &[u8], content_type: Option<&str>, what: &str) -> Result<Document> {
    let wrong = |why: String| Error::new(Kind::Integrity, format!("{what}: its manifest {why}"));
    let not_ours = |why: String| Error::new(Kind::Incompatible, format!("{what}: {why}"));
    let raw: Raw = serde_json::from_slice(bytes).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let media_type = raw.media_type.as_deref().or(content_type).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if raw.schema_version == Some(1) || media_type.starts_with(SCHEMA1) {
        return Err(not_ours(
            "its manifest is of Docker's schema 1, which is no longer in use; have it pushed again by a current tool, or \
converted by `skopeo copy --format v2s2`"
                .into(),
        ));
    }
    if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
        return Err(wrong("is an index and an image at once".into()));
    }
    match (media_type, raw.manifests, raw.config, raw.layers) {
        (OCI_MANIFEST | DOCKER_MANIFEST, Some(_), ..) | (OCI_INDEX | DOCKER_LIST, None, ..) => {
            Err(wrong(format!("is not the '{media_type}' that it is said to be")))
        }
        // An entry with another kind of digest is one that cannot be chosen.
        (_, Some(list), ..) => {
            Ok(Document::Index(list.into_iter().filter_map(RawDescriptor::checked).collect()))
        }
        (_, None, Some(config), layers) => {
            let layers = layers.unwrap_or_default();
            if layers.len() > MAX_LAYERS {
                return Err(wrong(format!("lists {} layers; {MAX_LAYERS} are the most", layers.len())));
            }
            let bad = |digest: &str| wrong(format!("has a digest that is no sha256: '{}'", shown(digest)));
            let kind = config.media_type.clone().unwrap_or_default();
            if !CONFIGS.contains(&kind.as_str()) {
                return Err(not_ours(format!(
                    "not a container image: its configuration is '{}'",
                    shown(&kind)
                )));
            }
            let text = config.digest.clone();
            let config = config.checked().ok_or_else(|| bad(&text))?;
            if config.size > MAX_CONFIG {
                return Err(wrong(format!("declares a configuration of {} bytes", config.size)));
            }
            let layer = |layer: RawDescriptor| {
                let kind = layer.media_type.clone().unwrap_or_default();
                if layer.urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
                    return Err(not_ours(format!(
                        "layer {} lies outside the registry (a foreign layer, as Windows images have); such images cannot be used",
                        shown(&layer.digest)
                    )));
                }
                let known = LAYERS.iter().any(|base| {
                    kind.strip_prefix(base)
                        .is_some_and(|end| matches!(end, "" | "+gzip" | ".gzip" | "+zstd" | ".zstd"))
                });
                if !known {
                    return Err(not_ours(format!(
                        "a layer is '{}', which is no layer of files",
                        shown(&kind)
                    )));
                }
                let text = layer.digest.clone();
                layer.checked().ok_or_else(|| bad(&text))
            };
            let layers = layers.into_iter().map(layer).collect::<Result<_>>()?;
            Ok(Document::Manifest(Manifest { config, layers }))
        }
        _ => Err(wrong("is neither an image's nor an index".into())),
    }
}

/// Chooses the image for a platform from an index: an exact one, else the best that guests can run, before one that says nothing.
pub(crate) fn choose<'a>(list: &'a [Descriptor], platform: &Platform, what: &str) -> Result<&'a Descriptor> {
    let fitting = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| platform.accepts(p));
    let level = |d: &&Descriptor| d.platform.as_ref().map_or(0, Platform::level);
    // Of two that are equal, the first.
    let best = list.iter().filter(fitting).rev().max_by_key(level);
    let silent = || {
        let mut silent = list.iter().filter(|d| d.platform.is_none());
        silent.next().filter(|_| silent.next().is_none())
    };
    best.or_else(silent).ok_or_else(|| {
        let mut there: Vec<String> = list
            .iter()
            .filter_map(|d| d.platform.as_ref())
            .filter(|p| p.os != "unknown")
            .map(ToString::to_string)
            .take(40)
            .collect();
        there.dedup();
        let there = if there.is_empty() { "none at all".to_owned() } else { there.join(", ") };
        let beyond = list.iter().filter_map(|d| d.platform.as_ref()).any(|p| p.level() > GUEST_LEVEL);
        let why = if beyond {
            format!(" (guests have a processor of level v{GUEST_LEVEL}, which cannot run v3 or v4)")
        } else {
            String::new()
        };
        Error::new(Kind::Incompatible, format!("{what} has no image for {platform}{why}; there are: {there}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str, more: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{}","size":3{more}}}"#, Digest::of(b"abc"))
    }

    fn image(layer: &str) -> String {
        format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layer}]}}"#, descriptor(CONFIGS[0], ""))
    }

    #[test]
    fn manifests_are_read_and_refused() {
        for (config, layer) in CONFIGS.iter().flat_map(|config| LAYERS.map(|layer| (config, layer))) {
            let text = format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
                descriptor(config, ""),
                descriptor(layer, "")
            );
            assert!(matches!(parse(text.as_bytes(), None, "x").unwrap(), Document::Manifest(_)), "{text}");
        }
        for end in ["", "+gzip", "+zstd"] {
            let text = image(&descriptor(&format!("{}{end}", LAYERS[0]), ""));
            assert!(
                matches!(parse(text.as_bytes(), None, "x").unwrap(), Document::Manifest(m) if m.layers.len() == 1)
            );
        }
        let foreign = descriptor(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            r#","urls":["http://x"]"#,
        );
        let many = vec![descriptor(LAYERS[0], ""); 513].join(",");
        let index = format!(r#"{{"manifests":[],"layers":[],"mediaType":"{OCI_INDEX}"}}"#);
        let helm = format!(
            r#"{{"config":{},"layers":[]}}"#,
            descriptor("application/vnd.cncf.helm.config.v1+json", "")
        );
        for (text, kind, words) in [
            (image(&foreign), Kind::Incompatible, "outside the registry"),
            (
                image(&descriptor(&format!("{}+encrypted", LAYERS[0]), "")),
                Kind::Incompatible,
                "no layer of files",
            ),
            (image(&many), Kind::Integrity, "513 layers"),
            (index, Kind::Integrity, "at once"),
            (helm, Kind::Incompatible, "not a container image"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), Kind::Incompatible, "schema 1"),
            (r#"{"schemaVersion":2}"#.into(), Kind::Integrity, "neither"),
            ("{".into(), Kind::Integrity, "cannot be read"),
            (r#"{"config":{"digest":"sha256:00","size":-1}}"#.into(), Kind::Integrity, "cannot be read"),
        ] {
            let error = parse(text.as_bytes(), None, "x").unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn a_platform_is_chosen() {
        let entry = |platform: &str| {
            let (os, architecture) = platform.split_once('/').unwrap();
            descriptor(
                OCI_MANIFEST,
                &format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"}}"#),
            )
        };
        let text = format!(
            r#"{{"manifests":[{},{},{}]}}"#,
            entry("unknown/unknown"),
            entry("linux/arm64"),
            entry("linux/amd64")
        );
        let Document::Index(list) = parse(text.as_bytes(), Some(DOCKER_LIST), "x").unwrap() else { panic!() };
        let chosen = choose(&list, &Platform::default(), "x").unwrap();
        assert_eq!(chosen.platform, Some(Platform::default()));
        let error = choose(&list, &"linux/s390x".parse().unwrap(), "x").unwrap_err();
        assert_eq!(error.to_string(), "x has no image for linux/s390x; there are: linux/arm64, linux/amd64");
    }
}
