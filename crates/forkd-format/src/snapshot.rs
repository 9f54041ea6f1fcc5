use crate::digest::Digest;
use crate::error::FormatError;
use crate::paged::WorkingSet;
use crate::sizes::PAGE_SIZE;
use crate::tag::Tag;
use serde_json::{Map, Value};

/// A parsed `snapshot.json` (`docs/format/snapshot.md`). Unknown keys survive a round trip, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot(Map<String, Value>);

/// The files that `frozen` may name.
const FROZEN_FILES: [&str; 3] = ["memory", "vmstate", "rootfs"];

/// A value as it may stand in a message.
fn short(value: &Value) -> String {
    match value {
        Value::Array(items) if items.len() > 2 => format!("an array of {}", items.len()),
        Value::Object(fields) if fields.len() > 4 => format!("an object of {}", fields.len()),
        other => crate::error::shorten(&other.to_string()),
    }
}

/// The edge from a chain link to its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentLink {
    /// What the parent was called when the link was made.
    pub tag: Tag,
    /// SHA-256 of the parent's `memory.bin`, where the snapshot names one.
    pub content_hash: Option<Digest>,
}

/// Whether one of some runs of pages, which ascend as [`Snapshot::zero_pages`] does, has a page.
#[must_use]
pub fn is_in_runs(runs: &[(u64, u64)], page: u64) -> bool {
    let after = runs.partition_point(|(first, _)| *first <= page);
    after.checked_sub(1).is_some_and(|at| page - runs[at].0 < runs[at].1)
}

/// A file of a running machine, as its working set names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NeededFile {
    /// The guest's memory; of a chain, assembled.
    Memory,
    /// The root disk.
    Rootfs,
}

/// Pages of a file that a fork needs one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeededRun {
    /// Where they are.
    pub file: NeededFile,
    /// The first one, in pages of [`PAGE_SIZE`].
    pub first: u64,
    /// How many, from 1.
    pub count: u64,
}

impl Snapshot {
    /// The largest `snapshot.json` that is read, in bytes.
    pub const MAX_LEN: u64 = 1 << 20;

    /// An empty description, to be filled by the engine that bakes a snapshot.
    #[must_use]
    pub fn new(fields: Map<String, Value>) -> Self {
        Self(fields)
    }

    /// Parses and checks the types of the known keys.
    ///
    /// # Errors
    /// [`FormatError::Snapshot`] where the text is not a JSON object or a known key has another type.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let wrong = |message: String| FormatError::Snapshot(message);
        if bytes.len() as u64 > Self::MAX_LEN {
            return Err(wrong(format!("{} bytes; at most {} are read", bytes.len(), Self::MAX_LEN)));
        }
        let value: Value = serde_json::from_slice(bytes).map_err(|e| wrong(e.to_string()))?;
        let Value::Object(map) = value else { return Err(wrong("expected a JSON object".into())) };
        for key in ["vmstate", "memory", "rootfs", "parent_tag", "parent_content_hash"] {
            if map.get(key).is_some_and(|v| !v.is_string() && !v.is_null()) {
                return Err(wrong(format!("'{key}' is not a string")));
            }
        }
        if map.get("volumes").is_some_and(|v| !v.is_array() && !v.is_null()) {
            return Err(wrong("'volumes' is not an array".into()));
        }
        let snapshot = Self(map);
        snapshot.parent()?;
        snapshot.zero_pages()?;
        snapshot.working_set()?;
        for name in FROZEN_FILES {
            snapshot.frozen_file(name)?;
        }
        Ok(snapshot)
    }

    /// Pages of a chain link that are all zero although the parent's are not, as runs: the first page and how many, in pages
    /// of [`PAGE_SIZE`], ascending, with something between them. That they lie inside the memory is not known here.
    ///
    /// # Errors
    /// [`FormatError::Snapshot`] where the list is something else.
    pub fn zero_pages(&self) -> Result<Vec<(u64, u64)>, FormatError> {
        let wrong = |message: String| FormatError::Snapshot(format!("'zero_pages': {message}"));
        let runs = match self.0.get("zero_pages") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(runs)) => runs,
            Some(other) => return Err(wrong(format!("expected an array, found {}", short(other)))),
        };
        let mut found: Vec<(u64, u64)> = Vec::with_capacity(runs.len());
        for run in runs {
            let pair = run.as_array().map(Vec::as_slice).and_then(|run| match run {
                [first, count] => first.as_u64().zip(count.as_u64()).filter(|(_, count)| *count > 0),
                _ => None,
            });
            let (first, count) =
                pair.ok_or_else(|| wrong(format!("expected [page, count], found {}", short(run))))?;
            if first.checked_add(count).is_none_or(|end| end > u64::MAX / PAGE_SIZE as u64) {
                return Err(wrong(format!("{} is beyond any memory", short(run))));
            }
            if let Some((before, len)) = found.last()
                && first <= before + len
            {
                return Err(wrong(format!("[{first},{count}] is not behind [{before},{len}]")));
            }
            found.push((first, count));
        }
        Ok(found)
    }

    /// The pages that a fork needs first, in that order; that they lie inside the files is not known here.
    ///
    /// # Errors
    /// [`FormatError::Snapshot`] where the list is something else.
    pub fn working_set(&self) -> Result<Vec<NeededRun>, FormatError> {
        let wrong = |found: &Value| {
            let expected = "expected an array of [\"memory\" or \"rootfs\", page, count], found";
            FormatError::Snapshot(format!("'working_set': {expected} {}", short(found)))
        };
        let runs = match self.0.get("working_set") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(runs)) => runs,
            Some(other) => return Err(wrong(other)),
        };
        let mut found = Vec::with_capacity(runs.len());
        let mut total = 0;
        for run in runs {
            let parse = |fields: &[Value]| match fields {
                [file, first, count] => {
                    let file = match file.as_str()? {
                        "memory" => NeededFile::Memory,
                        "rootfs" => NeededFile::Rootfs,
                        _ => return None,
                    };
                    Some(NeededRun { file, first: first.as_u64()?, count: count.as_u64()? })
                }
                _ => None,
            };
            let run = run.as_array().and_then(|fields| parse(fields)).ok_or_else(|| wrong(run))?;
            total = run.count.saturating_add(total);
            let end = run.first.checked_add(run.count);
            if run.count == 0
                || total > WorkingSet::MAX_PAGES
                || end.is_none_or(|end| end > u64::MAX / PAGE_SIZE as u64)
            {
                let message =
                    format!("'working_set': more than {} pages, or none in a run", WorkingSet::MAX_PAGES);
                return Err(FormatError::Snapshot(message));
            }
            found.push(run);
        }
        Ok(found)
    }

    /// A copy with another working set; none where it is empty.
    #[must_use]
    pub fn with_working_set(&self, runs: &[NeededRun]) -> Self {
        let run = |run: &NeededRun| {
            let file = match run.file {
                NeededFile::Memory => "memory",
                NeededFile::Rootfs => "rootfs",
            };
            Value::from(vec![Value::from(file), run.first.into(), run.count.into()])
        };
        let runs: Vec<Value> = runs.iter().map(run).collect();
        self.with("working_set", (!runs.is_empty()).then(|| runs.into()))
    }

    /// What a machine was frozen with: the size in bytes and the digest of its `memory` (that of a chain, assembled), its
    /// `vmstate` or its `rootfs`.
    #[must_use]
    pub fn frozen(&self, name: &str) -> Option<(u64, Digest)> {
        self.frozen_file(name).ok().flatten()
    }

    fn frozen_file(&self, name: &str) -> Result<Option<(u64, Digest)>, FormatError> {
        let is_set = |value: &&Value| !value.is_null();
        let Some(frozen) = self.0.get("frozen").filter(is_set) else { return Ok(None) };
        let wrong = |what: String| FormatError::Snapshot(what);
        let files = frozen
            .as_object()
            .ok_or_else(|| wrong(format!("'frozen' is {}, not an object", short(frozen))))?;
        let Some(file) = files.get(name).filter(is_set) else { return Ok(None) };
        let bytes = file.get("bytes").and_then(Value::as_u64);
        let sha256 = file.get("sha256").and_then(Value::as_str).and_then(|text| text.parse().ok());
        bytes.zip(sha256).map(Some).ok_or_else(|| {
            wrong(format!("'frozen.{name}': expected 'bytes' and 'sha256', found {}", short(file)))
        })
    }

    /// A copy with another value of a key, at the key's place or, where it is new, at the end; `None` takes the key away.
    #[must_use]
    pub fn with(&self, key: &str, value: Option<Value>) -> Self {
        let mut map = self.0.clone();
        match value {
            Some(value) => map.insert(key.to_owned(), value),
            None => map.shift_remove(key),
        };
        Self(map)
    }

    /// The parent in the chain, or `None` for a base.
    ///
    /// # Errors
    /// [`FormatError`] where the tag or the hash is malformed, or a hash stands without a tag.
    pub fn parent(&self) -> Result<Option<ParentLink>, FormatError> {
        match (self.text("parent_tag"), self.text("parent_content_hash")) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(FormatError::Snapshot("parent_content_hash without parent_tag".into())),
            (Some(tag), hash) => {
                Ok(Some(ParentLink { tag: tag.parse()?, content_hash: hash.map(str::parse).transpose()? }))
            }
        }
    }

    /// The path of a rootfs, as the host that wrote the file named it.
    #[must_use]
    pub fn rootfs(&self) -> Option<&str> {
        self.text("rootfs")
    }

    /// The value of a key, known to this forkd or not.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    /// Points `vmstate`, `memory` and, where `rootfs` is given, `rootfs` into a folder. An empty prefix makes
    /// them bare file names: the form that goes into a pack, the same on every host.
    #[must_use]
    pub fn relocated(&self, prefix: &str, rootfs: Option<&str>) -> Self {
        let mut map = self.0.clone();
        map.insert("vmstate".into(), Value::String(format!("{prefix}vmstate")));
        map.insert("memory".into(), Value::String(format!("{prefix}memory.bin")));
        match rootfs {
            Some(path) => map.insert("rootfs".into(), Value::String(path.to_owned())),
            None => map.shift_remove("rootfs"),
        };
        Self(map)
    }

    /// What is written to `snapshot.json`: JSON on one line, keys in their order.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        Value::Object(self.0.clone()).to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_their_pages_and_no_others() {
        let runs = [(3, 2), (7, 1), (10, 5)];
        let held: Vec<u64> = (0..20).filter(|page| is_in_runs(&runs, *page)).collect();
        assert_eq!(held, [3, 4, 7, 10, 11, 12, 13, 14]);
        assert!(!is_in_runs(&[], 0));
    }

    #[test]
    fn a_working_set_is_read_as_it_was_written_or_refused() {
        let runs = [
            NeededRun { file: NeededFile::Rootfs, first: 0, count: 1 },
            NeededRun { file: NeededFile::Memory, first: 7, count: 3 },
        ];
        let snapshot = Snapshot::parse(b"{\"a\":1}").unwrap().with_working_set(&runs);
        let read = Snapshot::parse(&snapshot.to_bytes()).unwrap();
        assert_eq!(read.working_set().unwrap(), runs);
        assert_eq!(read.with_working_set(&[]), Snapshot::parse(b"{\"a\":1}").unwrap());
        for wrong in [
            "1",
            "[1]",
            "[[\"memory\",1]]",
            "[[\"vmstate\",1,1]]",
            "[[\"memory\",1,0]]",
            "[[\"memory\",-1,1]]",
        ] {
            assert!(Snapshot::parse(format!("{{\"working_set\":{wrong}}}").as_bytes()).is_err(), "{wrong}");
        }
        for wrong in ["[[\"memory\",0,65537]]", "[[\"memory\",18446744073709551615,1]]"] {
            assert!(Snapshot::parse(format!("{{\"working_set\":{wrong}}}").as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn unknown_keys_survive_in_order() {
        let text = br#"{"zeta":[1,{"a":null}],"vmstate":"/h/v","memory":"/h/m","volumes":[],"rootfs":"/h/r","b":1.50}"#;
        let moved = Snapshot::parse(text).unwrap().relocated("/new/", None);
        assert_eq!(
            String::from_utf8(moved.to_bytes()).unwrap(),
            r#"{"zeta":[1,{"a":null}],"vmstate":"/new/vmstate","memory":"/new/memory.bin","volumes":[],"b":1.50}"#
        );
    }

    #[test]
    fn zero_pages_are_runs_in_order() {
        let parse = |runs: &str| Snapshot::parse(format!(r#"{{"zero_pages":{runs}}}"#).as_bytes());
        let runs = |text: &str| parse(text).unwrap().zero_pages().unwrap();
        assert_eq!(runs("null"), []);
        assert_eq!(runs("[]"), []);
        assert_eq!(runs("[[0,1],[2,5],[8,1]]"), [(0, 1), (2, 5), (8, 1)]);
        assert_eq!(Snapshot::parse(b"{}").unwrap().zero_pages(), Ok(Vec::new()));
        for (bad, found) in [
            ("{}", "expected an array, found {}"),
            ("[7]", "expected [page, count], found 7"),
            ("[[1,2,3]]", "found an array of 3"),
            ("[[1,0]]", "found [1,0]"),
            ("[[-1,1]]", "found [-1,1]"),
            ("[[1.5,1]]", "found [1.5,1]"),
            ("[[0,1],[1,1]]", "[1,1] is not behind [0,1]"),
            ("[[5,2],[3,1]]", "[3,1] is not behind [5,2]"),
            ("[[5,2],[6,9]]", "[6,9] is not behind [5,2]"),
            ("[[18446744073709551615,1]]", "beyond any memory"),
            ("[[4503599627370495,9]]", "beyond any memory"),
        ] {
            let message = parse(bad).unwrap_err().to_string();
            assert!(message.contains("'zero_pages'") && message.contains(found), "{bad}: {message}");
        }
    }

    #[test]
    fn frozen_names_what_it_was_frozen_with() {
        let digest = Digest::of(b"x");
        let text =
            format!(r#"{{"frozen":{{"memory":{{"bytes":4096,"sha256":"{digest}"}},"vmstate":null}}}}"#);
        let snapshot = Snapshot::parse(text.as_bytes()).unwrap();
        assert_eq!(snapshot.frozen("memory"), Some((4096, digest)));
        assert_eq!((snapshot.frozen("vmstate"), snapshot.frozen("rootfs")), (None, None));
        assert_eq!(Snapshot::parse(br#"{"frozen":null}"#).unwrap().frozen("memory"), None);
        for bad in [
            r#"{"frozen":1}"#,
            r#"{"frozen":{"memory":1}}"#,
            r#"{"frozen":{"rootfs":{"bytes":1}}}"#,
            r#"{"frozen":{"vmstate":{"bytes":-1,"sha256":"00"}}}"#,
        ] {
            assert!(Snapshot::parse(bad.as_bytes()).unwrap_err().to_string().contains("'frozen"), "{bad}");
        }
    }

    #[test]
    fn a_changed_copy_keeps_the_order() {
        let snapshot = Snapshot::parse(br#"{"a":1,"parent_tag":"p","b":1.50}"#).unwrap();
        let text = |snapshot: &Snapshot| String::from_utf8(snapshot.to_bytes()).unwrap();
        assert_eq!(text(&snapshot.with("parent_tag", None)), r#"{"a":1,"b":1.50}"#);
        let changed = snapshot.with("a", Some(Value::from(2))).with("z", Some(Value::Null));
        assert_eq!(text(&changed), r#"{"a":2,"parent_tag":"p","b":1.50,"z":null}"#);
    }

    #[test]
    fn a_malformed_parent_is_refused() {
        for bad in [
            r#"{"parent_tag":"../x"}"#,
            r#"{"parent_tag":"x","parent_content_hash":"zz"}"#,
            r#"{"parent_content_hash":"00"}"#,
            r#"{"parent_tag":1}"#,
            "[]",
            "",
        ] {
            assert!(Snapshot::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
