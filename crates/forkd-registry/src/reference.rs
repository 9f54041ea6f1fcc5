//! What names an image or a release in a registry.

use forkd_core::{Error, Kind, Result};
use forkd_format::Digest;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

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

    /// The host without a port; an address of version 6 without brackets.
    #[must_use]
    pub fn host_name(&self) -> &str {
        match self.host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.host.split(':').next().unwrap_or_default(),
        }
    }

    /// Whether the registry is on this machine, and so spoken to without TLS.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let name = self.host_name();
        name == "localhost"
            || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
            || name.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// The root of the registry's interface, without a slash at the end. Without TLS only on this machine, or where `plain` asks for it.
    #[must_use]
    pub fn base(&self, plain: bool) -> String {
        let scheme = if plain || self.is_loopback() { "http" } else { "https" };
        let host = if self.is_docker_hub() { "registry-1.docker.io" } else { &self.host };
        format!("{scheme}://{host}/v2")
    }
}

impl RegistryReference {
    /// Reads `oci://HOST/NAME[:TAG][@sha256:HEX]`: the first part is a host, whatever it looks like.
    ///
    /// # Errors
    /// [`Kind::Usage`].
    pub fn parse_url(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let text = crate::shown::shown(text);
            Error::new(
                Kind::Usage,
                format!("'{text}': {why}; expected oci://HOST[:PORT]/NAME[:TAG][@sha256:HEX]"),
            )
        };
        let rest = text.strip_prefix("oci://").ok_or_else(|| wrong("it does not begin with oci://"))?;
        let (host, rest) = rest.split_once('/').ok_or_else(|| wrong("it names no repository"))?;
        if is_host_like(host) {
            return format!("{host}/{rest}").parse();
        }
        // With a domain that no host has, so that it is read as a host.
        let read: Self = format!("{host}.invalid/{rest}").parse()?;
        Ok(Self { host: host.to_ascii_lowercase(), ..read })
    }

    /// A registry by its host, without a repository.
    ///
    /// # Errors
    /// [`Kind::Usage`].
    pub fn of_host(host: &str) -> Result<Self> {
        let wrong = || {
            let message = format!("'{}' is no host; expected HOST[:PORT]", crate::shown::shown(host));
            Error::new(Kind::Usage, message)
        };
        let bare = host.strip_prefix("https://").or(host.strip_prefix("oci://")).unwrap_or(host);
        let bare = bare.trim_end_matches('/');
        let host = match bare {
            "index.docker.io" | "registry-1.docker.io" => HUB,
            other => other,
        };
        if !is_host(host) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_ascii_lowercase(), repository: String::new(), tag: None, digest: None })
    }

    /// What files of credentials call the registry.
    #[must_use]
    pub fn key(&self) -> &str {
        self.server()
    }

    /// What credential helpers call the registry.
    #[must_use]
    pub fn server(&self) -> &str {
        if self.is_docker_hub() { "https://index.docker.io/v1/" } else { &self.host }
    }

    /// The same as a URL, without tag and digest.
    #[must_use]
    pub fn url(&self) -> String {
        format!("oci://{}/{}", self.host, self.repository)
    }

    /// The same repository under another tag, or none.
    #[must_use]
    pub fn with_tag(&self, tag: Option<&str>) -> Self {
        Self { tag: tag.map(str::to_owned), digest: None, ..self.clone() }
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(parse("x").base(false), "https://registry-1.docker.io/v2");
        assert_eq!(parse("[::1]:5/x").base(false), "http://[::1]:5/v2");
        assert_eq!(parse("reg.example/x").base(true), "http://reg.example/v2");
    }

    #[test]
    fn urls_begin_with_a_host() {
        let hex = "e".repeat(64);
        for (text, whole) in [
            ("oci://localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
            ("oci://ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("oci://registry/a/b:v1", "registry/a/b:v1"),
            ("oci://docker.io/u/n", "docker.io/u/n:latest"),
            (&format!("oci://h.io/n@sha256:{hex}"), &format!("h.io/n@sha256:{hex}")),
        ] {
            assert_eq!(RegistryReference::parse_url(text).unwrap().to_string(), whole, "{text}");
        }
        for bad in [
            "oci://",
            "oci://x",
            "oci:///x",
            "oci://h.io/",
            "oci://h.io/X",
            "oci://u:p@h.io/x",
            "http://h.io/x",
            "oci://h io/x",
        ] {
            assert_eq!(RegistryReference::parse_url(bad).unwrap_err().kind(), Kind::Usage, "{bad}");
        }
        let reference = RegistryReference::parse_url("oci://registry/a/b:v1").unwrap();
        assert_eq!(reference.url(), "oci://registry/a/b");
        assert_eq!(reference.with_tag(Some("v2")).to_string(), "registry/a/b:v2");
    }
}
