//! Uploads in parts by presigned URLs, for what one PUT may not carry (S3: more than 5 GiB).

use crate::client::{HttpClient, SmallAnswer};
use crate::failure::{Failure, refusal};
use crate::transport::HttpRequest;
use crate::upload::FileBody;
use forkd_core::hub::PartUrls;
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use reqwest::Method;
use reqwest::header::ETAG;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Parts that are sent at a time.
const AT_A_TIME: usize = 4;

impl HttpClient {
    /// Sends a file in parts, several at a time, and has the server put them together.
    ///
    /// # Errors
    /// As [`HttpClient::put`]; [`Kind::Usage`] where there are too few URLs for the file.
    pub fn put_parts(
        &self,
        urls: &PartUrls,
        file: &Path,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<()> {
        let size = file.metadata().map_err(Error::io("read", file))?.len();
        let count = size.div_ceil(urls.part_bytes).max(1) as usize;
        if count > urls.parts.len() {
            let message = format!(
                "the pack has {size} bytes: {count} parts of {}; there are URLs for {}",
                urls.part_bytes,
                urls.parts.len()
            );
            return Err(Error::new(Kind::Usage, message).hint("sign more parts, or larger ones"));
        }
        let (next, stop) = (AtomicUsize::new(0), cancel.child());
        let tags: Mutex<Vec<String>> = Mutex::new(vec![String::new(); count]);
        let work = || loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            let begin = number as u64 * urls.part_bytes;
            let part = (begin, urls.part_bytes.min(size - begin));
            let tag =
                self.put_part(urls, (number, part), file, progress, &stop).inspect_err(|_| stop.cancel())?;
            if let Ok(mut tags) = tags.lock() {
                tags[number] = tag;
            }
        };
        let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_A_TIME.min(count)).map(|_| scope.spawn(work)).collect();
            let panicked = |_| Err(Error::new(Kind::General, "internal error: an upload panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        // The failure that stopped the others goes before theirs.
        let mut failures: Vec<Error> = outcomes.into_iter().filter_map(Result::err).collect();
        failures.sort_by_key(|error| error.kind() == Kind::Interrupted && !cancel.is_cancelled());
        match failures.into_iter().next() {
            Some(error) => Err(error),
            None => self.complete(urls, &tags.into_inner().unwrap_or_default(), cancel),
        }
    }

    /// Sends one part; gives its entity tag.
    fn put_part(
        &self,
        urls: &PartUrls,
        (number, part): (usize, (u64, u64)),
        file: &Path,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<String> {
        let location = &urls.parts[number];
        let what = location.to_string();
        let (told, careful) = (AtomicU64::new(0), std::cell::Cell::new(false));
        // Bytes that are sent once more do not count twice.
        let tell = |sent: u64| {
            let before = told.fetch_max(sent, Ordering::Relaxed);
            progress.advance(sent.saturating_sub(before));
        };
        let tag = self.with_retries(cancel, || {
            let request = HttpRequest { method: Method::PUT, ..HttpRequest::get(location.url().clone()) };
            let body = FileBody { path: file, part: Some(part), tell: &tell, careful: careful.get() };
            careful.set(true);
            let response = self.send_file(&request, body, &what, cancel)?;
            if let Some(failed) = refusal(&what, &response) {
                return Err(failed);
            }
            let tag = response.headers().get(ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
            tag.ok_or_else(|| {
                Error::new(Kind::General, format!("{what}: the server took a part without an ETag")).into()
            })
        })?;
        tell(part.1);
        Ok(tag)
    }

    /// Has the server put the parts together.
    fn complete(&self, urls: &PartUrls, tags: &[String], cancel: &Cancel) -> Result<()> {
        let mut text = String::from("<CompleteMultipartUpload>");
        for (number, tag) in (1..).zip(tags) {
            let tag = tag.replace('&', "&amp;").replace('<', "&lt;");
            text += &format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>");
        }
        text += "</CompleteMultipartUpload>";
        let what = urls.complete.to_string();
        self.with_retries(cancel, || {
            let small = SmallAnswer { limit: 1 << 20, deadline: self.answer_deadline() };
            // No Content-Type: older signatures are of that too.
            let request = HttpRequest {
                method: Method::POST,
                form: Some(text.clone()),
                deadline: Some(small.deadline),
                ..HttpRequest::get(urls.complete.url().clone())
            };
            let response = self.send(&request, &what, cancel)?;
            if let Some(failed) = refusal(&what, &response) {
                return Err(failed);
            }
            // S3 may find a fault after it has answered 200.
            let body = self.read_small(response, small, &what, cancel)?;
            if body.windows(7).any(|window| window == b"<Error>") {
                let message = format!("{what}: the server could not put the parts together");
                return Err(Failure::from(Error::new(Kind::Transient, message).hint("push again")));
            }
            Ok(())
        })
    }
}
