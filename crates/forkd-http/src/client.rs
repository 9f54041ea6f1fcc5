//! The client: the rest of forkd reads and writes with threads, so a small runtime does the network's part and hands bytes over a
//! bounded channel.

use crate::ask::{OpenReply, Reply, beyond, encoding, validator};
use crate::body::{BodyPump, BodyReader, channel};
use crate::failure::{Try, late, network, stalled};
use crate::options::HttpOptions;
use crate::retry::Tries;
use crate::stop::{Stop, WaitEnd, watch};
use crate::transport::{HttpRequest, Transport};
use forkd_core::hub::{Answer, Download, Location, Request};
use forkd_core::{Cancel, Error, Kind, Result};
use reqwest::Response;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::{Handle, Runtime};

/// Schemes of the proxies that are spoken to.
const PROXIES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// All of HTTP: one set-up, one rule.
#[derive(Debug)]
pub struct HttpClient {
    pub(crate) transport: Arc<Transport>,
    pub(crate) network: Handle,
    /// Held for its threads only, until this value is dropped.
    runtime: Option<Runtime>,
}

impl Drop for HttpClient {
    fn drop(&mut self) {
        // A name that is being resolved cannot be interrupted, and the user shall not wait for it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl HttpClient {
    /// A client with these settings. No connection is made yet.
    ///
    /// # Errors
    /// [`Kind::General`] where TLS or the proxy settings cannot be set up; [`Kind::Usage`] where the file of certificates is not there, or
    /// a proxy is of another kind.
    pub fn new(options: &HttpOptions) -> Result<Self> {
        // TLS would not say which file, nor why it is looked for.
        if let Some(file) = options.certificates.as_deref().filter(|file| !file.is_file()) {
            let message = format!("SSL_CERT_FILE names {}, which is no file", file.display());
            return Err(Error::new(Kind::Usage, message));
        }
        for (variable, value) in options.proxies.iter().filter(|_| !options.direct) {
            if let Some((scheme, _)) = value.split_once("://").filter(|(scheme, _)| !PROXIES.contains(scheme))
            {
                // What follows the scheme may hold a password.
                let scheme: String = scheme.chars().take(20).collect();
                let message = format!("{variable} names a proxy of the kind '{}:'", scheme.escape_debug());
                let hint = format!("expected one of {}", PROXIES.join(", "));
                return Err(Error::new(Kind::Usage, message).hint(hint));
            }
        }
        let setup = |e: &dyn std::fmt::Display| Error::new(Kind::General, format!("cannot set up HTTP: {e}"));
        let transport = Arc::new(Transport::new(options).map_err(|e| setup(&e))?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|e| setup(&e))?;
        Ok(Self { transport, network: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// The tries for one thing, none of which was made yet.
    #[must_use]
    pub fn tries(&self) -> Tries {
        Tries::new(&self.transport.options)
    }

    /// One try: the answer's head, behind all redirects. `what` names it in messages.
    ///
    /// # Errors
    /// [`Kind::Transient`], or [`Kind::General`] for a redirect that is not followed.
    pub fn send(&self, request: &HttpRequest, what: &str, cancel: &Cancel) -> Try<Response> {
        let stop = Stop::by(cancel).before(request.deadline);
        self.network.block_on(self.transport.send(request, &what, &stop))
    }

    /// Until when all of a small answer must be here that is asked for now.
    #[must_use]
    pub fn answer_deadline(&self) -> Instant {
        self.transport.answer_deadline()
    }

    /// Hands a body over piece by piece, until it ends or `sink` wants no more (false). A wish to stop is heard between any two.
    ///
    /// # Errors
    /// [`Kind::Transient`]; what `sink` says.
    pub fn read(
        &self,
        response: Response,
        what: &str,
        cancel: &Cancel,
        mut sink: impl FnMut(&[u8]) -> Result<bool>,
    ) -> Result<()> {
        self.network.block_on(self.pour(response, what, &Stop::by(cancel), &mut sink))
    }

    async fn pour(
        &self,
        mut response: Response,
        what: &str,
        stop: &Stop,
        sink: &mut dyn FnMut(&[u8]) -> Result<bool>,
    ) -> Result<()> {
        let options = &self.transport.options;
        let most = self.transport.limit.as_ref().map_or(usize::MAX, |limit| limit.piece());
        loop {
            match watch(response.chunk(), options.stall_timeout, stop).await {
                WaitEnd::Value(Ok(None)) => return Ok(()),
                WaitEnd::Value(Ok(Some(bytes))) => {
                    for piece in bytes.chunks(most) {
                        if let Some(limit) = &self.transport.limit {
                            limit.pass(piece.len(), stop).await?;
                        }
                        if !sink(piece)? {
                            return Ok(());
                        }
                    }
                }
                WaitEnd::Value(Err(e)) => return Err(network(&what, &e)),
                WaitEnd::Stalled => return Err(stalled(&what, options.stall_timeout)),
                WaitEnd::Late => return Err(late(&what, options.answer_timeout)),
                WaitEnd::Stopped => return Err(Error::Interrupted),
            }
        }
    }

    /// A whole body of at most `small.limit` bytes, before its deadline.
    ///
    /// # Errors
    /// As [`HttpClient::read`]; [`Kind::Integrity`] where it is longer.
    pub fn read_small(
        &self,
        response: Response,
        small: SmallAnswer,
        what: &str,
        cancel: &Cancel,
    ) -> Result<Vec<u8>> {
        let SmallAnswer { limit, deadline } = small;
        let mut bytes = Vec::new();
        let stop = Stop::by(cancel).before(Some(deadline));
        self.network.block_on(self.pour(response, what, &stop, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(bytes.len() as u64 <= limit)
        }))?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(Kind::Integrity, format!("{what}: more than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Tries until it works, fails for good, or no try is left.
    ///
    /// # Errors
    /// Those of the last try.
    pub fn with_retries<T>(&self, cancel: &Cancel, mut ask: impl FnMut() -> Try<T>) -> Result<T> {
        let mut tries = self.tries();
        loop {
            tries.begin();
            match ask() {
                Ok(value) => return Ok(value),
                Err(failed) => tries.wait(failed, cancel)?,
            }
        }
    }

    /// Asks for an object or a range of it.
    ///
    /// # Errors
    /// [`Kind::NotFound`], [`Kind::Unauthorised`], [`Kind::Transient`] or [`Kind::General`], naming the redacted URL.
    pub fn request(&self, location: &Location, request: &Request, cancel: &Cancel) -> Result<Answer> {
        if request.end.is_some_and(|end| end <= request.start) {
            return Err(Error::new(Kind::Usage, format!("{location}: a range of no bytes was asked for")));
        }
        let opened = self.network.block_on(self.transport.open(location, request, &Stop::by(cancel)))?;
        let OpenReply { reply, tries, deadline } = opened;
        match reply {
            Reply::Part(response, span) => {
                // Without the object's size, the range's end is all that is known of where the bytes end.
                let until = request.end.or(span.size.is_none().then_some(span.end));
                let opened =
                    BodyStart { location, start: request.start, until, size: span.size, deadline, cancel };
                Ok(Answer::Part(self.download(response, opened, tries)))
            }
            // Only small texts come to here encoded, and by gzip.
            Reply::Whole(response) if encoding(response.headers()).is_some() => {
                let opened = BodyStart {
                    location,
                    start: 0,
                    until: None,
                    size: response.content_length(),
                    deadline,
                    cancel,
                };
                let download = self.download(response, opened, tries);
                let body = Box::new(flate2::read::MultiGzDecoder::new(download.body));
                Ok(Answer::Whole(Download { size: None, body, ..download }))
            }
            Reply::Whole(response) => {
                let size = response.content_length();
                let opened = BodyStart { location, start: 0, until: None, size, deadline, cancel };
                Ok(Answer::Whole(self.download(response, opened, tries)))
            }
            Reply::NotModified => Ok(Answer::NotModified),
            Reply::Beyond(size) => Err(beyond(location, request, size)),
        }
    }

    /// Begins to read a response ahead.
    fn download(&self, response: Response, opened: BodyStart<'_>, tries: Tries) -> Download {
        let BodyStart { location, start, until, size, deadline, cancel } = opened;
        let validator = validator(response.headers());
        let (out, items) = channel();
        let reader = out.clone();
        let pump = BodyPump {
            transport: Arc::clone(&self.transport),
            location: location.clone(),
            stop: Stop::with_reader(cancel, move || reader.is_closed()).before(deadline),
            out,
            at: start,
            until,
            size,
            validator: validator.clone(),
            tries,
            gathered: Vec::new(),
        };
        self.network.spawn(pump.run(response));
        Download { size, validator, body: Box::new(BodyReader::new(items, cancel, location)) }
    }
}

/// What is known of a body when it begins.
#[derive(Clone, Copy)]
struct BodyStart<'a> {
    location: &'a Location,
    start: u64,
    until: Option<u64>,
    size: Option<u64>,
    deadline: Option<Instant>,
    cancel: &'a Cancel,
}

/// What is read whole: at most so many bytes, before a deadline that began with its request.
#[derive(Debug, Clone, Copy)]
pub struct SmallAnswer {
    /// In bytes.
    pub limit: u64,
    /// As [`HttpClient::answer_deadline`] gave it.
    pub deadline: Instant,
}
