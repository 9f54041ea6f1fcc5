//! Answers byte for byte, for what no server library would send.

use crate::*;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

/// Gives one answer a connection; returns the requests' heads.
fn canned(answers: Vec<String>) -> (SocketAddr, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let serve = |answer: String| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(head).unwrap().to_ascii_lowercase()
        };
        answers.into_iter().map(serve).collect()
    });
    (address, server)
}

fn location(address: SocketAddr) -> Location {
    Location::parse(&format!("http://user:secret@{address}/p?sig=secret")).unwrap()
}

/// What comes of answers to a request, and the requests' heads.
fn told(request: &Request, answers: &[&str]) -> (Result<Vec<u8>>, Vec<String>) {
    let answers = answers.iter().map(|answer| answer.replace('\n', "\r\n")).collect();
    let (address, server) = canned(answers);
    let remote = remote();
    let outcome = remote.request(&location(address), request, &Cancel::default());
    let bytes = outcome.and_then(|answer| match answer {
        Answer::Part(download) | Answer::Whole(download) => whole(download),
        Answer::NotModified => panic!("not modified"),
    });
    if let Err(error) = &bytes {
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
    (bytes, server.join().unwrap())
}

#[test]
fn several_parts_are_refused() {
    let answer = "HTTP/1.1 206 P\nContent-Type: multipart/byteranges; boundary=x\nContent-Length: 0\n\n";
    let error = told(&Request::range(0, 9), &[answer]).0.unwrap_err();
    assert_eq!(error.kind(), Kind::General);
    assert!(error.to_string().contains("several parts"), "{error}");
}

#[test]
fn a_part_must_say_which() {
    for header in ["", "Content-Range: bytes 0-10/20\n", "Content-Range: bytes 0-9/5\n", "Content-Range: x\n"]
    {
        let answer = format!("HTTP/1.1 206 P\n{header}Content-Length: 0\n\n");
        let error = told(&Request::range(0, 10), &[&answer]).0.unwrap_err();
        assert_eq!(error.kind(), Kind::General, "{header}");
        assert!(error.to_string().contains("expected the bytes 0-9"), "{error}");
    }
    let unasked = "HTTP/1.1 206 P\nContent-Range: bytes 0-1/2\nContent-Length: 2\n\nab";
    assert_eq!(told(&Request::default(), &[unasked]).0.unwrap_err().kind(), Kind::General);
}

#[test]
fn an_undeclared_body_that_ends_cleanly_is_whole() {
    let closed = "HTTP/1.1 200 OK\nConnection: close\n\nabc";
    assert_eq!(told(&Request::default(), &[closed]).0.unwrap(), b"abc");
    let chunked = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\n";
    assert_eq!(told(&Request::default(), &[chunked]).0.unwrap(), b"abc");
}

#[test]
fn a_torn_chunked_body_is_gone_on_with() {
    let torn = "HTTP/1.1 200 OK\nETag: \"a\"\nTransfer-Encoding: chunked\n\n3\nabc\n";
    let rest = "HTTP/1.1 206 P\nETag: \"a\"\nContent-Range: bytes 3-4/5\nContent-Length: 2\n\nde";
    let (bytes, heads) = told(&Request::default(), &[torn, rest]);
    assert_eq!(bytes.unwrap(), b"abcde");
    assert!(!heads[0].contains("range:") && heads[0].contains("accept-encoding: identity"), "{heads:?}");
    assert!(heads[1].contains("\r\nrange: bytes=3-\r\nif-range: \"a\"\r\n"), "{heads:?}");
    assert!(heads.iter().all(|head| head.contains("authorization: basic")), "{heads:?}");
    // Torn behind the last byte, before the word that it was the last.
    let none = "HTTP/1.1 416 R\nContent-Range: bytes */3\nContent-Length: 0\n\n";
    assert_eq!(told(&Request::default(), &[torn, none]).0.unwrap(), b"abc");
    // Another copy, which ends before what was read.
    let short = "HTTP/1.1 416 R\nContent-Range: bytes */2\nContent-Length: 0\n\n";
    assert!(matches!(told(&Request::default(), &[torn, short]).0, Err(Error::Changed { .. })));
    let other = "HTTP/1.1 206 P\nETag: \"b\"\nContent-Range: bytes 3-4/5\nContent-Length: 2\n\nde";
    assert!(matches!(told(&Request::default(), &[torn, other]).0, Err(Error::Changed { .. })));
    let expired = "HTTP/1.1 403 F\nContent-Length: 0\n\n";
    assert_eq!(told(&Request::default(), &[torn, expired]).0.unwrap_err().kind(), Kind::Unauthorised);
}

#[test]
fn a_part_shorter_than_asked_for_is_gone_on_with() {
    let first = "HTTP/1.1 206 P\nContent-Range: bytes 1-2/9\nContent-Length: 2\nConnection: close\n\nbc";
    let second = "HTTP/1.1 206 P\nContent-Range: bytes 3-4/9\nContent-Length: 2\nConnection: close\n\nde";
    let (bytes, heads) = told(&Request::range(1, 5), &[first, second]);
    assert_eq!(bytes.unwrap(), b"bcde");
    assert!(heads[1].contains("range: bytes=3-4\r\n") && !heads[1].contains("if-range"), "{heads:?}");
}

#[test]
fn a_weak_tag_tells_no_copy() {
    let torn = "HTTP/1.1 200 OK\nETag: W/\"a\"\nContent-Length: 5\n\nabc";
    let rest = "HTTP/1.1 206 P\nETag: W/\"b\"\nContent-Range: bytes 3-4/5\nContent-Length: 2\n\nde";
    let (bytes, heads) = told(&Request::default(), &[torn, rest]);
    assert_eq!(bytes.unwrap(), b"abcde");
    assert!(!heads[1].contains("if-range"), "{heads:?}");
}

#[test]
fn a_server_that_ignores_if_range_is_asked_for_the_whole() {
    let part =
        "HTTP/1.1 206 P\nETag: \"b\"\nContent-Range: bytes 1-1/3\nContent-Length: 1\nConnection: close\n\ny";
    let all = "HTTP/1.1 200 OK\nETag: \"b\"\nContent-Length: 3\n\nxyz";
    let copy = Validator { etag: Some("\"a\"".into()), last_modified: None };
    let asked = Request { only_of: Some(copy), ..Request::range(1, 2) };
    let (bytes, heads) = told(&asked, &[part, all]);
    assert_eq!(bytes.unwrap(), b"xyz");
    assert!(!heads[1].contains("range:"), "{heads:?}");
}

#[test]
fn a_redirect_to_another_host_learns_no_secret() {
    let (target, server) = canned(vec!["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx".into()]);
    let away =
        format!("HTTP/1.1 302 F\nLocation: http://localhost:{}/t\nContent-Length: 0\n\n", target.port());
    let (bytes, heads) = told(&Request::range(0, 1), &[&away]);
    assert_eq!(bytes.unwrap(), b"x");
    assert!(heads[0].contains("authorization:"));
    let head = server.join().unwrap().remove(0);
    for secret in ["authorization", "referer", "sig="] {
        assert!(!head.contains(secret), "{head}");
    }
    assert!(head.contains("range: bytes=0-0"), "{head}");
}
