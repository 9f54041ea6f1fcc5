use crate::error::FormatError;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The local name of a snapshot: `[A-Za-z0-9_][A-Za-z0-9._-]{0,63}`.
///
/// A `Tag` can stand as one path component anywhere: it is never empty, `.`, `..` or hidden, and holds no separator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl Tag {
    /// The longest tag, in bytes.
    pub const MAX_LEN: usize = 64;

    /// As it is printed, and as a folder's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Tag {
    type Error = FormatError;
    fn try_from(text: String) -> Result<Self, FormatError> {
        let tail_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let valid = match text.as_bytes() {
            [first, rest @ ..] => {
                (first.is_ascii_alphanumeric() || *first == b'_')
                    && rest.len() < Self::MAX_LEN
                    && rest.iter().all(|b| tail_ok(*b))
            }
            [] => false,
        };
        if valid { Ok(Self(text)) } else { Err(FormatError::Tag(crate::error::shorten(&text))) }
    }
}

impl std::str::FromStr for Tag {
    type Err = FormatError;
    fn from_str(text: &str) -> Result<Self, FormatError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_specification_names() {
        for good in ["a", "_", "9", "python-numpy", "py3.12_x", &"x".repeat(64)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
    }

    #[test]
    fn refuses_everything_that_could_leave_a_folder() {
        for bad in ["", ".", "..", "../x", "a/b", "-x", ".x", "a b", "a\0b", "é", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
    }
}
