//! The local store and the operations on it. Each operation takes options and gives back a report; nothing here prints,
//! reads the environment or knows a home folder. Transports, machines and progress are traits that others fill.
#![forbid(unsafe_code)]

pub mod arrival;
mod chain;
mod digest;
mod env;
mod error;
mod images;
mod inspect;
mod pack;
mod pipeline;
mod publish;
mod pull;
mod push;
mod release;
mod remove;
mod retag;
mod unpack;
mod verify;

pub mod cache;
pub mod hub;
pub mod json;
pub mod machine;
#[doc(hidden)]
pub mod measure;
pub mod mount;
pub mod store;

pub use chain::{ChainInfo, CompactReport, EngineFields, LinkInfo, chain_info, compact};
pub use digest::file_digest::file_digest;
pub use env::{Cancel, Env, Progress, Silent};
pub use error::{Error, Kind, Result};
pub use images::{SnapshotList, SnapshotSummary, images};
pub use inspect::{
    ArtifactFacts, FileFacts, FrameFacts, Inspection, LinkFacts, PagedFacts, SetFacts, inspect_file,
    inspect_tag,
};
pub use pack::computed_id::ComputedId;
pub use pack::options::{PackOptions, PackReport};
pub use pack::pack;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use pack::paged::fuzz_frame;
pub use publish::options::{PublishOptions, PublishTerms};
pub use publish::{
    PackKind, PublishOutcome, PublishReport, PublishedPack, UnpublishReport, publish, unpublish,
};
pub use pull::context::{CONNECTIONS, PullOptions, PullTarget};
pub use pull::plan::{PullPlan, PullReport, PullSummary};
pub use pull::{offered_ids, plan_pull, pull};
pub use push::{PushReport, PushTarget, push, temp_path};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use release::fuzz_release;
pub use release::mirror::{MirrorReport, MirrorSides, mirror};
pub use release::options::ReleaseOptions;
pub use release::push::{ReleaseReport, ReleaseTarget, push_release};
pub use remove::{Dependents, Removal, RemoveReport, remove};
pub use retag::{RetagReport, retag};
pub use store::root::Store;
pub use store::small_file::write_whole;
pub use store::usage::{Usage, Used, usage};
pub use unpack::plan::{Examine, LinkReport, Outcome, UnpackOptions, UnpackReport};
pub use unpack::unpack_file;
pub use verify::{Damage, VerifyReport, verify_file, verify_tag};
