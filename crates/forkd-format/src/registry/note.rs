//! What a publisher says of one version.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Keys of a version that publishing sets; others stay as they are.
pub(crate) const PUBLISHED: [&str; 11] = [
    "url",
    "sha256",
    "size_bytes",
    "memory_mib",
    "base_image",
    "created_at",
    "recipe_path",
    "engine",
    "chain",
    "artifacts",
    "variants",
];

/// A version as its publisher lists it, or that it was taken back: `packages/OWNER/NAME/VERSION.json` beside a registry
/// (`docs/format/registry.md`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionNote {
    /// What stands in the registry under the version's name; `None` where it was taken back.
    pub entry: Option<Map<String, Value>>,
    /// The package's, in its publisher's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl VersionNote {
    /// One that takes a version back.
    #[must_use]
    pub fn withdrawn() -> Self {
        Self { entry: None, description: None }
    }
}
