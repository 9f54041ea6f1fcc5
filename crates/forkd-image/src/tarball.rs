//! Where files lie in an uncompressed tar. Its names are keys of a map, never paths of this host.

use forkd_core::{Error, Kind, Result};
use forkd_format::tar_rules::{MalformedPax, PaxRecords, checksum_holds, number};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const BLOCK: u64 = 512;
const MAX_ENTRIES: usize = 1 << 16;
/// For names, and the pax records that hold them.
const MAX_EXTRA: u64 = 1 << 20;
/// For all names and links together, in bytes.
const MAX_NAMES: usize = 16 << 20;
const MAX_HOPS: usize = 8;

/// What can be read at offsets.
pub(crate) trait ReadAt {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl ReadAt for &[u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = start.checked_add(buffer.len()).and_then(|end| self.get(start..end));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

enum Entry {
    File {
        offset: u64,
        len: u64,
    },
    /// Another name in the archive.
    Link(String),
}

/// The files of an archive.
pub(crate) struct Tarball {
    entries: HashMap<String, Entry>,
}

impl Tarball {
    /// Reads all headers of an archive of `len` bytes; `what` is for messages.
    pub(crate) fn index(source: &impl ReadAt, len: u64, what: &str) -> Result<Self> {
        let wrong = |why: String| Error::new(Kind::Integrity, format!("{what}: {why}"));
        let mut entries = HashMap::new();
        let (mut at, mut count, mut names) = (0, 0, 0);
        let (mut long_name, mut long_link, mut pax): (Option<String>, Option<String>, Pax) =
            Default::default();
        let mut header = tar::Header::new_old();
        while at + BLOCK <= len {
            source
                .read_exact_at(header.as_mut_bytes(), at)
                .map_err(|e| wrong(format!("cannot be read: {e}")))?;
            if header.as_bytes().iter().all(|b| *b == 0) {
                break;
            }
            if !checksum_holds(&header) {
                return Err(wrong(format!("no tar archive, or damaged at byte {at}")));
            }
            count += 1;
            if count > MAX_ENTRIES {
                return Err(wrong(format!("more than {MAX_ENTRIES} files")));
            }
            at += BLOCK;
            let kind = header.entry_type();
            let extra = kind.is_gnu_longname() || kind.is_gnu_longlink() || kind.is_pax_local_extensions();
            let size = header.size().map_err(|e| wrong(format!("a damaged header: {e}")))?;
            let size = pax.size.filter(|_| !extra).unwrap_or(size);
            let end = at.checked_add(size).filter(|end| *end <= len);
            let end = end.ok_or_else(|| wrong("it ends in the middle of a file; it was cut off".into()))?;
            if extra {
                if size > MAX_EXTRA {
                    return Err(wrong(format!("a name of {size} bytes")));
                }
                let mut bytes = vec![0; size as usize];
                source.read_exact_at(&mut bytes, at).map_err(|e| wrong(format!("cannot be read: {e}")))?;
                if kind.is_pax_local_extensions() {
                    pax = Pax::parse(&bytes)
                        .map_err(|_| wrong(format!("a malformed extended header at byte {at}")))?;
                } else {
                    let text =
                        bytes.split(|b| *b == 0).next().map(|b| String::from_utf8_lossy(b).into_owned());
                    *if kind.is_gnu_longname() { &mut long_name } else { &mut long_link } = text;
                }
            } else if !kind.is_pax_global_extensions() {
                let pax = std::mem::take(&mut pax);
                let (name, link) = (long_name.take(), long_link.take());
                let name = name.or(pax.path).unwrap_or_else(|| text(&header.path_bytes()));
                let link = link.or(pax.link).or_else(|| header.link_name_bytes().map(|b| text(&b)));
                let entry = if pax.sparse {
                    None
                } else if kind.is_file() || kind.is_contiguous() {
                    Some(Entry::File { offset: at, len: size })
                } else if kind.is_hard_link() {
                    link.and_then(|link| normal("", &link)).map(Entry::Link)
                } else if kind.is_symlink() {
                    let folder = name.trim_end_matches('/').rsplit_once('/').map_or("", |(folder, _)| folder);
                    link.and_then(|link| normal(folder, &link)).map(Entry::Link)
                } else {
                    None
                };
                if let (Some(name), Some(entry)) = (normal("", &name), entry) {
                    names += name.len() + if let Entry::Link(target) = &entry { target.len() } else { 0 };
                    if names > MAX_NAMES {
                        return Err(wrong(format!("its names take more than {MAX_NAMES} bytes")));
                    }
                    entries.insert(name, entry);
                }
            }
            // Padding may be missing at the very end.
            at = end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX - BLOCK);
        }
        if at < len && at + BLOCK > len {
            return Err(wrong("it ends in the middle of a header; it was cut off".into()));
        }
        if entries.is_empty() {
            return Err(wrong("no tar archive, or an empty one".into()));
        }
        Ok(Self { entries })
    }

    /// Where a file's bytes lie: offset and length. Links lead to other names of the archive only.
    pub(crate) fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = normal("", name)?;
        for _ in 0..MAX_HOPS {
            match self.entries.get(&name)? {
                Entry::File { offset, len } => return Some((*offset, *len)),
                Entry::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

/// What pax records say of the next file.
#[derive(Default)]
struct Pax {
    path: Option<String>,
    link: Option<String>,
    size: Option<u64>,
    sparse: bool,
}

impl Pax {
    fn parse(bytes: &[u8]) -> std::result::Result<Self, MalformedPax> {
        let mut pax = Self::default();
        for record in PaxRecords::of(bytes) {
            let (key, value) = record?;
            match key {
                b"path" => pax.path = Some(text(value)),
                b"linkpath" => pax.link = Some(text(value)),
                b"size" => pax.size = Some(number(value).ok_or(MalformedPax)?),
                _ => pax.sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        Ok(pax)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A name relative to a folder, without `.` and `..`; none where it leads out of the archive.
fn normal(folder: &str, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let folder = if name.starts_with('/') { "" } else { folder };
    for part in folder.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/")).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_links_are_found() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |name: &str, kind: tar::EntryType, link: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(bytes.len() as u64);
            if link.is_empty() {
                builder.append_data(&mut header, name, bytes).unwrap();
            } else {
                builder.append_link(&mut header, name, link).unwrap();
            }
        };
        let long = format!("{}/layer.tar", "d".repeat(150));
        add("./a/layer.tar", tar::EntryType::Regular, "", b"one");
        add(&long, tar::EntryType::Regular, "", b"two");
        add("b/layer.tar", tar::EntryType::Symlink, "../a/layer.tar", b"");
        add("c", tar::EntryType::Link, "b/layer.tar", b"");
        add("loop", tar::EntryType::Symlink, "loop", b"");
        add("out", tar::EntryType::Symlink, "../../etc/passwd", b"");
        let bytes = builder.into_inner().unwrap();
        let tarball = Tarball::index(&bytes.as_slice(), bytes.len() as u64, "x").unwrap();
        let read = |name: &str| tarball.find(name).map(|(at, len)| &bytes[at as usize..][..len as usize]);
        for (name, found) in [
            ("a/layer.tar", Some(&b"one"[..])),
            (&long, Some(b"two")),
            ("b/layer.tar", Some(b"one")),
            ("c", Some(b"one")),
            ("/a/../c", Some(b"one")),
            ("loop", None),
            ("out", None),
            ("../c", None),
            ("", None),
        ] {
            assert_eq!(read(name), found, "{name}");
        }
        for cut in [1, 100, 511, 513, 1025, 1500] {
            let index = Tarball::index(&&bytes[..cut], cut as u64, "x");
            assert!(index.is_err(), "{cut}");
        }
    }

    #[test]
    fn names_of_all_entries_share_a_bound() {
        let mut builder = tar::Builder::new(Vec::new());
        for n in 0..40 {
            let mut header = tar::Header::new_gnu();
            header.set_size(0);
            let name = format!("{n}/{}", "x/".repeat(250_000));
            builder.append_data(&mut header, name + "y", std::io::empty()).unwrap();
        }
        let bytes = builder.into_inner().unwrap();
        let error = Tarball::index(&bytes.as_slice(), bytes.len() as u64, "it").err().unwrap();
        assert!(error.to_string().contains("its names take more than"), "{error}");
    }
}
