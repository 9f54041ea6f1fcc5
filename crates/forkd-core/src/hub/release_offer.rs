//! From the manifest of a release to an offer.

use crate::error::{Error, Result};
use crate::hub::offer::{Claim, Offer, ReleaseOffer};
use crate::hub::remote::Location;
use crate::pack::computed_id::ComputedId;
use forkd_format::Digest;
use forkd_format::release::ReleaseManifest;
use std::sync::Arc;

/// What may be taken of a release of a repository; `locate` says where its blobs lie.
pub(crate) fn release_offer(
    manifest: &[u8],
    repository: &str,
    locate: &dyn Fn(&Digest) -> Result<Location>,
) -> Result<Offer> {
    let read = ReleaseManifest::parse(manifest).map_err(Error::malformed(repository))?;
    let id = ComputedId::of_release(manifest);
    let mut blobs = Vec::with_capacity(read.blobs.len());
    for blob in &read.blobs {
        blobs.push((blob.digest, locate(&blob.digest)?));
    }
    blobs.sort_by_key(|(digest, _)| *digest);
    let (config, index) = (locate(&read.config.digest)?, locate(&read.index.digest)?);
    let repository = repository.to_owned();
    let release = ReleaseOffer { id, repository, config, index, blobs, manifest: read };
    Ok(Offer {
        location: release.config.clone(),
        claim: Claim::Id(id.id()),
        size: None,
        header_bytes: None,
        bases: Vec::new(),
        release: Some(Arc::new(release)),
    })
}
