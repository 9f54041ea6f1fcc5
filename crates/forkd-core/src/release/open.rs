//! A release somewhere: its documents, fetched and checked.

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use crate::hub::offer::{Offer, ReleaseOffer};
use crate::hub::release_offer::release_offers;
use crate::hub::remote::{Answer, Location, Remote, Request, read_small};
use crate::hub::repository::{ManifestName, Repository, check_manifest};
use crate::pack::stream::zstd_frames::read_error;
use crate::pipeline::each::for_each_of;
use crate::pull::context::PullContext;
use crate::pull::frame_place::{BlobPlace, FramePlace};
use crate::pull::header_probe::HeaderProbe;
use crate::release::compose::{ComposedRelease, ReleaseParts};
use crate::release::link_note::ReleaseOrigin;
use forkd_format::Digest;
use forkd_format::manifest::IndexEntry;
use forkd_format::release::{Descriptor, ReleaseConfig, ReleaseIndex, ReleaseManifest};
use std::io::Read;
use std::ops::Range;

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
    let documents = Documents::fetch(context, release)?;
    let parts = parse(release.manifest.clone(), &documents.config, &documents.index, name)?;
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

/// Pieces of an index are no smaller: so much comes in one go over a connection that was just made.
const PIECE: u64 = 8 << 10;

/// Configuration and index of a release.
struct Documents {
    config: Vec<u8>,
    index: Vec<u8>,
}

impl Documents {
    /// Fetches both at the same time, the index in pieces: what it takes is waiting, and connections are at their pace when frames come.
    fn fetch(context: &PullContext<'_>, release: &ReleaseOffer) -> Result<Self> {
        let (config, index) = (&release.manifest.config, &release.manifest.index);
        let count = (index.size / PIECE).clamp(1, context.options.connections(None) as u64);
        let step = index.size.div_ceil(count).max(1);
        let pieces = (0..count).map(|n| Some(n * step..((n + 1) * step).min(index.size)));
        let wanted: Vec<Option<Range<u64>>> = std::iter::once(None)
            .chain(pieces.filter(|piece| piece.as_ref().is_some_and(|p| !p.is_empty())))
            .collect();
        let fetched = for_each_of(&wanted, wanted.len(), |wanted| match wanted {
            None => document(context.remote, config, &release.config, context.env.cancel),
            Some(range) => piece(context, range, &release.index),
        })?;
        let mut fetched = fetched.into_iter();
        let config = fetched.next().unwrap_or_default();
        let joined: Vec<u8> = fetched.flatten().collect();
        check(&joined, index, &release.index)?;
        context.traffic.add((config.len() + joined.len()) as u64);
        Ok(Self { config, index: joined })
    }
}

/// A range of a blob, from a server that may send all of it all the same.
fn piece(context: &PullContext<'_>, range: &Range<u64>, location: &Location) -> Result<Vec<u8>> {
    let request = Request::range(range.start, range.end);
    let ask = || context.remote.request(location, &request, context.env.cancel);
    let (download, skip) = match context.traffic.ask(ask)? {
        Answer::Part(download) => (download, 0),
        Answer::Whole(download) => (download, range.start),
        Answer::NotModified => return Err(Error::Changed { location: location.to_string() }),
    };
    let name = location.to_string();
    let mut body = download.body;
    std::io::copy(&mut (&mut body).take(skip), &mut std::io::sink()).map_err(|e| read_error(&name, e))?;
    let mut bytes = Vec::new();
    body.take(range.end - range.start).read_to_end(&mut bytes).map_err(|e| read_error(&name, e))?;
    Ok(bytes)
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
    check(&bytes, blob, location)?;
    Ok(bytes)
}

fn check(bytes: &[u8], blob: &Descriptor, location: &Location) -> Result<()> {
    let found = Digest::of(bytes);
    if bytes.len() as u64 == blob.size && found == blob.digest {
        return Ok(());
    }
    let message = format!(
        "{location}: {} bytes with sha256 {found}; the manifest says {} with {}",
        bytes.len(),
        blob.size,
        blob.digest
    );
    Err(Error::new(Kind::Integrity, message))
}
