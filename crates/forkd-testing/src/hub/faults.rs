//! What a path asks the server to do wrong.

use crate::random::pseudo_random;
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::sync::Mutex;

/// What must be known of earlier requests.
#[derive(Default)]
pub(super) struct Memory {
    /// How often each fault met each URI.
    met: Mutex<HashMap<String, u64>>,
}

impl Memory {
    /// How often this was called with the same words before.
    fn before(&self, fault: &str, uri: &str) -> u64 {
        let mut met = self.met.lock().unwrap();
        let times = met.entry(format!("{fault} {uri}")).or_default();
        *times += 1;
        *times - 1
    }
}

#[derive(Default)]
pub(super) struct Faults {
    /// No byte of the file from here on is sent.
    pub(super) upto: Option<u64>,
    /// No more bytes than these are sent.
    pub(super) most: Option<u64>,
    /// Where bytes are held back: the connection stays open.
    pub(super) stall: bool,
    pub(super) endless: bool,
    pub(super) no_ranges: bool,
    pub(super) misranged: bool,
    /// Ranges are given, and not how long the whole is.
    pub(super) unknown_total: bool,
    pub(super) no_validators: bool,
    /// Makes the ETag another one.
    pub(super) edition: Option<u64>,
    pub(super) lie: u64,
    /// Not a fault: uploads need no signature.
    pub(super) unsigned: bool,
    pub(super) per_second: Option<u64>,
}

pub(super) enum Routed {
    Answer(Box<Response>),
    File(Faults, String),
}

pub(super) fn route(memory: &Memory, uri: &Uri) -> Routed {
    let mut faults = Faults::default();
    let mut retry_after = None;
    let whole = uri.to_string();
    let mut rest = uri.path().trim_start_matches('/');
    loop {
        let (word, tail) = rest.split_once('/').unwrap_or((rest, ""));
        let (number, after) = tail.split_once('/').unwrap_or((tail, ""));
        let failure = |status: StatusCode| {
            let mut response = status.into_response();
            if let Some(seconds) = &retry_after {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::clone(seconds));
            }
            Routed::Answer(Box::new(response))
        };
        rest = match word {
            "redirect" => {
                let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
                let response = (StatusCode::FOUND, [(LOCATION, format!("/{tail}{query}"))]).into_response();
                return Routed::Answer(Box::new(response));
            }
            "status" => return failure(StatusCode::from_u16(number.parse().unwrap()).unwrap()),
            "flaky" if memory.before(word, &whole) < number.parse().unwrap() => {
                return failure(StatusCode::SERVICE_UNAVAILABLE);
            }
            "random" => {
                let drawn = pseudo_random(memory.before(word, ""))();
                if drawn % 100 < number.parse().unwrap() {
                    let statuses = [
                        StatusCode::INTERNAL_SERVER_ERROR,
                        StatusCode::REQUEST_TIMEOUT,
                        StatusCode::TOO_MANY_REQUESTS,
                    ];
                    return failure(statuses[(drawn / 100 % 3) as usize]);
                }
                after
            }
            "retry-after" => {
                retry_after = number.parse().ok();
                after
            }
            "cut" | "stall" => {
                faults.upto = number.parse().ok();
                faults.stall = word == "stall";
                after
            }
            "cut-each" => {
                faults.most = number.parse().ok();
                after
            }
            "once-cut" | "once-stall" => {
                if memory.before(word, &whole) == 0 {
                    faults.most = number.parse().ok();
                    faults.stall = word == "once-stall";
                }
                after
            }
            "slow" => {
                faults.per_second = number.parse().ok();
                after
            }
            "lying" => {
                faults.lie = number.parse().unwrap();
                after
            }
            "flaky" => after,
            "endless" => {
                faults.endless = true;
                tail
            }
            "noranges" => {
                faults.no_ranges = true;
                tail
            }
            "unknown-total" => {
                faults.unknown_total = true;
                tail
            }
            "misranged" => {
                faults.misranged = true;
                tail
            }
            "unsigned" => {
                faults.unsigned = true;
                tail
            }
            "noetag" => {
                faults.no_validators = true;
                tail
            }
            "changing" => {
                faults.edition = Some(memory.before(word, &whole));
                tail
            }
            _ => return Routed::File(faults, rest.to_owned()),
        };
    }
}
