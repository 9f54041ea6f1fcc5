//! What a pull will do, and how it is done.

use crate::digest::checked_reader::CheckedBody;
use crate::error::{Error, Kind, Result};
use crate::hub::offer::{Claim, Offer};
use crate::hub::remote::{Location, Validator};
use crate::pack::computed_id::ComputedId;
use crate::pack::stream::read::PackStream;
use crate::pull::choose::{RankedOffer, rank};
use crate::pull::context::{PullContext, settle};
use crate::pull::header_probe::HeaderProbe;
use crate::pull::missing::missing;
use crate::pull::paged;
use crate::pull::probe::{PackProbe, look, open};
use crate::pull::stream::{self, OpenStream, PartialPack};
use crate::release::link_note::note_release;
use crate::store::by_content::{self, LocalBlocks};
use crate::store::by_source::already_here;
use crate::store::workdir::WorkDir;
use crate::unpack::plan::{Outcome, UnpackPlan, UnpackReport, local_tags};
use forkd_format::{Manifest, PackFormat, PackId, Tag};
use serde::Serialize;
use std::collections::BTreeMap;

/// What was pulled.
#[derive(Debug, Clone, Serialize)]
pub struct PullReport {
    /// What is in the store now.
    #[serde(flatten)]
    pub unpack: UnpackReport,
    /// Bytes of packs that came.
    #[serde(rename = "downloaded_bytes")]
    pub downloaded: u64,
    /// Bytes of the pack that an earlier run had brought.
    #[serde(rename = "resumed_bytes")]
    pub resumed: u64,
    /// Content that files of the store had already, by the tag that had it, in bytes.
    #[serde(serialize_with = "crate::json::by_tag")]
    pub reused: BTreeMap<Tag, u64>,
    /// The format of the pack that was taken; `None` where nothing was.
    pub format: Option<PackFormat>,
    /// Which of several packs was taken, and why.
    pub choice: Option<String>,
    /// What names the pack: computed here, and the same as what the hub or the URL says. `None` where they say nothing.
    #[serde(rename = "sha256")]
    pub verified: Option<ComputedId>,
}

/// What a pull would do, in words and numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PullSummary {
    /// The tag under which all of it is here.
    pub here: Option<Tag>,
    /// The pack that would be taken.
    #[serde(rename = "url")]
    pub location: Option<Location>,
    /// Its format, where it was looked at.
    pub format: Option<PackFormat>,
    /// Which of several packs would be taken, and why.
    pub choice: Option<String>,
    /// Bytes that would be fetched; `None` where the server does not say how long the pack is.
    pub fetch_bytes: Option<u64>,
    /// Content that files of the store seem to have, by the tag that has it, in bytes.
    #[serde(serialize_with = "crate::json::by_tag")]
    pub reused: BTreeMap<Tag, u64>,
    /// Whether the server sends a paged pack only as a whole, whatever of it is here.
    pub no_ranges: bool,
}

impl PullSummary {
    fn all_here(head: &Tag) -> Self {
        Self { here: Some(head.clone()), fetch_bytes: Some(0), ..Self::default() }
    }
}

/// What a pull will do.
pub struct PullPlan<'a> {
    context: PullContext<'a>,
    name: String,
    step: Step<'a>,
}

enum Step<'a> {
    /// It is here already.
    Nothing(ComputedId, UnpackReport),
    /// The first of these is taken; where it turns out not to serve, the next.
    Fetch(Vec<RankedOffer<'a>>),
}

impl<'a> PullPlan<'a> {
    pub(crate) fn new(context: &PullContext<'a>, name: String, offers: Vec<Offer>) -> Result<Self> {
        let ids: Vec<PackId> = offers.iter().flat_map(|offer| offer.claim.ids()).collect();
        let step = match find_here(context, &ids)? {
            Some((id, report)) => Step::Nothing(id, report),
            None => Step::Fetch(rank(context, offers)?),
        };
        Ok(Self { context: context.clone(), name, step })
    }

    /// The tag under which all of it is here already.
    #[must_use]
    pub fn here(&self) -> Option<&Tag> {
        match &self.step {
            Step::Nothing(_, report) => Some(&report.head),
            Step::Fetch(_) => None,
        }
    }

    /// What it will do. A pack whose format is not known yet is looked at.
    ///
    /// # Errors
    /// As [`crate::pull()`].
    pub fn summary(&mut self) -> Result<PullSummary> {
        let ranked = match &mut self.step {
            Step::Nothing(_, report) => return Ok(PullSummary::all_here(&report.head)),
            Step::Fetch(ranked) => &mut ranked[0],
        };
        let mut summary = PullSummary {
            location: Some(ranked.offer.location.clone()),
            choice: ranked.choice.clone(),
            ..PullSummary::default()
        };
        if ranked.header.is_none() {
            match look(&self.context, &ranked.offer)? {
                PackProbe::NotModified => {}
                PackProbe::Stream(stream, _, size) => {
                    summary.format = Some(stream.manifest().format());
                    summary.fetch_bytes = size;
                    if let Some(head) = head_here(&self.context, stream.manifest())? {
                        return Ok(PullSummary::all_here(&head));
                    }
                }
                PackProbe::Header(header) => ranked.header = Some(header),
            }
        }
        if let Some(probe) = &ranked.header {
            if let Some(head) = head_here(&self.context, &probe.header.manifest)? {
                return Ok(PullSummary::all_here(&head));
            }
            let files = by_content::files(self.context.store)?;
            let missing = missing(&probe.header, &files, &LocalBlocks::of(&files));
            summary.format = Some(PackFormat::Paged);
            summary.no_ranges = probe.stream.is_some();
            summary.fetch_bytes =
                Some(if summary.no_ranges { probe.header.data_end() } else { missing.bytes });
            summary.reused = missing.reused;
        }
        Ok(summary)
    }

    /// Does it.
    ///
    /// # Errors
    /// As [`crate::pull()`].
    pub(crate) fn execute(self) -> Result<PullReport> {
        let Self { context, name, step } = self;
        let mut ranked = match step {
            Step::Nothing(id, report) => return Ok(report_of(&context, Some(id), report)),
            Step::Fetch(ranked) => ranked,
        };
        loop {
            let RankedOffer { offer, header, choice } = ranked.remove(0);
            let fetch = OfferFetch { context: &context, name: &name, offer: &offer };
            match fetch.run(header) {
                Err(error) if !ranked.is_empty() && error.kind() == Kind::NotFound => {
                    context.env.progress.finish();
                    context.env.progress.note(&format!("{error}; taking another pack of {name}"));
                }
                outcome => return outcome.map(|report| PullReport { choice, ..report }),
            }
        }
    }
}

/// The head's tag where all links of a pack are here.
///
/// # Errors
/// Those of the pull itself, where a tag is taken by other bytes.
fn head_here(context: &PullContext<'_>, manifest: &Manifest) -> Result<Option<Tag>> {
    let unpack = &context.options.unpack;
    let tags = local_tags(context.store, manifest, unpack)?;
    let plan = UnpackPlan::new(context.store, manifest, &tags, unpack)?;
    Ok(tags.into_iter().next_back().filter(|_| plan.changes_nothing()))
}

/// The snapshots that a pack of one of these names was unpacked to.
fn find_here(context: &PullContext<'_>, ids: &[PackId]) -> Result<Option<(ComputedId, UnpackReport)>> {
    let unpack = &context.options.unpack;
    let found = already_here(context.store, ids, unpack)?;
    Ok(found.and_then(|(id, chain)| Some((id, UnpackReport::kept(&chain)?))))
}

fn report_of(context: &PullContext<'_>, verified: Option<ComputedId>, unpack: UnpackReport) -> PullReport {
    PullReport {
        downloaded: context.traffic.bytes(),
        resumed: 0,
        reused: BTreeMap::new(),
        verified,
        format: None,
        choice: None,
        unpack,
    }
}

/// One offer that is taken.
struct OfferFetch<'a, 'c> {
    context: &'c PullContext<'a>,
    name: &'c str,
    offer: &'c Offer,
}

/// A stream pack, where it is kept while it comes, and how much of it was here.
struct StreamFetch<'a> {
    stream: Box<PackStream<CheckedBody<'a>>>,
    validator: Validator,
    /// In bytes, where that is known.
    size: Option<u64>,
    download: Option<WorkDir>,
    resumed: u64,
}

impl<'a> OfferFetch<'a, '_> {
    /// Fetches the pack and unpacks it.
    fn run(&self, header: Option<Box<HeaderProbe<'a>>>) -> Result<PullReport> {
        let (context, location) = (self.context, &self.offer.location);
        if let Some(header) = header {
            return self.take_paged(*header);
        }
        let download = match self.offer.claim.is_paged() {
            Some(true) => None,
            // What lies on this host need not be kept twice.
            _ if location.is_file() => None,
            _ => {
                let key = self.offer.claim.digest().unwrap_or_else(|| location.digest()).to_string();
                Some(context.store.download(&format!("stream-{}", &key[..32]), context.env)?)
            }
        };
        let kept = download.as_ref().map(PartialPack::open).transpose()?;
        let mut resumed = 0;
        let known_stream = self.offer.claim.is_paged() == Some(false);
        let found = match kept {
            Some(kept) if kept.len > 0 || known_stream => self.open_stream(kept).map(|(found, len)| {
                resumed = len;
                (found, None)
            }),
            kept => self.open(kept),
        };
        let (found, here) = match found {
            Ok(found) => found,
            Err(error) => return settle_option(download, Err(error)),
        };
        match found {
            PackProbe::NotModified => {
                settle_option(download, Ok(()))?;
                let changed = || Error::Changed { location: location.to_string() };
                let (id, report) = here.ok_or_else(changed)?;
                Ok(report_of(context, Some(id), report))
            }
            PackProbe::Stream(stream, validator, size) => {
                self.take_stream(StreamFetch { stream, validator, size, download, resumed })
            }
            PackProbe::Header(header) => {
                settle_option(download, Ok(()))?;
                self.take_paged(*header)
            }
        }
    }

    /// Opens a stream pack, or what is taken for one, behind what is here of it, if anything.
    /// Tells how many bytes of it are used.
    fn open_stream(&self, kept: PartialPack) -> Result<(PackProbe<'a>, u64)> {
        let OpenStream { stream, validator, size, resumed } = stream::open(self.context, self.offer, kept)?;
        if stream.manifest().format().is_paged() {
            // Its beginning was kept before its format was known; what is gone on with there is its frames.
            drop(stream);
            return Ok((open(self.context, self.offer, None, None)?, 0));
        }
        Ok((PackProbe::Stream(Box::new(stream), validator, size), resumed))
    }

    /// Opens a pack of which nothing is here, unless a server still has the copy that gave what is here; that too, then.
    #[allow(clippy::type_complexity, reason = "one step of its caller")]
    fn open(&self, kept: Option<PartialPack>) -> Result<(PackProbe<'a>, Option<(ComputedId, UnpackReport)>)> {
        let context = self.context;
        let asked = self.offer.claim.is_paged().is_none() && !context.options.unpack.force;
        let known = context.answers().load(&self.offer.location).filter(|_| asked);
        let id: Option<PackId> = known.as_ref().and_then(|known| serde_json::from_str(&known.body).ok());
        let here = match id.filter(|_| self.offer.claim == Claim::Nothing) {
            Some(id) => find_here(context, &[id])?,
            None => None,
        };
        let unless = here.as_ref().and(known.map(|known| known.validator));
        Ok((open(context, self.offer, unless, kept)?, here))
    }

    /// Notes what a URL gave, so that the same copy need not come again.
    fn note(&self, id: ComputedId, validator: &Validator) {
        if self.offer.claim.is_paged().is_none()
            && let Ok(text) = serde_json::to_string(&id.id())
        {
            self.context.answers().save(&self.offer.location, validator, &text);
        }
    }

    fn take_paged(&self, mut probe: HeaderProbe<'a>) -> Result<PullReport> {
        let (id, verified, validator) = (probe.header.id, probe.verified, probe.place.validator().cloned());
        let from = probe.from.take();
        let pulled = paged::pull(self.context, &self.offer.location, self.name, probe)?;
        let all_came = pulled.resumed == 0
            && pulled.reused.is_empty()
            && pulled.unpack.links.iter().all(|link| link.outcome != Outcome::Kept);
        if let (Some(from), Some(cache), true) = (from, &self.context.options.unpack.cache, all_came) {
            note_release(cache, &from, self.context.env)?;
        }
        if let Some(validator) = validator {
            self.note(id, &validator);
        }
        Ok(PullReport {
            resumed: pulled.resumed,
            reused: pulled.reused,
            format: Some(PackFormat::Paged),
            ..report_of(self.context, verified, pulled.unpack)
        })
    }

    fn take_stream(&self, fetch: StreamFetch<'a>) -> Result<PullReport> {
        let StreamFetch { stream, validator, size, download, resumed } = fetch;
        let format = stream.manifest().format();
        self.context.env.progress.start("pulling", self.offer.size.or(size));
        self.context.env.progress.resume(resumed);
        let outcome = stream::receive(self.context, self.offer, self.name, *stream);
        self.context.env.progress.finish();
        let (unpack, found) = settle_option(download, outcome)?;
        let verified = match found {
            Some(id) => {
                self.note(id, &validator);
                self.offer.check(id)?
            }
            None => None,
        };
        Ok(PullReport { resumed, format: Some(format), ..report_of(self.context, verified, unpack) })
    }
}

fn settle_option<T>(download: Option<WorkDir>, outcome: Result<T>) -> Result<T> {
    match download {
        Some(download) => settle(download, outcome),
        None => outcome,
    }
}
