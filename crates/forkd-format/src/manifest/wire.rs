//! A manifest's text, read and written.

use super::base::Base;
use super::document::Manifest;
use super::link::{FileEntry, IndexEntry, Link, MAX_MANIFEST, RootfsSidecar};
use super::rules::{check, wrong};
use crate::error::FormatError;
use crate::tag::Tag;
use serde::{Deserialize, Serialize};

/// The keys as they stand in the file, in their order.
#[derive(Serialize, Deserialize)]
struct Wire {
    forkd_pack_version: u32,
    tag: Tag,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base_image: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forkd_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_tag: Option<Tag>,
    #[serde(default)]
    files: Vec<FileEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    chain: Vec<Link>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rootfs: Option<RootfsSidecar>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<IndexEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bases: Vec<Base>,
}

#[derive(Deserialize)]
struct VersionOnly {
    forkd_pack_version: i64,
}

impl Manifest {
    /// Parses a manifest and checks every rule that it can be held to by itself.
    ///
    /// # Errors
    /// [`FormatError::Manifest`], [`FormatError::Tag`] or [`FormatError::Digest`].
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(wrong(format!("{} bytes; at most {MAX_MANIFEST} are read", bytes.len())));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("not UTF-8"))?;
        let VersionOnly { forkd_pack_version } = toml::from_str(text).map_err(toml_error)?;
        if !matches!(forkd_pack_version, 1..=3) {
            return Err(wrong(format!(
                "forkd_pack_version is {forkd_pack_version}; this forkd reads 1 to 3 (a newer forkd may read it)"
            )));
        }
        let wire: Wire = toml::from_str(text).map_err(toml_error)?;
        let manifest = Self::from_wire(wire)?;
        check(&manifest)?;
        Ok(manifest)
    }

    fn from_wire(wire: Wire) -> Result<Self, FormatError> {
        let links = if wire.forkd_pack_version == 1 {
            if !wire.chain.is_empty() || wire.parent_tag.is_some() {
                return Err(wrong("version 1 holds one base: 'chain' and 'parent_tag' belong to version 2"));
            }
            vec![Link {
                tag: wire.tag.clone(),
                parent_tag: None,
                parent_content_hash: None,
                files: wire.files,
            }]
        } else {
            if !wire.files.is_empty() || wire.rootfs.is_some() {
                return Err(wrong(
                    "versions 2 and 3 list their files under 'chain': expected files = [] and no [rootfs]",
                ));
            }
            if wire.chain.last().is_none_or(|head| head.tag != wire.tag || head.parent_tag != wire.parent_tag)
            {
                return Err(wrong(format!("the last link of the chain is not the head '{}'", wire.tag)));
            }
            wire.chain
        };
        Ok(Self {
            version: wire.forkd_pack_version,
            tag: wire.tag,
            description: wire.description,
            base_image: wire.base_image,
            created_at: wire.created_at,
            forkd_version: wire.forkd_version,
            links,
            rootfs: wire.rootfs,
            index: wire.index,
            bases: wire.bases,
        })
    }

    /// The manifest's bytes. Its length depends on no digest, so that room can be kept for it before any is known.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let one = self.version == 1;
        let wire = Wire {
            forkd_pack_version: self.version,
            tag: self.tag.clone(),
            description: self.description.clone(),
            base_image: self.base_image.clone(),
            created_at: self.created_at.clone(),
            forkd_version: self.forkd_version.clone(),
            parent_tag: self.head().parent_tag.clone(),
            files: if one { self.head().files.clone() } else { Vec::new() },
            chain: if one { Vec::new() } else { self.links.clone() },
            rootfs: self.rootfs.clone(),
            index: self.index.clone(),
            bases: self.bases.clone(),
        };
        // Strings, integers and tables of them always have a TOML form.
        toml::to_string(&wire).unwrap_or_default().into_bytes()
    }
}

#[allow(clippy::needless_pass_by_value, reason = "used as a map_err argument")]
fn toml_error(error: toml::de::Error) -> FormatError {
    wrong(error.message().chars().take(200).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::link::{MEMORY, SNAPSHOT_JSON, VMSTATE};
    use super::*;
    use crate::digest::Digest;

    fn entry(path: &str, seed: &str) -> FileEntry {
        let sha256 = Digest::of(format!("{path}{seed}").as_bytes());
        FileEntry { path: path.into(), size: 10, sha256, root: None }
    }

    fn chain(depth: usize) -> Manifest {
        let mut links: Vec<Link> = Vec::new();
        for i in 0..depth {
            links.push(Link {
                tag: format!("t{i}").parse().unwrap(),
                parent_tag: links.last().map(|l| l.tag.clone()),
                parent_content_hash: links.last().and_then(Link::memory),
                files: [SNAPSHOT_JSON, VMSTATE, MEMORY].iter().map(|p| entry(p, &i.to_string())).collect(),
            });
        }
        Manifest {
            version: if depth == 1 { 1 } else { 2 },
            tag: links[depth - 1].tag.clone(),
            description: Some("a \"quoted\"\nthing".into()),
            base_image: None,
            created_at: Some("2026-01-02T03:04:05Z".into()),
            forkd_version: Some("0.6.0".into()),
            links,
            rootfs: None,
            index: None,
            bases: Vec::new(),
        }
    }

    fn refused(edit: impl Fn(&mut Manifest)) -> String {
        let mut manifest = chain(3);
        edit(&mut manifest);
        Manifest::parse(&manifest.to_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn round_trips() {
        for depth in 1..=16 {
            let manifest = chain(depth);
            assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
        }
    }

    #[test]
    fn writes_the_layout_that_existing_hosts_read() {
        let text = String::from_utf8(chain(2).to_bytes()).unwrap();
        assert!(text.starts_with("forkd_pack_version = 2\ntag = \"t1\"\n"), "{text}");
        assert!(text.contains("\nparent_tag = \"t0\"\nfiles = []\n\n[[chain]]\ntag = \"t0\"\n"), "{text}");
        let text = String::from_utf8(chain(1).to_bytes()).unwrap();
        assert!(text.contains("\n\n[[files]]\npath = \"snapshot.json\"\nsize = 10\nsha256 = \""), "{text}");
        assert!(!text.contains("chain") && !text.contains("parent"), "{text}");
    }

    #[test]
    fn broken_edges_are_refused() {
        assert!(
            refused(|m| m.links[1].parent_tag = Some("t2".parse().unwrap())).contains("names the parent")
        );
        assert!(
            refused(|m| m.links[2].parent_content_hash = Some(Digest::of(b"x"))).contains("not the digest")
        );
        assert!(refused(|m| m.links[2].parent_content_hash = None).contains("not the digest"));
        assert!(refused(|m| m.links[0].parent_tag = Some("t2".parse().unwrap())).contains("root link"));
        assert!(refused(|m| m.tag = "t1".parse().unwrap()).contains("not the head"));
        assert!(refused(|m| m.links[1] = m.links[0].clone()).contains("two links"));
        assert!(refused(|m| m.links[1].tag = "T0".parse().unwrap()).contains("two links"));
    }

    #[test]
    fn unsafe_and_unknown_names_are_refused() {
        assert!(refused(|m| m.links[0].files[0].path = "../x".into()).contains("declares '../x'"));
        assert!(
            refused(|m| m.links[0].files[0].path = "Memory.bin".into()).contains("declares 'Memory.bin'")
        );
        assert!(refused(|m| m.links[0].files[0] = m.links[0].files[1].clone()).contains("twice"));
        assert!(refused(|m| drop(m.links[0].files.pop())).contains("declares no memory.bin"));
    }

    #[test]
    fn sizes_and_versions_are_bounded() {
        assert!(refused(|m| m.links[0].files[2].size = 4 << 40).contains("declares"));
        assert!(refused(|m| m.links[0].files[0].size = 2 << 20).contains("snapshot.json of"));
        let text = String::from_utf8(chain(1).to_bytes()).unwrap();
        for version in ["0", "4", "99", "-1"] {
            let other = text.replace("forkd_pack_version = 1", &format!("forkd_pack_version = {version}"));
            assert!(Manifest::parse(other.as_bytes()).unwrap_err().to_string().contains("reads 1 to 3"));
        }
        let huge = text.replace("size = 10", "size = 9223372036854775808");
        assert!(Manifest::parse(huge.as_bytes()).is_err());
        assert!(Manifest::parse(text.replace("tag = \"t0\"", "tag = \"../x\"").as_bytes()).is_err());
        assert!(Manifest::parse(&vec![b'#'; MAX_MANIFEST as usize + 1]).is_err());
    }
}
