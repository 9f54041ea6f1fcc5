//! One try for an object or a range of it, and what the answer means (RFC 9110, 13 and 14).

use crate::challenge;
use crate::failure::{Failure, Try, refusal, unexpected};
use crate::redirect::same_origin;
use crate::retry::Tries;
use crate::stop::Stop;
use crate::transport::{HttpRequest, Transport};
use forkd_core::hub::{Location, Request, Validator};
use forkd_core::{Error, Kind, Result};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE,
};
use reqwest::{Response, StatusCode};
use std::sync::Arc;
use std::time::Instant;

/// What a server answers.
pub(crate) enum Reply {
    /// A range that begins where it was asked to.
    Part(Response, ByteSpan),
    Whole(Response),
    NotModified,
    /// The range begins behind the object's end, which is here, where the server says so.
    Beyond(Option<u64>),
}

/// An answer, after how many tries, and until when all of a small one must be here.
pub(crate) struct OpenReply {
    pub(crate) reply: Reply,
    pub(crate) tries: Tries,
    pub(crate) deadline: Option<Instant>,
}

/// Which bytes of an object of which size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSpan {
    start: u64,
    pub(crate) end: u64,
    pub(crate) size: Option<u64>,
}

impl Transport {
    /// Asks until there is an answer that another try would not change.
    pub(crate) async fn open(
        &self,
        location: &Location,
        request: &Request,
        stop: &Stop,
    ) -> Result<OpenReply> {
        let mut tries = Tries::new(&self.options);
        let mut whole = None;
        loop {
            tries.begin();
            let asked = whole.as_ref().unwrap_or(request);
            let deadline = request.is_small.then(|| self.answer_deadline());
            match self.ask(location, asked, &stop.clone().before(deadline)).await {
                // A server that knows no If-Range sends a range of whatever copy it has.
                Ok(Reply::Part(response, _)) if other_than_wanted(request, &response) => {
                    let unless = request.unless.clone();
                    whole = Some(Request { unless, is_small: request.is_small, ..Request::default() });
                    tries.progress();
                }
                Ok(reply) => return Ok(OpenReply { reply, tries, deadline }),
                Err(failed) => {
                    stop.sleep(tries.another(failed)?).await?;
                }
            }
        }
    }

    /// Asks once.
    pub(crate) async fn ask(
        &self,
        location: &Location,
        request: &Request,
        stop: &Stop,
    ) -> std::result::Result<Reply, Failure> {
        let mut asking = HttpRequest::get(location.url().clone());
        // Bytes are counted and compared as they lie on the server.
        asking.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (name, value) in conditions(request) {
            let value = HeaderValue::try_from(value).map_err(|_| {
                Error::new(Kind::General, format!("{location}: what it said of its copy is no header"))
            })?;
            asking.headers.insert(name, value);
        }
        let response = self.send_as(asking, location, stop).await?;
        if let Some(encoding) = encoding(response.headers()).filter(|_| response.status().is_success())
            && !(request.is_small && is_gzip(encoding) && response.status() == StatusCode::OK)
        {
            let encoding: String = encoding.chars().take(40).collect();
            let found = format!("it compressed once more (Content-Encoding: {})", encoding.escape_debug());
            let hint = "have it stored without that, as it is";
            return Err(unexpected(location, "the bytes as they lie there", &found).hint(hint).into());
        }
        let ranged = is_ranged(request);
        match response.status() {
            StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => Ok(Reply::Whole(response)),
            StatusCode::PARTIAL_CONTENT if ranged => {
                let span = span(location, request, response.headers())?;
                Ok(Reply::Part(response, span))
            }
            StatusCode::NOT_MODIFIED if request.unless.as_ref().is_some_and(|known| !known.is_empty()) => {
                Ok(Reply::NotModified)
            }
            StatusCode::RANGE_NOT_SATISFIABLE if ranged => {
                let size = text(response.headers(), &CONTENT_RANGE)
                    .and_then(|text| text.strip_prefix("bytes */")?.parse().ok());
                Ok(Reply::Beyond(size))
            }
            status => Err(refusal(location, &response).unwrap_or_else(|| {
                unexpected(location, "the object or the range that was asked for", &status.to_string()).into()
            })),
        }
    }

    /// Sends with what lets us in, which is asked for once more where the server does not take it.
    async fn send_as(&self, asking: HttpRequest, location: &Location, stop: &Stop) -> Try<Response> {
        let Some(authority) = self.options.authority.clone() else {
            return self.send(&asking, location, stop).await;
        };
        let ask = |header: Option<&HeaderValue>| {
            let mut asking = asking.clone();
            if let Some(header) = header {
                asking.headers.insert(AUTHORIZATION, header.clone());
            }
            asking
        };
        let used = authority.0.header(&asking.url);
        let response = self.send(&ask(used.as_ref()), location, stop).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !same_origin(response.url(), &asking.url) {
            return Ok(response);
        }
        let challenges = challenge::of(&response);
        let refreshed = Arc::clone(&authority.0);
        let answer = tokio::task::spawn_blocking(move || refreshed.refresh(&challenges, used.as_ref()));
        answer.await.map_err(|_| Error::new(Kind::General, "internal error: a login panicked"))??;
        self.send(&ask(authority.0.header(&asking.url).as_ref()), location, stop).await
    }
}

/// A range that begins behind the object's end.
pub(crate) fn beyond(location: &Location, request: &Request, size: Option<u64>) -> Error {
    let start = request.start;
    match size {
        Some(size) if start < size => unexpected(
            location,
            &format!("the bytes from {start} on"),
            &format!("416, though its object is of {size} bytes"),
        ),
        Some(size) => Error::new(
            Kind::Integrity,
            format!(
                "{location}: the server's object is only {size} bytes; those from {start} on were asked for"
            ),
        ),
        None => Error::new(
            Kind::Integrity,
            format!("{location}: the server's object ends before byte {start}, which was asked for"),
        ),
    }
}

fn is_ranged(request: &Request) -> bool {
    request.start > 0 || request.end.is_some()
}

fn conditions(request: &Request) -> Vec<(HeaderName, String)> {
    let mut headers = Vec::new();
    if is_ranged(request) {
        let last = request.end.map_or(String::new(), |end| end.saturating_sub(1).to_string());
        headers.push((RANGE, format!("bytes={}-{last}", request.start)));
        let copy =
            request.only_of.as_ref().and_then(|copy| copy.etag.as_ref().or(copy.last_modified.as_ref()));
        headers.extend(copy.map(|copy| (IF_RANGE, copy.clone())));
    }
    if let Some(known) = &request.unless {
        headers.extend(known.etag.iter().map(|etag| (IF_NONE_MATCH, etag.clone())));
        headers.extend(known.last_modified.iter().map(|date| (IF_MODIFIED_SINCE, date.clone())));
    }
    headers
}

/// How a body is encoded that was asked for as it is.
pub(crate) fn encoding(headers: &HeaderMap) -> Option<&str> {
    text(headers, &CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity"))
}

fn is_gzip(encoding: &str) -> bool {
    ["gzip", "x-gzip"].iter().any(|name| encoding.eq_ignore_ascii_case(name))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Checks the range of an answer against the one that was asked for.
fn span(location: &Location, request: &Request, headers: &HeaderMap) -> Result<ByteSpan> {
    let last = request.end.map_or("the end".into(), |end| format!("{}", end.saturating_sub(1)));
    let expected = format!("the bytes {}-{last}", request.start);
    let found = match (text(headers, &CONTENT_RANGE), text(headers, &CONTENT_TYPE)) {
        (_, Some(kind)) if kind.starts_with("multipart/") => "several parts".into(),
        (None, _) => "a part that it does not tell the place of".into(),
        (Some(text), _) => match parse_span(text) {
            Some(span) if span.start == request.start && request.end.is_none_or(|end| span.end <= end) => {
                return Ok(span);
            }
            // Strangers' text, and as long as they like.
            _ => format!("the range '{}'", text.chars().take(80).collect::<String>().escape_debug()),
        },
    };
    Err(unexpected(location, &expected, &found))
}

fn parse_span(text: &str) -> Option<ByteSpan> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (start, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    let end = last.checked_add(1).filter(|_| start <= last)?;
    let size = if size == "*" { None } else { Some(size.parse::<u64>().ok().filter(|size| end <= *size)?) };
    Some(ByteSpan { start, end, size })
}

/// Which copy an answer is of. A weak tag stays the same while bytes change, so it says nothing about them.
pub(crate) fn validator(headers: &HeaderMap) -> Validator {
    let strong = |tag: &&str| tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"');
    Validator {
        etag: text(headers, &ETAG).filter(strong).map(str::to_owned),
        last_modified: text(headers, &LAST_MODIFIED).map(str::to_owned),
    }
}

/// Whether two answers are of the same copy; `None` where they have nothing in common to tell by.
pub(crate) fn same_copy(one: &Validator, other: &Validator) -> Option<bool> {
    let equal = |one: &Option<String>, other: &Option<String>| Some(one.as_ref()? == other.as_ref()?);
    equal(&one.etag, &other.etag).or_else(|| equal(&one.last_modified, &other.last_modified))
}

fn other_than_wanted(request: &Request, response: &Response) -> bool {
    let wanted = request.only_of.as_ref();
    wanted.is_some_and(|wanted| same_copy(wanted, &validator(response.headers())) == Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_strictly() {
        let span = |start, end, size| Some(ByteSpan { start, end, size });
        assert_eq!(parse_span("bytes 0-9/10"), span(0, 10, Some(10)));
        assert_eq!(parse_span("bytes 5-5/*"), span(5, 6, None));
        for wrong in [
            "bytes 0-10/10",
            "bytes 5-4/10",
            "bytes */10",
            "items 0-9/10",
            "bytes 0-18446744073709551615/*",
            "bytes 0-9",
            "0-9/10",
            "bytes -9/10",
            "",
        ] {
            assert_eq!(parse_span(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn copies_are_told_apart_by_what_both_have() {
        let copy = |etag: Option<&str>, date: Option<&str>| Validator {
            etag: etag.map(str::to_owned),
            last_modified: date.map(str::to_owned),
        };
        assert_eq!(same_copy(&copy(Some("\"a\""), Some("x")), &copy(Some("\"a\""), Some("y"))), Some(true));
        assert_eq!(same_copy(&copy(Some("\"a\""), Some("x")), &copy(Some("\"b\""), Some("x"))), Some(false));
        assert_eq!(same_copy(&copy(Some("\"a\""), Some("x")), &copy(None, Some("x"))), Some(true));
        assert_eq!(same_copy(&copy(Some("\"a\""), None), &copy(None, Some("x"))), None);
    }

    #[test]
    fn only_strong_tags_are_kept() {
        for (tag, kept) in [("\"a\"", true), ("W/\"a\"", false), ("a", false), ("\"\"", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(ETAG, tag.parse().unwrap());
            assert_eq!(validator(&headers).etag.is_some(), kept, "{tag}");
        }
    }
}
