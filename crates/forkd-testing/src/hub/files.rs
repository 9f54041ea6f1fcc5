//! Files as they are asked for: whole, by range, or only if they are other ones (RFC 9110, 13 and 14).

use super::faults::Faults;
use axum::body::{Body, Bytes};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    LAST_MODIFIED, RANGE,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use std::fs::{File, Metadata};
use std::io::{Error, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The query that a PUT must carry, as a presigned URL would.
pub const SIGNATURE: &str = "X-Amz-Signature=5ec4e7";

const HOUR: Duration = Duration::from_secs(3600);

/// A header's value, where it is text.
pub(super) fn header(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// ETag and Last-Modified.
fn validators(metadata: &Metadata, faults: &Faults) -> Vec<(HeaderName, String)> {
    if faults.no_validators {
        return Vec::new();
    }
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    let edition = faults.edition.map(|edition| format!("-{edition}")).unwrap_or_default();
    let etag = format!("\"{:x}-{seconds:x}.{nanos:x}-{:x}{edition}\"", metadata.ino(), metadata.len());
    let date = jiff::Timestamp::new(seconds, 0).unwrap();
    let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap();
    vec![(ETAG, etag), (LAST_MODIFIED, date)]
}

/// Whether the client has this copy already.
fn is_known(headers: &HeaderMap, validators: &[(HeaderName, String)]) -> bool {
    let [(_, etag), (_, date)] = validators else { return false };
    match (header(headers, IF_NONE_MATCH), header(headers, IF_MODIFIED_SINCE)) {
        (Some(tags), _) => tags.split(',').any(|tag| tag.trim() == "*" || tag.trim() == etag),
        (None, Some(since)) => since == *date,
        (None, None) => false,
    }
}

/// The first byte and the one behind the last, or `None` for a Range header that is to be ignored.
fn parse_range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    if from.is_empty() {
        return Some((size.saturating_sub(to.parse().ok()?), size));
    }
    let from = from.parse().ok()?;
    let end = if to.is_empty() { size } else { to.parse::<u64>().ok()?.saturating_add(1) };
    (to.is_empty() || from < end).then_some((from, end.min(size)))
}

pub(super) fn get(path: &Path, headers: &HeaderMap, faults: &Faults, sent: Arc<AtomicU64>) -> Response {
    let Ok(mut file) = File::open(path) else { return StatusCode::NOT_FOUND.into_response() };
    let metadata = file.metadata().unwrap();
    let size = metadata.len();
    let validators = validators(&metadata, faults);
    let mut response = Response::builder();
    for (name, value) in &validators {
        response = response.header(name, value);
    }
    if is_known(headers, &validators) {
        return response.status(StatusCode::NOT_MODIFIED).body(Body::empty()).unwrap();
    }
    let (mut start, mut end) = (0, size);
    if !faults.no_ranges {
        response = response.header(ACCEPT_RANGES, "bytes");
        let same = header(headers, IF_RANGE).is_none_or(|copy| validators.iter().any(|(_, v)| *v == copy));
        let range = header(headers, RANGE).filter(|_| same);
        if let Some(range) = range.and_then(|text| parse_range(&text, size)) {
            (start, end) = range;
            if start >= size {
                let size = format!("bytes */{size}");
                return (StatusCode::RANGE_NOT_SATISFIABLE, [(CONTENT_RANGE, size)]).into_response();
            }
            let first = start + u64::from(faults.misranged);
            let size = if faults.unknown_total { "*".to_owned() } else { size.to_string() };
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(CONTENT_RANGE, format!("bytes {first}-{}/{size}", end - 1));
        }
    }
    if !faults.endless {
        response = response.header(CONTENT_LENGTH, end - start + faults.lie);
    }
    file.seek(SeekFrom::Start(start)).unwrap();
    response.body(body(file, start, end, faults, sent)).unwrap()
}

fn body(file: File, start: u64, end: u64, faults: &Faults, sent: Arc<AtomicU64>) -> Body {
    let (endless, stall, per_second) = (faults.endless, faults.stall, faults.per_second);
    let faulty = faults.upto.is_some() || faults.most.is_some() || faults.lie > 0;
    let limit = faults.upto.map_or(u64::MAX, |upto| upto.saturating_sub(start));
    let limit = limit.min(faults.most.unwrap_or(u64::MAX)).min(end - start);
    let most = per_second.map_or(64 << 10, |rate| (rate / 20).clamp(1, 64 << 10) as usize);
    let mut file = file.take(limit);
    let chunks = std::iter::from_fn(move || {
        let mut chunk = vec![0; most];
        match file.read(&mut chunk) {
            Ok(0) if endless && !faulty => Some(Ok(Bytes::from(chunk))),
            Ok(0) => None,
            Ok(read) => {
                chunk.truncate(read);
                Some(Ok(Bytes::from(chunk)))
            }
            Err(e) => Some(Err(e)),
        }
    });
    let chunks = futures_util::stream::iter(chunks).then(move |chunk: Result<Bytes, Error>| {
        let length = chunk.as_ref().map_or(0, Bytes::len) as u64;
        sent.fetch_add(length, Ordering::Relaxed);
        async move {
            if let Some(rate) = per_second {
                tokio::time::sleep(Duration::from_secs_f64(length as f64 / rate as f64)).await;
            }
            chunk
        }
    });
    let tail = futures_util::stream::once(async move {
        // The server sends what it has while it must wait; all bytes before a cut are to arrive.
        tokio::time::sleep(if stall { HOUR } else { Duration::from_millis(100) }).await;
        Err::<Bytes, Error>(Error::other("cut"))
    });
    Body::from_stream(chunks.chain(tail.take(usize::from(faulty))))
}

pub(super) async fn put(path: &Path, query: &str, body: Body, faults: &Faults) -> Response {
    if !faults.unsigned && !query.split('&').any(|part| part == SIGNATURE) {
        return (StatusCode::FORBIDDEN, "SignatureDoesNotMatch").into_response();
    }
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
    let mut stream = body.into_data_stream();
    let mut taken = 0;
    while let Some(chunk) = stream.next().await {
        let Ok(chunk) = chunk else { return StatusCode::BAD_REQUEST.into_response() };
        taken += chunk.len() as u64;
        if faults.stall && faults.upto.is_some_and(|after| taken >= after) {
            tokio::time::sleep(HOUR).await;
        }
        file.write_all(&chunk).unwrap();
    }
    file.persist(path).unwrap();
    StatusCode::OK.into_response()
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn ranges_are_understood_or_ignored() {
        for (text, range) in [
            ("bytes=0-", Some((0, 10))),
            ("bytes=2-4", Some((2, 5))),
            ("bytes=2-99", Some((2, 10))),
            ("bytes=-3", Some((7, 10))),
            ("bytes=-99", Some((0, 10))),
            ("bytes=12-", Some((12, 10))),
            ("bytes=4-2", None),
            ("bytes=0-1,4-5", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(parse_range(text, 10), range, "{text}");
        }
    }
}
