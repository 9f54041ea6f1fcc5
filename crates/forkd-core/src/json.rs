//! How reports are written as JSON (`docs/json.md`): for `#[serde(serialize_with = …)]`.

use forkd_format::Tag;
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A time that something took, in seconds with fractions.
///
/// # Errors
/// The serializer's.
pub fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// A path; what is not UTF-8 in it is replaced.
///
/// # Errors
/// The serializer's.
pub fn path<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// As people read it.
///
/// # Errors
/// The serializer's.
pub fn shown<S: Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A point in time: RFC 3339, UTC, whole seconds; `null` where no calendar has it.
pub(crate) fn point<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let point = i64::try_from(since.as_secs()).ok().and_then(|secs| jiff::Timestamp::from_second(secs).ok());
    point.map(|point| point.to_string()).serialize(serializer)
}

/// Bytes by the tag that had them.
pub(crate) fn by_tag<S: Serializer>(bytes: &BTreeMap<Tag, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Entry<'a> {
        tag: &'a Tag,
        bytes: u64,
    }
    let mut list = serializer.serialize_seq(Some(bytes.len()))?;
    for (tag, bytes) in bytes {
        list.serialize_element(&Entry { tag, bytes: *bytes })?;
    }
    list.end()
}
