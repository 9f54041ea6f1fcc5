//! `registry.json`: the list behind `owner/name` (`docs/format/registry.md`). It is a stranger's and may be large: what is not asked for is
//! passed over as it is read, and never kept.

mod details;
pub(crate) mod entry;
mod note;
mod parts;
pub(crate) mod read;
mod releases;

pub use details::{PackageDetails, VersionDetails, details, engine_words};
pub use entry::{Artifact, Missing, PackDetails, PackageSummary, ReleaseEntry, Variant, Version};
pub(crate) use note::PUBLISHED;
pub use note::VersionNote;
pub use parts::{RegistryPart, RegistryParts};
pub use read::{MAX_REGISTRY, check, list, look_up};
pub use releases::{list_all, look_up_release};
