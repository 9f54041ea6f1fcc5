//! The one rule, seen from a server: what it is sent where a redirect leads elsewhere, and how long it may take.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use forkd_core::hub::{Answer, Location, Request};
use forkd_core::{Cancel, Kind, Silent};
use forkd_http::{HttpClient, HttpOptions, HttpRequest, SmallAnswer};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use std::io::{BufRead, BufReader, Read, Write};
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
                    let sent = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let mut body = vec![0; sent.map_or(0, |len| len.parse().unwrap())];
                    reader.read_exact(&mut body).unwrap();
                    let body = String::from_utf8(body).unwrap();
                    kept.lock().unwrap().push(format!("{head}{body}"));
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
    let begun = Instant::now();
    let small = SmallAnswer { limit: 1 << 20, deadline: client.answer_deadline() };
    let request =
        HttpRequest { deadline: Some(small.deadline), ..HttpRequest::get(server.url("/").parse().unwrap()) };
    let response = client.send(&request, "it", &cancel).unwrap();
    let error = client.read_small(response, small, "it", &cancel).unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    assert!(error.to_string().contains("not all of a small answer in 0.7 s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[test]
fn redirects_that_take_their_time_count_too() {
    let server = Server::start(|_, stream| {
        std::thread::sleep(Duration::from_millis(300));
        say(stream, "302 Found", "location: /again\r\n", "");
    });
    let client = client();
    let deadline = Some(client.answer_deadline());
    let request = HttpRequest { deadline, ..HttpRequest::get(server.url("/").parse().unwrap()) };
    let failure = client.send(&request, "it", &Cancel::default()).unwrap_err();
    assert!(failure.error.to_string().contains("not all of a small answer"), "{}", failure.error);
}

fn small() -> Request {
    Request { is_small: true, ..Request::default() }
}

fn read(client: &HttpClient, url: &str, request: &Request) -> std::io::Result<Vec<u8>> {
    let location = Location::parse(url).unwrap();
    let answer = client.request(&location, request, &Cancel::default()).unwrap();
    let (Answer::Whole(mut download) | Answer::Part(mut download)) = answer else { panic!("not modified") };
    let mut bytes = Vec::new();
    download.body.read_to_end(&mut bytes).map(|_| bytes)
}

#[test]
fn a_registry_that_trickles_ends_and_a_large_one_that_flows_does_not() {
    let server = Server::start(|_, stream| trickle(stream, Duration::from_millis(50)));
    let begun = Instant::now();
    let error = read(&client(), &server.url("/registry.json"), &small()).unwrap_err();
    assert!(error.to_string().contains("not all of a small answer in 0.7 s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert_eq!(server.heads().len(), 1, "another try would trickle too");

    let server = Server::start(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\n\r\n");
        for _ in 0..32 {
            std::thread::sleep(Duration::from_millis(40));
            let _ = stream.write_all(&[b'x'; 32 << 10]);
        }
    });
    assert_eq!(read(&client(), &server.url("/registry.json"), &small()).unwrap().len(), 1 << 20);
}

#[test]
fn a_password_that_left_its_origin_does_not_come_back() {
    let (first, other) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(String::new())));
    let leading = |to: Arc<Mutex<String>>| {
        move |head: &str, stream: &mut TcpStream| match head.starts_with("GET /back ") {
            true => say(stream, "200 OK", "", "here"),
            false => {
                let location = format!("location: {}\r\n", to.lock().unwrap());
                say(stream, "307 Temporary Redirect", &location, "");
            }
        }
    };
    let (here, there) = (Server::start(leading(other.clone())), Server::start(leading(first.clone())));
    *other.lock().unwrap() = there.url("/away");
    *first.lock().unwrap() = here.url("/back");
    client().send(&with_password(&here.url("/x")), "it", &Cancel::default()).unwrap();
    let heads = here.heads();
    assert!(heads[0].contains("authorization: Basic") && heads[1].starts_with("GET /back "), "{heads:?}");
    assert!(!heads[1].to_ascii_lowercase().contains("authorization"), "{heads:?}");
}

#[test]
fn an_upload_is_sent_again_where_it_is_led_and_nowhere_else() {
    let server = Server::start(|head, stream| match head.split(' ').nth(1).unwrap() {
        "/new" => say(stream, "201 Created", "", ""),
        "/kept307" => say(stream, "307 Temporary Redirect", "location: /kept308\r\n", ""),
        "/kept308" => say(stream, "308 Permanent Redirect", "location: /new\r\n", ""),
        "/turned" => say(stream, "303 See Other", "location: /new\r\n", ""),
        path => say(stream, "307 Temporary Redirect", &format!("location: {path}\r\n"), ""),
    });
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"all of it").unwrap();
    let (client, cancel) = (client(), Cancel::default());
    let put =
        |path: &str| client.put(&Location::parse(&server.url(path)).unwrap(), file.path(), &Silent, &cancel);
    put("/kept307").unwrap();
    assert!(server.heads().iter().all(|sent| sent.starts_with("PUT ") && sent.ends_with("\r\nall of it")));
    assert_eq!(server.heads().len(), 3);
    // It would become a GET.
    assert_eq!(put("/turned").unwrap_err().kind(), Kind::General);
    assert_eq!(server.heads().len(), 4);
    let error = put("/circle").unwrap_err();
    assert!(error.to_string().contains("more than 10 redirects"), "{error}");
}

#[test]
fn what_is_debugged_holds_no_secret() {
    let url = "https://user:pw@host/path?X-Amz-Signature=1";
    let form = Some("refresh_token=secret".to_owned());
    let shown = format!("{:?}", HttpRequest { form, ..with_password(url) });
    assert_eq!(shown, "GET host/path");
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

#[test]
fn what_is_compressed_once_more_is_decoded_or_told() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"{\"a\": 1}").unwrap();
    let gzip = encoder.finish().unwrap();
    let server = Server::start(move |_, stream| {
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", gzip.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&gzip));
    });
    let url = server.url("/registry.json");
    assert_eq!(read(&client(), &url, &small()).unwrap(), b"{\"a\": 1}");
    let error = client().request(&Location::parse(&url).unwrap(), &Request::default(), &Cancel::default());
    let error = error.unwrap_err();
    assert_eq!(error.kind(), Kind::General);
    assert!(error.to_string().contains("Content-Encoding: gzip"), "{error}");
}

#[test]
fn a_refusal_that_comes_before_the_end_of_an_upload_is_heard() {
    let file = {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; 24 << 20]).unwrap();
        file
    };
    for (status, reads) in [("403 Forbidden", 0), ("413 Content Too Large", 100_000)] {
        for _ in 0..6 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let uploads = Arc::new(Mutex::new(0));
            let counted = Arc::clone(&uploads);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    *counted.lock().unwrap() += 1;
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {}
                    let _ = reader.read_exact(&mut vec![0; reads]);
                    say(&mut stream, status, "", "");
                }
            });
            let location = Location::parse(&format!("http://127.0.0.1:{port}/x")).unwrap();
            let error = client().put(&location, file.path(), &Silent, &Cancel::default()).unwrap_err();
            assert!(error.to_string().contains(&status[..3]), "{error}");
            assert!(*uploads.lock().unwrap() <= 2, "sent {} times", uploads.lock().unwrap());
        }
    }
}
