use crate::digest::Digest;
use crate::error::FormatError;
use std::fmt;

/// A name in a registry: `owner/name[@version][@sha256:<hex>]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `owner/name`, the key in registry.json.
    pub package: String,
    /// The version asked for; `latest` where none is named.
    pub version: String,
    /// The digest that the pack must have, where the reference pins one.
    pub digest: Option<Digest>,
}

impl std::str::FromStr for Reference {
    type Err = FormatError;
    fn from_str(text: &str) -> Result<Self, FormatError> {
        let wrong = || FormatError::Reference(crate::error::shorten(text));
        let word = |s: &str| {
            !s.is_empty()
                && s.len() <= 128
                && !s.starts_with(['.', '-'])
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+'))
        };
        let mut parts = text.split('@');
        let package = parts.next().unwrap_or_default();
        let (owner, name) = package.split_once('/').ok_or_else(wrong)?;
        if !word(owner) || !word(name) {
            return Err(wrong());
        }
        let (mut version, mut digest) = (None, None);
        for part in parts {
            if let Some(hex) = part.strip_prefix("sha256:") {
                if digest.replace(hex.parse()?).is_some() {
                    return Err(wrong());
                }
            } else if !word(part) || digest.is_some() || version.replace(part.to_owned()).is_some() {
                return Err(wrong());
            }
        }
        Ok(Self { package: package.to_owned(), version: version.unwrap_or_else(|| "latest".into()), digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.package, self.version)?;
        self.digest.map_or(Ok(()), |digest| write!(f, "@sha256:{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_documented_forms() {
        let plain: Reference = "acme/python-numpy".parse().unwrap();
        assert_eq!((plain.package.as_str(), plain.version.as_str()), ("acme/python-numpy", "latest"));
        assert_eq!("acme/x@v1".parse::<Reference>().unwrap().version, "v1");
        let digest = Digest::of(b"");
        let pinned: Reference = format!("acme/x@v1@sha256:{digest}").parse().unwrap();
        assert_eq!((pinned.version.as_str(), pinned.digest), ("v1", Some(digest)));
    }

    #[test]
    fn refuses_the_rest() {
        for bad in ["x", "a/b/c", "/b", "a/", "a/b@", "../b", "a/b@v1@v2", "a/b@sha256:00", "a b/c", "a/b@@"]
        {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
