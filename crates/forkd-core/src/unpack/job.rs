//! What the parts of one unpacking share.

use crate::env::Env;
use crate::pack::sidecar::OpenSidecar;
use crate::store::record::Provenance;
use crate::store::root::Store;
use crate::unpack::plan::{UnpackOptions, UnpackPlan};
use forkd_format::Manifest;

/// A pack on its way into the store.
#[derive(Clone, Copy)]
pub(crate) struct UnpackJob<'a> {
    pub(crate) store: &'a Store,
    pub(crate) manifest: &'a Manifest,
    pub(crate) plan: &'a UnpackPlan,
    pub(crate) options: &'a UnpackOptions,
    /// Whether progress counts unpacked bytes (else the input counts its own).
    pub(crate) count_content: bool,
    pub(crate) env: Env<'a>,
}

/// Where a pack comes from.
pub(crate) struct PackOrigin<'a> {
    pub(crate) provenance: Provenance,
    /// Opens a file beside the pack.
    pub(crate) sidecar: OpenSidecar<'a>,
    /// Whether to stop after the manifest where all that it names is here already.
    pub(crate) trust_manifest: bool,
}
