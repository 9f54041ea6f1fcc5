//! Bodies: read ahead on the runtime, handed over a bounded channel, and gone on with where a connection broke.

use crate::ask::{Reply, same_copy, validator};
use crate::failure::{Failure, changed, late, network, stalled};
use crate::retry::Tries;
use crate::stop::{Stop, WaitEnd, watch};
use crate::transport::Transport;
use forkd_core::hub::{Location, Request, Validator};
use forkd_core::{Cancel, Error, Kind, Result};
use futures_util::StreamExt;
use reqwest::Response;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Few large items instead of many small ones: each costs a wake-up.
const ITEM: usize = 32 << 10;
/// The HTTP library's buffers grow to nearly 1 MiB a connection where a fast network meets a slow reader, so that much more than
/// these is not to be held.
const QUEUE: usize = 3;
/// How long gathered bytes may lie while no more come.
const LINGER: Duration = Duration::from_millis(50);

/// In bytes a second; see [`BodyPump::slowest`].
const SLOWEST: f64 = 65_536.0;

pub(crate) enum BodyItem {
    Bytes(Vec<u8>),
    /// All bytes were handed over. Without it the channel was torn.
    End,
    Failed(Error),
}

pub(crate) fn channel() -> (mpsc::Sender<BodyItem>, mpsc::Receiver<BodyItem>) {
    mpsc::channel(QUEUE)
}

/// How a connection ended.
enum StreamEnd {
    Complete,
    Broken(Failure),
}

/// What moves a body from the network to its reader.
pub(crate) struct BodyPump {
    pub(crate) transport: Arc<Transport>,
    pub(crate) location: Location,
    pub(crate) stop: Stop,
    pub(crate) out: mpsc::Sender<BodyItem>,
    /// Where in the object the next byte for the reader lies.
    pub(crate) at: u64,
    /// The byte behind the last one that is wanted.
    pub(crate) until: Option<u64>,
    /// The object's size, once known.
    pub(crate) size: Option<u64>,
    pub(crate) validator: Validator,
    pub(crate) tries: Tries,
    pub(crate) gathered: Vec<u8>,
}

impl BodyPump {
    pub(crate) async fn run(mut self, response: Response) {
        let outcome = self.pump(response).await;
        // What came before a failure is good.
        let _ = self.flush().await;
        let last = outcome.map_or_else(BodyItem::Failed, |()| BodyItem::End);
        let _ = self.out.send(last).await;
    }

    async fn pump(&mut self, response: Response) -> Result<()> {
        let (mut response, mut skip) = (response, 0);
        loop {
            match self.drain(response, skip).await? {
                StreamEnd::Complete => return Ok(()),
                StreamEnd::Broken(failed) => match self.reopen(failed).await? {
                    None => return Ok(()),
                    Some(reopened) => (response, skip) = reopened,
                },
            }
        }
    }

    /// Where the bytes end, once it is known.
    fn end(&self) -> Option<u64> {
        [self.until, self.size].into_iter().flatten().min()
    }

    fn is_complete(&self) -> bool {
        self.end().is_some_and(|end| self.at >= end)
    }

    /// Reads a response for as long as it gives bytes; the first ones may be known already.
    async fn drain(&mut self, response: Response, mut skip: u64) -> Result<StreamEnd> {
        let patience = self.transport.options.stall_timeout;
        let mut stream = response.bytes_stream();
        while !self.is_complete() {
            let next = if self.gathered.is_empty() {
                None
            } else {
                tokio::time::timeout(LINGER, stream.next()).await.ok()
            };
            let next = match next {
                Some(next) => next,
                None => {
                    self.flush().await?;
                    match watch(stream.next(), patience, &self.stop).await {
                        WaitEnd::Value(next) => next,
                        WaitEnd::Stalled => {
                            return Ok(StreamEnd::Broken(stalled(&self.location, patience).into()));
                        }
                        WaitEnd::Late => {
                            return Err(late(&self.location, self.transport.options.answer_timeout));
                        }
                        WaitEnd::Stopped => return Err(Error::Interrupted),
                    }
                }
            };
            match next {
                Some(Ok(bytes)) => self.take(&bytes, &mut skip).await?,
                Some(Err(e)) => return Ok(StreamEnd::Broken(network(&self.location, &e).into())),
                None if self.end().is_some() => {
                    let what = format!("{}: the connection ended early", self.location);
                    let error = Error::new(Kind::Transient, what).hint("try again");
                    return Ok(StreamEnd::Broken(error.into()));
                }
                // It is whole, and shorter than what was read already.
                None if skip > 0 => return Err(changed(&self.location)),
                None => return Ok(StreamEnd::Complete),
            }
        }
        Ok(StreamEnd::Complete)
    }

    async fn take(&mut self, bytes: &[u8], skip: &mut u64) -> Result<()> {
        let limiter = self.transport.limit.clone();
        let most = limiter.as_ref().map_or(ITEM, |limiter| limiter.piece().min(ITEM));
        for piece in bytes.chunks(most) {
            if self.stop.is_set() {
                return Err(Error::Interrupted);
            }
            let waited = match &limiter {
                Some(limiter) => limiter.pass(piece.len(), &self.stop).await?,
                None => false,
            };
            let known = usize::try_from(*skip).map_or(piece.len(), |skip| skip.min(piece.len()));
            *skip -= known as u64;
            let mut new = &piece[known..];
            let room = self.end().map_or(u64::MAX, |end| end.saturating_sub(self.at));
            new = &new[..usize::try_from(room).map_or(new.len(), |room| room.min(new.len()))];
            if new.is_empty() {
                continue;
            }
            self.at += new.len() as u64;
            self.tries.progress();
            self.stop.allow(Duration::from_secs_f64(new.len() as f64 / self.slowest()));
            while !new.is_empty() {
                let (now, rest) = new.split_at(new.len().min(ITEM - self.gathered.len()));
                self.gathered.extend_from_slice(now);
                new = rest;
                if self.gathered.len() == ITEM {
                    self.flush().await?;
                }
            }
            // At a low rate, what is here now should not wait for what comes late.
            if waited {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// The least that a small answer must bring to have more time, in bytes a second: it may be a registry of many MiB.
    fn slowest(&self) -> f64 {
        let limit = self.transport.options.limit_rate.filter(|rate| *rate > 0);
        limit.map_or(SLOWEST, |rate| SLOWEST.min(rate as f64 / 2.0))
    }

    async fn flush(&mut self) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let item = BodyItem::Bytes(std::mem::take(&mut self.gathered));
        self.out.send(item).await.map_err(|_| Error::Interrupted)
    }

    /// Asks for the rest: a response and how many of its first bytes are known, or nothing where there is no rest.
    async fn reopen(&mut self, failed: Failure) -> Result<Option<(Response, u64)>> {
        let mut failed = failed;
        loop {
            self.flush().await?;
            let reason = failed.error.to_string();
            let wait = self.tries.another(failed)?;
            self.stop.sleep(wait).await?;
            self.tries.begin();
            // Always the first URL: a redirect may lead to one that is signed for a short time only.
            let rest = Request {
                start: self.at,
                end: self.until,
                only_of: Some(self.validator.clone()),
                unless: None,
                is_small: self.stop.deadline().is_some(),
            };
            match self.transport.ask(&self.location, &rest, &self.stop).await {
                Err(again) => failed = again,
                Ok(reply) => return self.go_on(reply, &reason),
            }
        }
    }

    fn go_on(&mut self, reply: Reply, reason: &str) -> Result<Option<(Response, u64)>> {
        match reply {
            Reply::Part(response, span) => {
                self.must_be_same(&response, span.size)?;
                if self.end().is_none() {
                    // It says where this part ends, not where the object does.
                    self.until = Some(span.end);
                }
                Ok(Some((response, 0)))
            }
            Reply::Whole(response) => {
                let same = self.must_be_same(&response, response.content_length())?;
                if self.at > 0 && !same {
                    let what = format!(
                        "{reason}; the server cannot resume: it gives no ranges and does not say which copy it has"
                    );
                    return Err(Error::new(Kind::Transient, what));
                }
                Ok(Some((response, self.at)))
            }
            // The connection broke between the last byte and the word that it was the last.
            Reply::Beyond(size) if self.size.is_none() && size.is_none_or(|size| size == self.at) => Ok(None),
            Reply::Beyond(Some(_)) => Err(changed(&self.location)),
            Reply::Beyond(None) | Reply::NotModified => {
                Err(Error::new(Kind::General, format!("{reason}; the server does not give the rest")))
            }
        }
    }

    /// Whether an answer is certainly of the copy that is being read; fails where it is certainly not.
    fn must_be_same(&mut self, response: &Response, size: Option<u64>) -> Result<bool> {
        let same = same_copy(&self.validator, &validator(response.headers()));
        let resized = matches!((self.size, size), (Some(known), Some(now)) if known != now);
        if same == Some(false) || resized || size.is_some_and(|size| size < self.at) {
            return Err(changed(&self.location));
        }
        self.size = self.size.or(size);
        Ok(same == Some(true))
    }
}

/// The reading end.
pub(crate) struct BodyReader {
    items: mpsc::Receiver<BodyItem>,
    current: Vec<u8>,
    at: usize,
    ended: bool,
    cancel: Cancel,
    location: Location,
}

impl BodyReader {
    pub(crate) fn new(items: mpsc::Receiver<BodyItem>, cancel: &Cancel, location: &Location) -> Self {
        let (cancel, location) = (cancel.clone(), location.clone());
        Self { items, current: Vec::new(), at: 0, ended: false, cancel, location }
    }

    fn next(&mut self) -> Result<()> {
        self.cancel.check()?;
        match self.items.blocking_recv() {
            Some(BodyItem::Bytes(bytes)) => (self.current, self.at) = (bytes, 0),
            Some(BodyItem::End) => self.ended = true,
            Some(BodyItem::Failed(error)) => return Err(error),
            None => {
                let what = format!("{}: its download was given up", self.location);
                return Err(Error::new(Kind::General, what));
            }
        }
        Ok(())
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.current.len() && !self.ended && !buffer.is_empty() {
            self.next().map_err(std::io::Error::other)?;
        }
        let step = (self.current.len() - self.at).min(buffer.len());
        buffer[..step].copy_from_slice(&self.current[self.at..self.at + step]);
        self.at += step;
        Ok(step)
    }
}
