//! What the user calls an image, in skopeo's notation.

use forkd_core::{Error, Kind, Result};
use forkd_format::Digest;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where an image is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    Registry(RegistryReference),
    /// In a folder of the OCI image layout: `oci:DIR[:TAG]`.
    Layout {
        dir: PathBuf,
        tag: Option<String>,
    },
    /// In a folder of one image, as skopeo copies it: `dir:DIR`.
    Folder(PathBuf),
    /// In a tar archive of such a folder: `oci-archive:FILE[:TAG]`.
    LayoutArchive {
        file: PathBuf,
        tag: Option<String>,
    },
    /// In an archive as `docker save` writes it: `docker-archive:FILE[:REFERENCE]`, or `:@N` for its N-th image.
    DockerArchive {
        file: PathBuf,
        image: Option<ArchiveImage>,
    },
}

/// Which image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveImage {
    /// The one with this name.
    Named(RegistryReference),
    /// By its place, from 0.
    Index(usize),
}

/// An image's name in a registry, complete: `docker.io/library/python:3.12-slim`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegistryReference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

const HUB: &str = "docker.io";

impl RegistryReference {
    /// The registry's host, with its port where one is named. Docker Hub's is `docker.io`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The name within the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; where neither tag nor digest is named, `latest`.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the manifest must have.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Whether it is Docker Hub's.
    #[must_use]
    pub fn is_docker_hub(&self) -> bool {
        self.host == HUB
    }

    /// Whether the registry is on this machine, and so spoken to without TLS.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let name = match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.host.split(':').next().unwrap_or_default(),
        };
        name == "localhost"
            || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
            || name.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// The root of the registry's interface, without a slash at the end.
    pub(crate) fn base(&self) -> String {
        let scheme = if self.is_loopback() { "http" } else { "https" };
        let host = if self.is_docker_hub() { "registry-1.docker.io" } else { &self.host };
        format!("{scheme}://{host}/v2")
    }
}

impl fmt::Display for RegistryReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@sha256:{digest}"))
    }
}

impl FromStr for RegistryReference {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let text = crate::shown::shown(text);
            Error::new(
                Kind::Usage,
                format!("'{text}' is no image: {why}; expected [HOST[:PORT]/]NAME[:TAG][@sha256:HEX]"),
            )
        };
        let (named, digest) = match text.split_once('@') {
            None => (text, None),
            Some((named, pin)) => {
                let hex = pin.strip_prefix("sha256:").ok_or_else(|| wrong("its digest is not sha256:HEX"))?;
                (named, Some(hex.parse::<Digest>().map_err(|e| wrong(&e.to_string()))?))
            }
        };
        let (host, rest) = match named.split_once('/') {
            Some((first, rest)) if is_host_like(first) => (first, rest),
            _ => (HUB, named),
        };
        if !is_host(host) {
            return Err(wrong("its host is not one"));
        }
        let host = if host == "index.docker.io" { HUB.to_owned() } else { host.to_ascii_lowercase() };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (rest, None),
        };
        if !tag.is_none_or(is_tag) {
            return Err(wrong("its tag is not letters, digits, '_', '.' and '-'"));
        }
        if !name.split('/').all(is_component) {
            return Err(wrong(
                "a name is of lower-case letters and digits, with single '.', '_' or '-' between",
            ));
        }
        let alone = host == HUB && !name.contains('/');
        if alone && name.parse::<Digest>().is_ok() {
            return Err(wrong("64 hexadecimal digits name no image"));
        }
        let repository = if alone { format!("library/{name}") } else { name.to_owned() };
        if repository.len() > 255 {
            return Err(wrong("its name has more than 255 characters"));
        }
        let tag = tag.or(if digest.is_none() { Some("latest") } else { None });
        Ok(Self { host, repository, tag: tag.map(str::to_owned), digest })
    }
}

/// Whether the part before the first slash is a host, and not a user of Docker Hub.
fn is_host_like(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':'])
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((ip, port)) if ip.parse::<Ipv6Addr>().is_ok() => {
                return port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            }
            _ => return false,
        },
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let label = |s: &str| {
        (1..=63).contains(&s.len())
            && !s.starts_with('-')
            && !s.ends_with('-')
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let between = |s: &str| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-');
    text.as_bytes().first().is_some_and(|b| word(*b))
        && text.as_bytes().last().is_some_and(|b| word(*b))
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'_' | b'-'))
        && text.split(|c: char| c.is_ascii_alphanumeric()).all(between)
}

impl FromStr for ImageSource {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let usage = |message: String| Error::new(Kind::Usage, message);
        let Some((transport, rest)) = text.split_once(':') else {
            return text.parse().map(Self::Registry);
        };
        // As skopeo does: a path ends at the first colon.
        let (path, name) = rest
            .split_once(':')
            .map_or((rest, None), |(path, name)| (path, Some(name).filter(|n| !n.is_empty())));
        let need_path = |form: &str| {
            if path.is_empty() || path.contains('\0') {
                return Err(usage(format!("'{}' names no file; expected {form}", crate::shown::shown(text))));
            }
            Ok(PathBuf::from(path))
        };
        let tag = name.map(str::to_owned);
        match transport {
            "docker" => {
                let rest = rest.strip_prefix("//").ok_or_else(|| {
                    usage(format!("'{}': expected docker://NAME[:TAG]", crate::shown::shown(text)))
                })?;
                rest.parse().map(Self::Registry)
            }
            "oci" => Ok(Self::Layout { dir: need_path("oci:DIR[:TAG]")?, tag }),
            // Skopeo's has no tags: all of it is a path.
            "dir" if !rest.is_empty() && !rest.contains('\0') => Ok(Self::Folder(PathBuf::from(rest))),
            "dir" => Err(usage("'dir:' names no folder; expected dir:DIR".to_owned())),
            "oci-archive" => Ok(Self::LayoutArchive { file: need_path("oci-archive:FILE[:TAG]")?, tag }),
            "docker-archive" => {
                let file = need_path("docker-archive:FILE[:REFERENCE]")?;
                let image = match name.map(|name| (name, name.strip_prefix('@'))) {
                    None => None,
                    Some((_, Some(index))) => Some(ArchiveImage::Index(index.parse().map_err(|_| {
                        usage(format!("'@{}': expected @ and a number from 0", crate::shown::shown(index)))
                    })?)),
                    Some((name, None)) => Some(ArchiveImage::Named(name.parse()?)),
                };
                Ok(Self::DockerArchive { file, image })
            }
            "docker-daemon" | "containers-storage" => Err(usage(format!(
                "{transport}: is not read directly; write the image to a file first, by `docker save -o FILE NAME` or `podman save \
-o FILE NAME`, and name docker-archive:FILE"
            ))),
            _ => text.parse().map(Self::Registry),
        }
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, name) = match self {
            Self::Registry(reference) => return reference.fmt(f),
            Self::Layout { dir, tag } => ("oci", dir, tag.clone()),
            Self::Folder(dir) => ("dir", dir, None),
            Self::LayoutArchive { file, tag } => ("oci-archive", file, tag.clone()),
            Self::DockerArchive { file, image } => (
                "docker-archive",
                file,
                image.as_ref().map(|image| match image {
                    ArchiveImage::Named(reference) => reference.to_string(),
                    ArchiveImage::Index(index) => format!("@{index}"),
                }),
            ),
        };
        write!(f, "{transport}:{}", path.display())?;
        name.map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let long = format!("docker.io/library/x@sha256:{hex}");
        for (text, whole) in [
            ("python", "docker.io/library/python:latest"),
            ("python:3.12-slim", "docker.io/library/python:3.12-slim"),
            ("docker://python", "docker.io/library/python:latest"),
            ("user/name", "docker.io/user/name:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/a/b", "docker.io/a/b:latest"),
            ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("Ghcr.io/x", "ghcr.io/x:latest"),
            ("a__b/c-d.e---f", "docker.io/a__b/c-d.e---f:latest"),
            ("oci:/tmp/x:v1", "oci:/tmp/x:v1"),
            ("oci:dir", "oci:dir"),
            ("dir:/tmp/a:b", "dir:/tmp/a:b"),
            ("docker-archive:a.tar:busybox", "docker-archive:a.tar:docker.io/library/busybox:latest"),
            ("docker-archive:a.tar:@1", "docker-archive:a.tar:@1"),
            ("oci-archive:a.tar", "oci-archive:a.tar"),
            (&format!("x@sha256:{hex}"), &long),
            (&format!("x:v1@sha256:{hex}"), &format!("docker.io/library/x:v1@sha256:{hex}")),
        ] {
            let source: ImageSource = text.parse().unwrap();
            assert_eq!(source.to_string(), whole);
            assert_eq!(whole.parse::<ImageSource>().unwrap(), source, "{text}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let hex = "e".repeat(64);
        let long = "x".repeat(250);
        for bad in [
            "",
            "/x",
            "x/",
            "a//b",
            "X",
            "Host/x",
            &long,
            "x:",
            "x:-a",
            "x:a b",
            "x@",
            "x@sha256:00",
            "x@sha512:00",
            "a:b:c",
            "host:99999/x",
            "host:/x",
            "[::g]/x",
            "-a.b/x",
            "a..b/x",
            "a___b",
            "../x",
            "a/../b",
            "docker:x",
            "oci:",
            "dir:",
            "docker-archive:",
            "docker-archive::x",
            "docker-archive:a:@x",
            "docker-daemon:x:y",
            &hex,
            "a.b/",
            "é",
            "a-",
            "user:pw@host.io/x",
            "http://host/x",
        ] {
            let error = bad.parse::<ImageSource>().unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn this_machine_is_known() {
        let parse = |text: &str| text.parse::<RegistryReference>().unwrap();
        for (text, loopback) in [
            ("localhost/x", true),
            ("localhost:1/x", true),
            ("127.0.0.1:5000/x", true),
            ("[::1]:5/x", true),
            ("10.0.0.1/x", false),
            ("localhost.example.com/x", false),
            ("[fe80::1]/x", false),
            ("x", false),
        ] {
            assert_eq!(parse(text).is_loopback(), loopback, "{text}");
        }
        assert_eq!(parse("x").base(), "https://registry-1.docker.io/v2");
        assert_eq!(parse("[::1]:5/x").base(), "http://[::1]:5/v2");
    }
}
