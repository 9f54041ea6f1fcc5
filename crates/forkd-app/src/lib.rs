//! What the commands do, for whoever has a command line, an HTTP request or a test: the store, transports, images and machines put
//! together. Nothing here prints or reads the environment: [`Settings`] say what an environment would, a [`Narrator`] hears how the
//! work goes, and reports are what `docs/json.md` says.
#![forbid(unsafe_code)]

mod app;
mod arrive;
mod bake;
mod bake_summary;
mod baker;
mod discover;
mod doctor;
mod fork;
mod gc;
mod guest_eval;
mod hub_check;
mod hub_page;
mod hub_place;
mod hubs;
mod lines;
mod lock;
mod machines;
mod narrator;
mod pack;
mod publish;
mod pull;
mod recipe;
mod record;
mod release;
mod remove;
mod root_disk;
mod settings;
mod share;
mod snapshot_diff;

pub use app::App;
pub use arrive::{ArrivalProgram, ArrivalWord, ForkSource};
pub use bake::{FromImageRequest, SnapshotRequest};
pub use bake_summary::{BakeSummary, RecipeTestReport};
pub use baker::{AccelChoice, MachineRequest};
pub use discover::{FoundPackages, PackageReport, UpdateReport};
pub use doctor::{DoctorReport, Finding, FindingState};
pub use fork::{ChildReport, ChildWork, ForkReport, ForkRequest};
pub use forkd_core::{CONNECTIONS, PublishTerms};
pub use forkd_page::SiteOptions;
pub use gc::GcReport;
pub use guest_eval::eval;
pub use hub_check::{HubCheckReport, HubFault, Severity};
pub use hub_page::HubPageReport;
pub use hub_place::HubPlace;
pub use hubs::{HubEntry, Hubs};
pub use lines::Lines;
pub use machines::Machines;
pub use narrator::{Event, Narrator, Speaker};
pub use pack::{BaseSource, PackRequest};
pub use publish::{Publication, PublishRequest, PublishTarget};
pub use pull::{EntryReport, PullRequest, PullSource, TagChoice};
pub use recipe::RecipeFolder;
pub use record::RecordRequest;
pub use release::{MirrorRequest, ReleasePlace, RemoteRemoval, TagsReport};
pub use settings::{Settings, shown};

pub use forkd_image::{CredentialFiles, ImageSource, Platform};
pub use forkd_registry::Secret;
pub use forkd_remote::{AwsSettings, CollectOptions, CollectReport, HttpOptions};
