//! The beginning of a pack on a server: its manifest and, of a paged one, its index.

use crate::digest::checked_reader::{CheckedBody, Expected};
use crate::error::{Error, Kind, Result};
use crate::hub::offer::Offer;
use crate::hub::remote::{Answer, Download, Location, Request, Validator};
use crate::pack::paged::header::PagedHeader;
use crate::pack::stream::read::PackStream;
use crate::pull::context::{PullContext, paged_key};
use crate::pull::frame_place::FramePlace;
use crate::pull::header_probe::{Front, HeaderProbe};
use crate::pull::stream::{PartialPack, TeeReader};
use forkd_format::paged::HEADER_GUESS;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A range that is asked for while it is not known how much is needed is no longer.
const LONGEST_GUESS: u64 = 8 << 20;

/// What is asked for first where a snapshot is to be forked as it arrives: head and working set, as a rule.
const FRONT_GUESS: u64 = 3 << 20;

/// What a registry may say that a header has, in bytes; what is beyond these is asked for all the same, in other steps.
const LEAST: u64 = 1 << 10;
const MOST: u64 = 32 << 20;

/// What was found where a pack was looked for.
pub(crate) enum PackProbe<'a> {
    /// The server still has the copy that is known.
    NotModified,
    /// A stream pack whose manifest was read; which copy it is, and its size in bytes.
    Stream(Box<PackStream<CheckedBody<'a>>>, Validator, Option<u64>),
    /// A paged pack.
    Header(Box<HeaderProbe<'a>>),
}

/// Opens a pack to look at it, and no more.
///
/// # Errors
/// As [`open`].
pub(crate) fn look<'a>(context: &PullContext<'a>, offer: &Offer) -> Result<PackProbe<'a>> {
    probe(context, offer, (None, None), false)
}

/// Opens a pack that is to be pulled. `unless` is the copy that is known; all that comes is kept in `keep`.
///
/// # Errors
/// [`crate::Kind::Integrity`] where it is not what is offered.
pub(crate) fn open<'a>(
    context: &PullContext<'a>,
    offer: &Offer,
    unless: Option<Validator>,
    keep: Option<PartialPack>,
) -> Result<PackProbe<'a>> {
    // What an earlier run has begun has its first frames. An ordinary pull is no faster for it: measured.
    let begun = match offer.claim.digest() {
        Some(digest) => context.store.has_download(&paged_key(digest)),
        None => {
            let name = offer.location.to_string();
            context.store.arrival_notes().iter().any(|(_, note)| note.name == name)
        }
    };
    let with_front = context.options.arrivals.is_some() && !begun;
    probe(context, offer, (unless, keep), with_front)
}

/// `unless` is the copy that is known; all that comes is kept in `keep`.
///
/// # Errors
/// [`crate::Kind::Integrity`] where it is not what is offered.
fn probe<'a>(
    context: &PullContext<'a>,
    offer: &Offer,
    (unless, keep): (Option<Validator>, Option<PartialPack>),
    with_front: bool,
) -> Result<PackProbe<'a>> {
    let (location, env) = (&offer.location, context.env);
    if let Some(release) = &offer.release {
        let probe = crate::release::open::open(context, release, &location.to_string())?;
        return Ok(PackProbe::Header(Box::new(probe)));
    }
    let first = match offer.header_bytes {
        _ if with_front => FRONT_GUESS,
        Some(bytes) => bytes.clamp(LEAST, MOST),
        None => HEADER_GUESS,
    };
    let request = Request { end: Some(first), unless, ..Request::default() };
    let (download, ranged) =
        match context.traffic.ask(|| context.remote.request(location, &request, env.cancel))? {
            Answer::NotModified => return Ok(PackProbe::NotModified),
            Answer::Part(download) => (download, true),
            Answer::Whole(download) => (download, false),
        };
    offer.check_size(download.size)?;
    let Download { size, validator, body } = download;
    let whole = Arc::new(AtomicBool::new(false));
    let body: Box<dyn Read + Send + 'a> = if ranged {
        let (context, location, whole) = (context.clone(), location.clone(), Arc::clone(&whole));
        let validator = validator.clone();
        Box::new(RangeReader {
            context,
            location,
            validator,
            size,
            whole,
            at: 0,
            next: first,
            part_end: Some(first),
            part: body,
        })
    } else {
        body
    };
    let keeping = Arc::new(AtomicBool::new(true));
    let body: Box<dyn Read + Send + 'a> = match keep {
        Some(mut keep) => {
            keep.begin(context.store.disk(), &validator)?;
            Box::new(TeeReader::new(context, keep, body, Arc::clone(&keeping)))
        }
        None => Box::new(context.traffic.meter(body)),
    };
    let name = location.to_string();
    let expected = Expected { sha256: offer.claim.file(), size: offer.size };
    let body = CheckedBody::new(body, &name, expected, env.progress, env.cancel);
    let stream = PackStream::open(body, &name, env)?;
    offer.check_format(stream.manifest().format())?;
    if !stream.manifest().format().is_paged() {
        whole.store(true, Ordering::Relaxed);
        return Ok(PackProbe::Stream(Box::new(stream), validator, size));
    }
    // Its frames are kept, not its bytes.
    keeping.store(false, Ordering::Relaxed);
    let (header, rest) = PagedHeader::read(stream, &name)?;
    let verified = offer.check(header.id)?;
    if let Some(size) = size {
        header.check_size(size, &name)?;
    }
    let body: Box<dyn Read + Send + 'a> = Box::new(rest);
    let (stream, front) = match (ranged, with_front) {
        (false, _) => (Some(body), None),
        (true, true) => (None, Some(Front { body, end: first })),
        (true, false) => (None, None),
    };
    let place = FramePlace::Pack { location: location.clone(), validator };
    Ok(PackProbe::Header(Box::new(HeaderProbe { header, verified, place, stream, front, from: None })))
}

/// Reads an object range by range, each longer than the one before; once it is known that all is wanted, all that is left.
struct RangeReader<'a> {
    context: PullContext<'a>,
    location: Location,
    validator: Validator,
    size: Option<u64>,
    whole: Arc<AtomicBool>,
    at: u64,
    /// How long the next part is, at most.
    next: u64,
    /// Where the present part ends, if it is as long as was asked for; `None` where all that is left was.
    part_end: Option<u64>,
    part: Box<dyn Read + Send>,
}

impl RangeReader<'_> {
    /// Whether the present part was the last. A server that does not say how long the object is gives less than was asked for there.
    fn is_at_end(&self) -> bool {
        match self.size {
            Some(size) => self.at >= size,
            None => self.part_end.is_none_or(|end| self.at < end),
        }
    }
}

impl Read for RangeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let read = self.part.read(buffer)?;
            self.at += read as u64;
            if read > 0 || buffer.is_empty() || self.is_at_end() {
                return Ok(read);
            }
            let end = if self.whole.load(Ordering::Relaxed) {
                None
            } else {
                Some(self.at + self.next.min(LONGEST_GUESS))
                    .filter(|end| self.size.is_none_or(|size| *end < size))
            };
            let only_of = Some(self.validator.clone());
            let request = Request { start: self.at, end, only_of, ..Request::default() };
            self.part_end = end;
            let answer = self.context.remote.request(&self.location, &request, self.context.env.cancel);
            let answer = match answer {
                // Nothing is behind what came: what it is made of tells whether that was all.
                Err(error) if self.size.is_none() && error.kind() == Kind::Integrity => return Ok(0),
                answer => answer.map_err(std::io::Error::other)?,
            };
            match answer {
                Answer::Part(download) => self.part = download.body,
                _ => {
                    let location = self.location.to_string();
                    return Err(std::io::Error::other(Error::Changed { location }));
                }
            }
            self.next = LONGEST_GUESS.min(self.next.saturating_mul(2));
        }
    }
}
