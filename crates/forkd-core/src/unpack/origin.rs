use crate::store::record::Source;

/// Where a pack comes from, and how its parts are fetched and checked.
pub(crate) struct Origin<'a> {
    pub(crate) source: Source,
    /// Opens a file beside the pack.
    pub(crate) sidecar: crate::pack::sidecar::Beside<'a>,
    /// Whether to stop after the manifest where all it names is here already.
    pub(crate) trust_manifest: bool,
    /// Whether progress counts unpacked bytes (else the input counts its own).
    pub(crate) count_content: bool,
}
