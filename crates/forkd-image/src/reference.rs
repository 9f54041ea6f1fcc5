//! What the user calls an image, in skopeo's notation.

use forkd_core::{Error, Kind, Result};
use forkd_registry::RegistryReference;
use std::fmt;
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
                return Err(usage(format!(
                    "'{}' names no file; expected {form}",
                    forkd_registry::shown(text)
                )));
            }
            Ok(PathBuf::from(path))
        };
        let tag = name.map(str::to_owned);
        match transport {
            "docker" => {
                let rest = rest.strip_prefix("//").ok_or_else(|| {
                    usage(format!("'{}': expected docker://NAME[:TAG]", forkd_registry::shown(text)))
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
                        usage(format!("'@{}': expected @ and a number from 0", forkd_registry::shown(index)))
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
}
