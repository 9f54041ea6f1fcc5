//! Registries of the OCI distribution protocol (distribution-spec 1.1): who may come in, manifests, blobs, tags, uploads. Container images
//! and releases of snapshots are fetched and pushed by the same client.
#![forbid(unsafe_code)]

mod auth;
mod client;
mod credentials;
mod login;
mod options;
mod reference;
mod refusal;
mod repository;
mod secret;
mod shown;
mod upload;

pub use client::{ManifestBytes, RegistryClient};
pub use credentials::CredentialFiles;
pub use login::{LoginReport, login, logout};
pub use options::RegistryOptions;
pub use reference::RegistryReference;
pub use repository::{RegistryRepository, repositories};
pub use secret::Secret;
pub use shown::shown;
