//! Which of the packs of a version to take: the one of which fewest bytes must come.

use crate::cache::Cache;
use crate::digest::checked_reader::Expected;
use crate::error::{Error, Kind, Result};
use crate::hub::offer::Candidate;
use crate::hub::registry::join;
use crate::hub::remote::Location;
use crate::pull::context::Pulling;
use crate::pull::probe::{Framed, Opened, open};
use crate::pull::ranges::needs;
use crate::store::by_content::{self, LocalBlocks, LocalFile};
use forkd_format::manifest::{Base, BaseKind};
use forkd_format::registry::{Artifact, Version};
use forkd_format::{Digest, Reference};

/// What a kernel that must be fetched is taken to weigh, as a part of its size: it is compressed.
const KERNEL_PACKED: u64 = 4;

/// All packs of a version, the one that every host reads first.
pub(crate) fn candidates(version: &Version, reference: &Reference, hub: &Location) -> Result<Vec<Candidate>> {
    let mut candidates = vec![Candidate {
        location: join(hub, reference, &version.url)?,
        sha256: Some(version.sha256),
        size: Some(version.size_bytes),
        format: 1,
        head_bytes: None,
        choice: None,
        bases: Vec::new(),
    }];
    for Artifact { url, manifest_sha256, size_bytes, head_bytes, bases, format } in version.framed() {
        candidates.push(Candidate {
            location: join(hub, reference, &url)?,
            sha256: Some(manifest_sha256),
            size: Some(size_bytes),
            format,
            head_bytes,
            choice: None,
            bases,
        });
    }
    match reference.digest {
        Some(pinned) => pin(candidates, pinned, reference, hub),
        None => Ok(candidates),
    }
}

/// Leaves the pack that the reference pins.
fn pin(
    candidates: Vec<Candidate>,
    pinned: Digest,
    reference: &Reference,
    hub: &Location,
) -> Result<Vec<Candidate>> {
    let found: Vec<String> =
        candidates.iter().filter_map(|candidate| candidate.sha256).map(|found| found.to_string()).collect();
    let kept: Vec<Candidate> =
        candidates.into_iter().filter(|candidate| candidate.sha256 == Some(pinned)).collect();
    if kept.is_empty() {
        let message = format!(
            "{hub}: '{}' has sha256 {}; the reference pins {pinned}",
            reference.package,
            found.join(", ")
        );
        return Err(Error::new(Kind::Integrity, message));
    }
    Ok(kept)
}

/// A candidate, and its head where that was looked at.
pub(crate) struct Chosen<'a> {
    pub(crate) candidate: Candidate,
    pub(crate) opened: Option<Box<Framed<'a>>>,
}

/// What a candidate would cost.
struct Cost<'a> {
    candidate: Candidate,
    opened: Option<Box<Framed<'a>>>,
    bytes: u64,
    why: String,
}

/// The candidates that can be used here, the cheapest first, each with the reason.
pub(crate) fn order<'a>(pulling: &Pulling<'a>, candidates: Vec<Candidate>) -> Result<Vec<Chosen<'a>>> {
    if candidates.len() == 1 {
        return Ok(candidates.into_iter().map(|candidate| Chosen { candidate, opened: None }).collect());
    }
    let files = by_content::files(pulling.store)?;
    let blocks = LocalBlocks::of(&files);
    let cache = pulling.options.unpack.cache.as_ref();
    let mut costs = Vec::new();
    // The smallest first: where little of it must come, others need not be looked at.
    let (full, mut framed): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|c| c.format != 3);
    framed.sort_by_key(|candidate| candidate.size);
    let mut best = u64::MAX;
    for candidate in framed {
        let Some(extra) = missing_bases(&candidate, &files, cache)? else { continue };
        let head = candidate.head_bytes.unwrap_or(forkd_format::v3::HEAD_GUESS);
        if best <= head {
            continue;
        }
        let what = match candidate.bases.iter().find(|base| base.kind == BaseKind::Snapshot) {
            Some(base) => format!("format 3 against '{}'", base.name),
            None if candidate.bases.is_empty() => "format 3".to_owned(),
            None => "format 3 against the guest's kernel".to_owned(),
        };
        let expected = Expected { sha256: None, size: candidate.size };
        let opened = match open(pulling, &candidate.location, expected, candidate.head_bytes, None, None) {
            Ok(opened) => opened,
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unauthorised) => {
                pulling.env.progress.note(&format!("{error}; looking at the other packs"));
                continue;
            }
            Err(error) => return Err(error),
        };
        let Opened::Framed(opened) = opened else { continue };
        // Without ranges all of it comes.
        let fetch = match &opened.stream {
            Some(_) => opened.head.index.data_len,
            None => needs(&opened.head, &files, &blocks).fetch_bytes,
        };
        best = best.min(fetch + extra);
        costs.push(Cost { candidate, opened: Some(opened), bytes: fetch + extra, why: what });
    }
    costs.extend(full.into_iter().map(|candidate| {
        let bytes = candidate.size.unwrap_or(u64::MAX);
        Cost { candidate, opened: None, bytes, why: "the pack that all hosts read".to_owned() }
    }));
    costs.sort_by_key(|cost| cost.bytes);
    let words: Vec<(String, u64)> = costs.iter().map(|cost| (cost.why.clone(), cost.bytes)).collect();
    let mut ordered = Vec::new();
    for (i, cost) in costs.into_iter().enumerate() {
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        let others: Vec<String> =
            words.iter().skip(i + 1).map(|(what, bytes)| format!("{what}: {}", mib(*bytes))).collect();
        let mut choice = format!("{}: {} to fetch", cost.why, mib(cost.bytes));
        if !others.is_empty() {
            choice += &format!(" ({})", others.join("; "));
        }
        let candidate = Candidate { choice: Some(choice), ..cost.candidate };
        ordered.push(Chosen { candidate, opened: cost.opened });
    }
    Ok(ordered)
}

/// Bytes of kernels that must come first; `None` where a snapshot that is needed is not here.
fn missing_bases(candidate: &Candidate, files: &[LocalFile], cache: Option<&Cache>) -> Result<Option<u64>> {
    let mut bytes = 0;
    for base in candidate.bases.iter().filter(|base| !base.is_unused()) {
        let here = |base: &Base| by_content::find_base(files, base).is_some();
        match base.kind {
            BaseKind::Snapshot if !here(base) => return Ok(None),
            BaseKind::Kernel if !crate::pack::paged::kernel::is_here(base, cache)? && !here(base) => {
                bytes += base.size / KERNEL_PACKED
            }
            _ => {}
        }
    }
    Ok(Some(bytes))
}
