//! A release somewhere: its documents, fetched and checked.

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::hub::offer::{Offer, ReleaseOffer};
use crate::hub::release_offer::release_offers;
use crate::hub::remote::{Location, Remote, Request, read_small};
use crate::hub::repository::{ManifestName, Repository, check_manifest};
use crate::pipeline::each::for_each_of;
use crate::pull::context::PullContext;
use crate::pull::frame_place::{BlobPlace, FramePlace};
use crate::pull::header_probe::HeaderProbe;
use crate::release::compose::{ComposedRelease, ReleaseParts};
use crate::release::link_note::ReleaseOrigin;
use forkd_format::Digest;
use forkd_format::manifest::IndexEntry;
use forkd_format::release::{Descriptor, ReleaseConfig, ReleaseIndex, ReleaseManifest};

/// What a repository offers under a name.
pub(crate) fn offers(
    repository: &dyn Repository,
    name: &ManifestName,
    cancel: &Cancel,
) -> Result<Vec<Offer>> {
    let of = format!("{}:{name}", repository.name());
    let bytes = repository.manifest(name, cancel)?;
    check_manifest(&bytes, name, &of)?;
    let read = |digest: &Digest| {
        let name = ManifestName::Digest(*digest);
        let bytes = repository.manifest(&name, cancel)?;
        check_manifest(&bytes, &name, &of)?;
        Ok(bytes)
    };
    release_offers(&bytes, &repository.name(), (&|digest| repository.blob_location(digest), &read))
}

/// Fetches what a release says of itself.
pub(crate) fn open<'a>(
    context: &PullContext<'_>,
    release: &ReleaseOffer,
    name: &str,
) -> Result<HeaderProbe<'a>> {
    let wanted = [(&release.manifest.config, &release.config), (&release.manifest.index, &release.index)];
    let fetched = for_each_of(&wanted, wanted.len(), |(blob, location)| {
        let bytes = document(context.remote, blob, location, context.env.cancel)?;
        context.traffic.add(bytes.len() as u64);
        Ok(bytes)
    })?;
    let parts = parse(release.manifest.clone(), &fetched[0], &fetched[1], name)?;
    let from = Some(ReleaseOrigin { parts: parts.clone(), place: release.repository.clone() });
    let ComposedRelease { header, blobs } = parts.compose(release.id, name)?;
    let place = |(digest, range): (Digest, _)| {
        let found = release.blobs.binary_search_by_key(&digest, |(digest, _)| *digest);
        let missing = |_| Error::new(Kind::Integrity, format!("{name}: no blob {digest}"));
        Ok(BlobPlace { range, location: release.blobs[found.map_err(missing)?].1.clone() })
    };
    let place = FramePlace::Release(blobs.into_iter().map(place).collect::<Result<_>>()?);
    Ok(HeaderProbe { header, verified: Some(release.id), place, stream: None, front: None, from })
}

/// Reads the documents that a manifest names.
pub(crate) fn parse(
    manifest: ReleaseManifest,
    config: &[u8],
    index: &[u8],
    name: &str,
) -> Result<ReleaseParts> {
    let entry = IndexEntry { size: manifest.index.size, sha256: manifest.index.digest };
    let config = ReleaseConfig::parse(config, &entry).map_err(Error::malformed(name))?;
    let index = ReleaseIndex::parse(index).map_err(Error::malformed(name))?;
    Ok(ReleaseParts { manifest, config, index })
}

/// A whole small blob, checked.
pub(crate) fn document(
    remote: &dyn Remote,
    blob: &Descriptor,
    location: &Location,
    cancel: &Cancel,
) -> Result<Vec<u8>> {
    let download = remote.whole(location, &Request::default(), cancel)?;
    let bytes = read_small(download, &location.to_string(), blob.size)?;
    let found = Digest::of(&bytes);
    if bytes.len() as u64 != blob.size || found != blob.digest {
        let message = format!(
            "{location}: {} bytes with sha256 {found}; the manifest says {} with {}",
            bytes.len(),
            blob.size,
            blob.digest
        );
        return Err(Error::new(Kind::Integrity, message));
    }
    Ok(bytes)
}
