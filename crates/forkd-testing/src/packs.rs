//! Packs written by hand, with no code of forkd's: for what forkd would never write itself.

use crate::random::pseudo_random;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// One tar entry.
#[derive(Debug, Clone)]
pub struct TarEntry {
    /// The path in the archive; may be one that no pack may have.
    pub name: String,
    /// May be one that no pack may hold.
    pub kind: EntryType,
    /// Its bytes, or the target of a link.
    pub bytes: Vec<u8>,
}

/// The entries of a pack, the manifest first.
pub type Entries = Vec<TarEntry>;

impl TarEntry {
    /// A regular file.
    #[must_use]
    pub fn file(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.into(), kind: EntryType::Regular, bytes: bytes.to_vec() }
    }
}

/// Lower-case hexadecimal SHA-256.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bodies(seed: u64, json: &str) -> Vec<(String, Vec<u8>)> {
    let mut random = pseudo_random(seed);
    let mut memory = vec![0; 24 << 10];
    for byte in &mut memory[4096..16 << 10] {
        *byte = random() as u8;
    }
    let vmstate = (0..700).map(|_| random() as u8).collect();
    vec![("snapshot.json".into(), json.into()), ("vmstate".into(), vmstate), ("memory.bin".into(), memory)]
}

fn files_toml(table: &str, files: &[(String, Vec<u8>)]) -> String {
    let entry = |(path, bytes): &(String, Vec<u8>)| {
        format!("\n[[{table}]]\npath = \"{path}\"\nsize = {}\nsha256 = \"{}\"\n", bytes.len(), digest(bytes))
    };
    files.iter().map(entry).collect()
}

/// A version 1 manifest for files.
#[must_use]
pub fn manifest(tag: &str, files: &[(String, Vec<u8>)]) -> String {
    let files = files_toml("files", files);
    format!(
        "forkd_pack_version = 1\ntag = \"{tag}\"\ncreated_at = \"2026-01-02T03:04:05Z\"\nforkd_version = \"0.5.3\"\n{files}"
    )
}

/// The entries of a whole version 1 pack, whose bytes come of the seed.
#[must_use]
pub fn entries(tag: &str, seed: u64) -> Entries {
    let files = bodies(seed, r#"{"vmstate":"/h/v","memory":"/h/m","volumes":[]}"#);
    let mut entries = vec![TarEntry::file("manifest.toml", manifest(tag, &files).as_bytes())];
    entries.extend(files.iter().map(|(name, bytes)| TarEntry::file(name, bytes)));
    entries
}

/// A whole version 2 pack of links `c0`, `c1`, ….
#[must_use]
pub fn chain_entries(depth: usize) -> Entries {
    let (mut toml, mut entries, mut parent) = (String::new(), Vec::new(), None::<(String, String)>);
    for i in 0..depth {
        let tag = format!("c{i}");
        let (mut json, mut edge) = (String::from(r#"{"vmstate":"/h/v","memory":"/h/m""#), String::new());
        if let Some((tag, hash)) = &parent {
            json += &format!(r#","parent_tag":"{tag}","parent_content_hash":"{hash}""#);
            edge = format!("parent_tag = \"{tag}\"\nparent_content_hash = \"{hash}\"\n");
        }
        json.push('}');
        let files = bodies(i as u64 + 1, &json);
        toml += &format!("\n[[chain]]\ntag = \"{tag}\"\n{edge}{}", files_toml("chain.files", &files));
        entries.extend(files.iter().map(|(name, bytes)| TarEntry::file(&format!("{tag}/{name}"), bytes)));
        parent = Some((tag, digest(&files[2].1)));
    }
    let head = depth - 1;
    let up = if depth > 1 { format!("parent_tag = \"c{}\"\n", depth - 2) } else { String::new() };
    let top = format!("forkd_pack_version = 2\ntag = \"c{head}\"\n{up}files = []\n{toml}");
    entries.insert(0, TarEntry::file("manifest.toml", top.as_bytes()));
    entries
}

/// The entries as a tar stream, with its end marker. Names are written as they are, however hostile.
#[must_use]
pub fn tar_of(entries: &[TarEntry]) -> Vec<u8> {
    let mut out = Vec::new();
    for TarEntry { name, kind, bytes } in entries {
        let mut header = Header::new_gnu();
        let field = &mut header.as_old_mut().name;
        field[..name.len().min(100)].copy_from_slice(&name.as_bytes()[..name.len().min(100)]);
        header.set_mode(0o644);
        header.set_entry_type(*kind);
        let body = if kind.is_file() || matches!(kind, EntryType::XHeader | EntryType::GNULongName) {
            bytes.as_slice()
        } else {
            header.set_link_name_literal(bytes).unwrap();
            &[]
        };
        header.set_size(body.len() as u64);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// Compressed as one frame that does not say how long its content is, as existing hosts write it.
#[must_use]
pub fn zst(tar: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(tar, 3).unwrap()
}
