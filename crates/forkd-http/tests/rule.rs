//! The one rule, seen from a server: what it is sent where a redirect leads elsewhere, and how long it may take.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use forkd_core::{Cancel, Kind};
use forkd_http::{HttpClient, HttpOptions, HttpRequest};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A server that answers every request by a function of its head, and keeps the heads.
struct Server {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str, &mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, heads) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let (kept, answer) = (Arc::clone(&heads), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, kept, answer) = (stream.unwrap(), Arc::clone(&kept), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {}
                    kept.lock().unwrap().push(head.clone());
                    answer(&head, &mut stream);
                });
            }
        });
        Self { port, heads }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

fn say(stream: &mut TcpStream, status: &str, headers: &str, body: &str) {
    let len = body.len();
    let text =
        format!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\nconnection: close\r\n{headers}\r\n{body}");
    let _ = stream.write_all(text.as_bytes());
}

fn client() -> HttpClient {
    let options = HttpOptions {
        answer_timeout: Duration::from_millis(700),
        stall_timeout: Duration::from_secs(5),
        direct: true,
        ..HttpOptions::default()
    };
    HttpClient::new(&options).unwrap()
}

fn with_password(url: &str) -> HttpRequest {
    let secret = HeaderValue::from_static("Basic c2VjcmV0");
    HttpRequest {
        headers: HeaderMap::from_iter([(AUTHORIZATION, secret)]),
        ..HttpRequest::get(url.parse().unwrap())
    }
}

#[test]
fn a_password_and_a_query_stay_on_their_origin() {
    let other = Server::start(|_, stream| say(stream, "200 OK", "", "there"));
    let to = other.url("/blob");
    let first = Server::start(move |head, stream| match head.starts_with("GET /own ") {
        true => say(stream, "200 OK", "", "here"),
        false if head.starts_with("GET /near") => say(stream, "302 Found", "location: /own\r\n", ""),
        false => say(stream, "307 Temporary Redirect", &format!("location: {to}\r\n"), ""),
    });
    let (client, cancel) = (client(), Cancel::default());
    client.send(&with_password(&first.url("/far?X-Amz-Signature=1")), "it", &cancel).unwrap();
    client.send(&with_password(&first.url("/near?X-Amz-Signature=1")), "it", &cancel).unwrap();
    let away = other.heads().concat().to_ascii_lowercase();
    assert!(away.starts_with("get /blob http/1.1"), "{away}");
    assert!(
        !away.contains("authorization") && !away.contains("signature") && !away.contains("referer"),
        "{away}"
    );
    let own = first.heads();
    assert!(own[2].starts_with("GET /own HTTP/1.1"), "{}", own[2]);
    assert!(own[2].to_ascii_lowercase().contains("authorization: basic") && !own[2].contains("ignature"));
    assert!(own.iter().all(|head| head.contains("user-agent: forkd/")));
    // A form with a secret in it goes nowhere else at all.
    let form = Some("refresh_token=secret".to_owned());
    let request =
        HttpRequest { method: Method::POST, form, ..HttpRequest::get(first.url("/far").parse().unwrap()) };
    let failure = client.send(&request, "it", &cancel).unwrap_err();
    assert!(failure.error.to_string().contains("credentials to another host"), "{}", failure.error);
    assert_eq!(other.heads().len(), 1);
}

#[test]
fn a_circle_of_redirects_is_no_bad_luck() {
    let server = Server::start(|_, stream| say(stream, "302 Found", "location: /again\r\n", ""));
    let failure = client()
        .send(&HttpRequest::get(server.url("/x").parse().unwrap()), "the registry", &Cancel::default())
        .unwrap_err();
    assert_eq!(failure.error.kind(), Kind::General);
    assert_eq!(failure.error.to_string(), "the registry: more than 10 redirects, which is not followed");
    assert_eq!(server.heads().len(), 11);
}

/// Sends a byte now and then, for ever.
fn trickle(stream: &mut TcpStream, every: Duration) {
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
    while stream.write_all(b"x").is_ok() {
        std::thread::sleep(every);
    }
}

#[test]
fn a_small_answer_that_trickles_ends() {
    let server = Server::start(|_, stream| trickle(stream, Duration::from_millis(50)));
    let (client, cancel) = (client(), Cancel::default());
    let response = client.send(&HttpRequest::get(server.url("/").parse().unwrap()), "it", &cancel).unwrap();
    let begun = Instant::now();
    let error = client.read_small(response, 1 << 20, "it", &cancel).unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    assert!(error.to_string().contains("not all of a small answer in 0.7 s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_wish_to_stop_is_heard_while_bytes_flow() {
    let server = Server::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n");
        while stream.write_all(&[0; 1 << 16]).is_ok() {}
    });
    let (client, cancel) = (client(), Cancel::default());
    let response = client.send(&HttpRequest::get(server.url("/").parse().unwrap()), "it", &cancel).unwrap();
    let mut seen = 0_u64;
    let error = client
        .read(response, "it", &cancel, |piece| {
            seen += piece.len() as u64;
            if seen > 1 << 20 {
                cancel.cancel();
            }
            Ok(true)
        })
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Interrupted);
    assert!(seen < 8 << 20, "{seen}");
}
