//! Which of the packs of a version to take: the one of which fewest bytes must come.

use crate::cache::folder::Cache;
use crate::error::{Kind, Result};
use crate::hub::offer::Offer;
use crate::pack::paged::kernel;
use crate::pull::context::PullContext;
use crate::pull::header_probe::HeaderProbe;
use crate::pull::missing::missing;
use crate::pull::probe::{PackProbe, look, open};
use crate::store::by_content::{self, LocalBlocks, LocalFile};
use forkd_format::manifest::{Base, BaseKind};

/// What a kernel that must be fetched is taken to weigh, as a part of its size: it is compressed.
const KERNEL_PACKED: u64 = 4;

/// An offer in its turn, and its header where that was looked at.
pub(crate) struct RankedOffer<'a> {
    pub(crate) offer: Offer,
    pub(crate) header: Option<Box<HeaderProbe<'a>>>,
    /// Why it comes before the others, for people; `None` where there are none.
    pub(crate) choice: Option<String>,
}

/// What an offer would cost.
struct OfferCost<'a> {
    offer: Offer,
    header: Option<Box<HeaderProbe<'a>>>,
    bytes: u64,
    why: String,
}

/// The offers that can be used here, the cheapest first, each with the reason.
pub(crate) fn rank<'a>(context: &PullContext<'a>, offers: Vec<Offer>) -> Result<Vec<RankedOffer<'a>>> {
    if offers.len() == 1 {
        let ranked = offers.into_iter().map(|offer| {
            let choice = offer.choice.clone();
            RankedOffer { offer, header: None, choice }
        });
        return Ok(ranked.collect());
    }
    let files = by_content::files(context.store)?;
    let blocks = LocalBlocks::of(&files);
    let cache = context.options.unpack.cache.as_ref();
    let mut costs = Vec::new();
    // The smallest first: where little of it must come, others need not be looked at.
    let (mut paged, streams): (Vec<_>, Vec<_>) =
        offers.into_iter().partition(|offer| offer.claim.is_paged() == Some(true));
    paged.sort_by_key(|offer| offer.size);
    let mut best = u64::MAX;
    for offer in paged {
        let Some(extra) = missing_bases(&offer, &files, cache)? else { continue };
        if best <= offer.header_bytes.unwrap_or(forkd_format::paged::HEADER_GUESS) {
            continue;
        }
        let why = match offer.bases.iter().find(|base| base.kind == BaseKind::Snapshot) {
            _ if offer.release.is_some() => "the release".to_owned(),
            Some(base) => format!("format 3 against '{}'", base.name),
            None if offer.bases.is_empty() => "format 3".to_owned(),
            None => "format 3 against the guest's kernel".to_owned(),
        };
        // The first one is the likely choice: what stands in front of it comes along, where that is wanted.
        let opened = if costs.is_empty() { open(context, &offer, None, None) } else { look(context, &offer) };
        let header = match opened {
            Ok(PackProbe::Header(header)) => header,
            Ok(PackProbe::Stream(..) | PackProbe::NotModified) => continue,
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Unauthorised) => {
                context.env.progress.note(&format!("{error}; looking at the other packs"));
                continue;
            }
            Err(error) => return Err(error),
        };
        // Without ranges all of it comes.
        let fetch = match &header.stream {
            Some(_) => header.header.data_len,
            None => missing(&header.header, &files, &blocks).bytes,
        };
        best = best.min(fetch + extra);
        costs.push(OfferCost { offer, header: Some(header), bytes: fetch + extra, why });
    }
    costs.extend(streams.into_iter().map(|offer| {
        let bytes = offer.size.unwrap_or(u64::MAX);
        OfferCost { offer, header: None, bytes, why: "the pack that all hosts read".to_owned() }
    }));
    costs.sort_by_key(|cost| cost.bytes);
    let words: Vec<String> = costs.iter().map(|cost| format!("{}: {}", cost.why, mib(cost.bytes))).collect();
    let ranked = costs.into_iter().enumerate().map(|(i, cost)| {
        let mut choice = format!("{}: {} to fetch", cost.why, mib(cost.bytes));
        if !words[i + 1..].is_empty() {
            choice += &format!(" ({})", words[i + 1..].join("; "));
        }
        if let Some(before) = &cost.offer.choice {
            choice = format!("{before}; {choice}");
        }
        RankedOffer { offer: cost.offer, header: cost.header, choice: Some(choice) }
    });
    Ok(ranked.collect())
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Bytes of kernels that must come first; `None` where a snapshot that is needed is not here.
fn missing_bases(offer: &Offer, files: &[LocalFile], cache: Option<&Cache>) -> Result<Option<u64>> {
    let mut bytes = 0;
    for base in offer.bases.iter().filter(|base| !base.is_unused()) {
        let here = |base: &Base| by_content::find_base(files, base).is_some();
        match base.kind {
            BaseKind::Snapshot if !here(base) => return Ok(None),
            BaseKind::Kernel if !kernel::is_here(base, cache)? && !here(base) => {
                bytes += base.size / KERNEL_PACKED
            }
            _ => {}
        }
    }
    Ok(Some(bytes))
}
