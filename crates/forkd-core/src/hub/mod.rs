//! Hubs: where packs are listed under names and lie to be fetched. What a hub is made of, a folder, a web server or a registry of
//! another kind, is an adapter's business; transports carry the bytes.

pub(crate) mod catalogue;
pub(crate) mod index_hub;
pub(crate) mod offer;
pub(crate) mod port;
pub(crate) mod registry_source;
pub(crate) mod release_offer;
pub(crate) mod remote;
pub(crate) mod repository;

pub use catalogue::{Catalogue, Decision, VersionChange};
pub use index_hub::IndexHub;
pub use offer::{Claim, Offer, ReleaseOffer};
pub use port::Hub;
pub use registry_source::RegistrySource;
pub use remote::{Answer, Download, Location, PartUrls, Remote, Request, Validator};
pub use repository::{BlobFile, ManifestName, Repository, check_manifest};
