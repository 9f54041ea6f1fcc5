//! From what a tag stands for to offers.

use crate::error::{Error, Result};
use crate::hub::offer::{Claim, Offer, ReleaseOffer};
use crate::hub::remote::Location;
use crate::pack::computed_id::ComputedId;
use forkd_format::Digest;
use forkd_format::release::{ReleaseDocument, ReleaseManifest, ReleaseVariants};
use std::sync::Arc;

/// Says where a blob lies.
type Locate<'a> = &'a dyn Fn(&Digest) -> Result<Location>;
/// Reads a manifest, and holds it against its digest.
type ReadManifest<'a> = &'a dyn Fn(&Digest) -> Result<Vec<u8>>;

/// What may be taken of a release of a repository: it, or each of its variants.
pub(crate) fn release_offers(
    document: &[u8],
    repository: &str,
    (locate, read): (Locate<'_>, ReadManifest<'_>),
) -> Result<Vec<Offer>> {
    let malformed = || Error::malformed(repository);
    match ReleaseDocument::parse(document).map_err(malformed())? {
        ReleaseDocument::Release(manifest) => Ok(vec![offer(document, manifest, repository, locate)?]),
        ReleaseDocument::Variants(variants) => {
            let of = |variant: &forkd_format::release::Descriptor| {
                let bytes = read(&variant.digest)?;
                let manifest = ReleaseManifest::parse(&bytes).map_err(malformed())?;
                let engine = variant.annotations.get(ReleaseVariants::ENGINE);
                // A stranger's words, for a message.
                let engine = engine.map_or("unknown", String::as_str).chars().take(80);
                let engine = engine.flat_map(char::escape_debug).collect();
                Ok(Offer { variant: Some(engine), ..offer(&bytes, manifest, repository, locate)? })
            };
            variants.manifests.iter().map(of).collect()
        }
    }
}

fn offer(bytes: &[u8], manifest: ReleaseManifest, repository: &str, locate: Locate<'_>) -> Result<Offer> {
    let id = ComputedId::of_release(bytes);
    let mut blobs = Vec::with_capacity(manifest.blobs.len());
    for blob in &manifest.blobs {
        blobs.push((blob.digest, locate(&blob.digest)?));
    }
    blobs.sort_by_key(|(digest, _)| *digest);
    let (config, index) = (locate(&manifest.config.digest)?, locate(&manifest.index.digest)?);
    let repository = repository.to_owned();
    let release = ReleaseOffer { id, repository, config, index, blobs, manifest };
    Ok(Offer {
        location: release.config.clone(),
        claim: Claim::Id(id.id()),
        size: None,
        header_bytes: None,
        bases: Vec::new(),
        release: Some(Arc::new(release)),
        variant: None,
        needs: None,
        choice: None,
    })
}
