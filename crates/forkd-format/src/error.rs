/// Why bytes from outside were refused. Each message names what was expected and what was found.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// A tag outside `[A-Za-z0-9_][A-Za-z0-9._-]{0,63}`.
    #[error("'{0}' is not a valid tag: expected 1 to 64 of A-Z a-z 0-9 . _ - and no leading '.' or '-'")]
    Tag(String),
    /// A digest that is not 64 lower-case hexadecimal digits.
    #[error("'{0}' is not a sha256 digest: expected 64 lower-case hexadecimal digits")]
    Digest(String),
    /// A reference that is not `owner/name[@version]`.
    #[error("'{0}' is not a snapshot reference: expected owner/name, owner/name@version or a URL")]
    Reference(String),
    /// A pack manifest that breaks a rule of `docs/format/pack.md`.
    #[error("manifest.toml: {0}")]
    Manifest(String),
    /// A snapshot.json that breaks a rule of `docs/format/snapshot.md`.
    #[error("snapshot.json: {0}")]
    Snapshot(String),
    /// A registry.json that breaks a rule of `docs/format/registry.md`.
    #[error("registry: {0}")]
    Registry(String),
    /// A tar stream that breaks a rule of `docs/format/pack.md`; the offset counts uncompressed bytes.
    #[error("tar stream, offset {offset}: {message}")]
    Tar {
        /// Offset in the uncompressed stream, in bytes.
        offset: u64,
        /// The rule that is broken: what it expects, and what was found.
        message: String,
    },
    /// A recipe.toml that breaks a rule of `docs/recipes.md`. Whoever read the file names it.
    #[error("{0}")]
    Recipe(String),
    /// A frame that breaks RFC 8878, `docs/format/pack-v3.md` or our limits.
    #[error("zstd frame: {0}")]
    Frame(String),
    /// A file's root that is not 64 lower-case hexadecimal digits.
    #[error("'{0}' is not a root: expected 64 lower-case hexadecimal digits")]
    FileRoot(String),
    /// The index of a pack breaks a rule of `docs/format/pack-v3.md`.
    #[error("index: {0}")]
    Index(String),
    /// A lockfile that breaks a rule of `docs/format/lockfile.md`. Whoever read the file names it.
    #[error("{0}")]
    Lockfile(String),
    /// A release breaks a rule of `docs/format/release.md`.
    #[error("release: {0}")]
    Release(String),
}

/// Untrusted text as it may stand in a message: one line, printable, bounded.
pub(crate) fn shorten(text: &str) -> String {
    let mut out: String = text.chars().take(100).flat_map(char::escape_default).collect();
    if text.chars().nth(100).is_some() {
        out.push('…');
    }
    out
}
