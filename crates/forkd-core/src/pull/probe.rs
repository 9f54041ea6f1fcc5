//! The beginning of a pack on a server: its manifest and, of version 3, its index.

use crate::digest::checked_reader::{CheckedBody, Expected};
use crate::error::{Error, Kind, Result};
use crate::hub::remote::{Answer, Download, Location, Request, Validator};
use crate::pack::paged::head::Head;
use crate::pack::stream::read::Incoming;
use crate::pull::context::{Counted, Pulling};
use crate::pull::stream::{Kept, Tee};
use forkd_format::v3::HEAD_GUESS;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A range that is asked for while it is not known how much is needed is no longer.
const LONGEST_GUESS: u64 = 8 << 20;

/// What a registry may say that a head has, in bytes; what is beyond these is asked for all the same, in other steps.
const LEAST: u64 = 1 << 10;

const MOST: u64 = 32 << 20;

/// A pack whose manifest was read.
pub(crate) enum Opened<'a> {
    /// The server still has the copy that is known.
    NotModified,
    /// Versions 1 and 2; which copy it is, and its size.
    Stream(Box<Incoming<CheckedBody<'a>>>, Validator, Option<u64>),
    /// Version 3.
    Framed(Box<Framed<'a>>),
}

/// A version 3 pack whose index was read.
pub(crate) struct Framed<'a> {
    pub(crate) head: Head,
    pub(crate) validator: Validator,
    /// The frames, where the server gives no ranges and is sending them all.
    pub(crate) stream: Option<Box<dyn Read + Send + 'a>>,
}

/// Opens a pack. `head` is how much to ask for first, where that is known; all that comes is kept in `keep`.
pub(crate) fn open<'a>(
    pulling: &Pulling<'a>,
    location: &Location,
    expected: Expected,
    head: Option<u64>,
    unless: Option<Validator>,
    keep: Option<Kept>,
) -> Result<Opened<'a>> {
    let first = head.map_or(HEAD_GUESS, |head| head.clamp(LEAST, MOST));
    let request = Request { end: Some(first), unless, ..Request::default() };
    let answer = pulling.remote.request(location, &request, pulling.env.cancel)?;
    let (download, ranged) = match answer {
        Answer::NotModified => return Ok(Opened::NotModified),
        Answer::Part(download) => (download, true),
        Answer::Whole(download) => (download, false),
    };
    let name = location.to_string();
    if let (Some(declared), Some(offered)) = (expected.size, download.size)
        && declared != offered
    {
        let message = format!("{name}: the server offers {offered} bytes; the registry declares {declared}");
        return Err(Error::new(Kind::Integrity, message));
    }
    let Download { size, validator, body } = download;
    let whole = Arc::new(AtomicBool::new(false));
    let body: Box<dyn Read + Send + 'a> = if ranged {
        let (pulling, location, whole) = (pulling.clone(), location.clone(), Arc::clone(&whole));
        let validator = validator.clone();
        Box::new(Growing { pulling, location, validator, size, whole, at: 0, next: first, part: body })
    } else {
        body
    };
    let keeping = Arc::new(AtomicBool::new(true));
    let body: Box<dyn Read + Send + 'a> = match keep {
        Some(mut keep) => {
            keep.begin(pulling, &validator)?;
            Box::new(Tee::new(pulling, keep, body, Arc::clone(&keeping)))
        }
        None => Box::new(Counted { body, moved: pulling.moved.clone() }),
    };
    let body = CheckedBody::new(body, &name, expected, pulling.env.progress, pulling.env.cancel);
    let incoming = Incoming::open(body, &name, pulling.env)?;
    if incoming.manifest().version != 3 {
        whole.store(true, Ordering::Relaxed);
        return Ok(Opened::Stream(Box::new(incoming), validator, size));
    }
    // Its frames are kept, not its bytes.
    keeping.store(false, Ordering::Relaxed);
    let (head, rest) = Head::read(incoming, &name)?;
    if let Some(size) = size {
        head.check_size(size, &name)?;
    }
    let stream = (!ranged).then(|| Box::new(rest) as Box<dyn Read + Send + 'a>);
    Ok(Opened::Framed(Box::new(Framed { head, validator, stream })))
}

/// Reads an object range by range, each longer than the one before; once it is known that all is wanted, all that is left.
struct Growing<'a> {
    pulling: Pulling<'a>,
    location: Location,
    validator: Validator,
    size: Option<u64>,
    whole: Arc<AtomicBool>,
    at: u64,
    /// Where the present part ends.
    next: u64,
    part: Box<dyn Read + Send>,
}

impl Read for Growing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let read = self.part.read(buffer)?;
            self.at += read as u64;
            if read > 0 || buffer.is_empty() || self.size.is_none_or(|size| self.at >= size) {
                return Ok(read);
            }
            let end = if self.whole.load(Ordering::Relaxed) {
                None
            } else {
                Some(self.at + self.next.min(LONGEST_GUESS))
                    .filter(|end| self.size.is_none_or(|size| *end < size))
            };
            let only_of = Some(self.validator.clone());
            let request = Request { start: self.at, end, only_of, unless: None };
            let answer = self.pulling.remote.request(&self.location, &request, self.pulling.env.cancel);
            match answer.map_err(std::io::Error::other)? {
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
