//! Hubs that are objects under keys: a bucket, or a folder. Blobs of all packages lie together, under their digests; each tag is an object
//! by itself, so that publishers of different tags never write the same one; `registry.json` is made from these
//! (`docs/format/release.md`).

pub(crate) mod catalogue;
pub(crate) mod collect;
pub(crate) mod entry;
pub(crate) mod folder;
pub(crate) mod init;
pub(crate) mod marker;
pub(crate) mod object_hub;
pub(crate) mod port;
pub(crate) mod profile;
pub(crate) mod registry;
pub(crate) mod repository;
pub(crate) mod s3;
