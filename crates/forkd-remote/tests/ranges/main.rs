//! Ranges, resuming, conditions and limits against a server that misbehaves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod canned;
mod limits;
mod resume;

use forkd_core::hub::{Answer, Download, Location, Remote, Request, Validator};
use forkd_core::{Cancel, Error, Kind, Result};
use forkd_remote::{AnyRemote, HttpOptions};
use forkd_testing::{LoggedRequest, TestHub, pseudo_random};
use std::io::Read;
use std::time::Duration;
use tempfile::TempDir;

const SIZE: usize = 3_000_001;

/// Patient enough for a machine that is busy: which requests came is compared exactly.
fn options() -> HttpOptions {
    HttpOptions { backoff: Duration::from_millis(4), ..HttpOptions::default() }
}

/// For tests of stalls.
fn impatient() -> HttpOptions {
    HttpOptions { stall_timeout: Duration::from_millis(600), ..options() }
}

fn remote() -> AnyRemote {
    AnyRemote::new(&options()).unwrap()
}

/// A server of one file, `f`.
struct Served {
    hub: TestHub,
    bytes: Vec<u8>,
    dir: TempDir,
}

impl Served {
    fn new() -> Self {
        let (dir, bytes) = (TempDir::new().unwrap(), random_bytes(SIZE));
        std::fs::write(dir.path().join("f"), &bytes).unwrap();
        Self { hub: TestHub::start(dir.path()), bytes, dir }
    }

    fn at(&self, prefix: &str) -> Location {
        Location::parse(&self.hub.url(&format!("{prefix}f"))).unwrap()
    }

    fn ask(&self, prefix: &str, request: &Request) -> Result<Answer> {
        remote().request(&self.at(prefix), request, &Cancel::default())
    }

    /// Reads the whole object.
    fn get(&self, prefix: &str) -> Result<Vec<u8>> {
        self.get_with(prefix, &options())
    }

    fn get_with(&self, prefix: &str, options: &HttpOptions) -> Result<Vec<u8>> {
        let remote = AnyRemote::new(options).unwrap();
        whole(remote.get(&self.at(prefix), &Cancel::default())?)
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.hub.requests().into_iter().map(|asked| asked.range).collect()
    }

    fn moved(&self) -> u64 {
        self.hub.requests().iter().map(LoggedRequest::bytes).sum()
    }
}

fn random_bytes(size: usize) -> Vec<u8> {
    let mut random = pseudo_random(7);
    (0..size.div_ceil(8)).flat_map(|_| random().to_le_bytes()).take(size).collect()
}

fn whole(mut download: Download) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match download.body.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(e) => Err(e.downcast::<Error>().unwrap()),
    }
}

fn part(answer: Answer) -> Download {
    match answer {
        Answer::Part(download) => download,
        other => panic!("not a part: {other:?}"),
    }
}

/// Reads with a transport that lives as long as the body.
fn read_part(location: &Location, request: &Request) -> Result<(Option<u64>, Vec<u8>)> {
    let remote = remote();
    let download = part(remote.request(location, request, &Cancel::default())?);
    Ok((download.size, whole(download)?))
}

#[test]
fn ranges_are_exact() {
    let served = Served::new();
    let size = SIZE as u64;
    let rest = Request { start: 17, ..Request::default() };
    for (request, header) in [
        (Request::range(0, 1), "bytes=0-0"),
        (Request::range(5, 1_000_000), "bytes=5-999999"),
        (Request::range(size - 1, size), "bytes=3000000-3000000"),
        (Request::range(100, size + 100), "bytes=100-3000100"),
        (rest, "bytes=17-"),
    ] {
        for prefix in ["", "noetag/", "redirect/redirect/"] {
            let (told, bytes) = read_part(&served.at(prefix), &request).unwrap();
            let end = request.end.map_or(SIZE, |end| SIZE.min(end as usize));
            assert_eq!(told, Some(size));
            assert!(bytes == served.bytes[request.start as usize..end], "{header} {prefix}");
            assert_eq!(served.hub.requests().last().unwrap().range.as_deref(), Some(header));
            assert_eq!(served.hub.requests().last().unwrap().status, 206);
        }
    }
    assert_eq!(served.get("").unwrap(), served.bytes);
    assert_eq!(served.ranges().last().unwrap().as_deref(), None, "all of it is asked for plainly");
    let none = served.ask("", &Request::range(5, 5)).unwrap_err();
    assert_eq!(none.kind(), Kind::Usage);
}

#[test]
fn a_range_behind_the_end_is_told_from_other_failures() {
    let served = Served::new();
    for start in [SIZE as u64, SIZE as u64 + 10] {
        let error = served.ask("", &Request::range(start, start + 1)).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity);
        assert!(error.to_string().contains(&format!("only {SIZE} bytes")), "{error}");
    }
    let file = Location::parse(&format!("file://{}", served.dir.path().join("f").display())).unwrap();
    let beyond = Request { start: SIZE as u64, ..Request::default() };
    let error = remote().request(&file, &beyond, &Cancel::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Integrity);
}

#[test]
fn a_folder_answers_as_a_server_does() {
    let served = Served::new();
    let file = Location::parse(&format!("file://{}", served.dir.path().join("f").display())).unwrap();
    let (told, bytes) = read_part(&file, &Request::range(3, 9)).unwrap();
    assert_eq!((told, bytes.as_slice()), (Some(SIZE as u64), &served.bytes[3..9]));
    let remote = remote();
    let ask = |request: &Request| remote.request(&file, request, &Cancel::default());
    let known = remote.get(&file, &Cancel::default()).unwrap().validator;
    let unless = Request { unless: Some(known.clone()), ..Request::default() };
    assert!(matches!(ask(&unless).unwrap(), Answer::NotModified));
    let other = Validator { etag: Some("\"other\"".into()), last_modified: None };
    for (copy, is_part) in [(known, true), (Validator::default(), true), (other, false)] {
        let asked = Request { only_of: Some(copy), ..Request::range(3, 9) };
        let answer = ask(&asked).unwrap();
        assert_eq!(matches!(answer, Answer::Part(_)), is_part, "{answer:?}");
    }
    assert_eq!(ask(&Request::range(5, 5)).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn a_wrong_range_is_refused() {
    let served = Served::new();
    let error = served.ask("misranged/", &Request::range(10, 20)).unwrap_err();
    assert_eq!(error.kind(), Kind::General);
    assert!(error.to_string().contains("expected the bytes 10-19"), "{error}");
    assert!(error.to_string().contains("'bytes 11-19/3000001'"), "{error}");
}

#[test]
fn a_server_without_ranges_gives_the_whole() {
    let served = Served::new();
    let remote = remote();
    let asked = Request::range(10, 20);
    match remote.request(&served.at("noranges/"), &asked, &Cancel::default()).unwrap() {
        Answer::Whole(download) => {
            assert_eq!(download.size, Some(SIZE as u64));
            assert_eq!(whole(download).unwrap(), served.bytes);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ranges_may_be_wanted_of_one_copy_only() {
    let served = Served::new();
    let remote = remote();
    let known = remote.get(&served.at(""), &Cancel::default()).unwrap().validator;
    assert!(known.etag.is_some() && known.last_modified.is_some());
    let date = Validator { etag: None, ..known.clone() };
    for copy in [known.clone(), date, Validator::default()] {
        let asked = Request { only_of: Some(copy.clone()), ..Request::range(4, 8) };
        let download = part(remote.request(&served.at(""), &asked, &Cancel::default()).unwrap());
        assert_eq!(whole(download).unwrap(), &served.bytes[4..8]);
        let sent = served.hub.requests().last().unwrap().if_range.clone();
        assert_eq!(sent, copy.etag.or(copy.last_modified));
    }
    let other = Validator { etag: Some("\"other\"".into()), ..known };
    let asked = Request { only_of: Some(other), ..Request::range(4, 8) };
    let answer = remote.request(&served.at(""), &asked, &Cancel::default()).unwrap();
    assert!(matches!(answer, Answer::Whole(_)), "{answer:?}");
}

#[test]
fn a_known_copy_is_not_sent_again() {
    let served = Served::new();
    let remote = remote();
    let known = remote.get(&served.at(""), &Cancel::default()).unwrap().validator;
    let before = served.hub.requests().len();
    let date = Validator { etag: None, ..known.clone() };
    for unless in [known.clone(), date] {
        let asked = Request { unless: Some(unless), ..Request::default() };
        let answer = remote.request(&served.at(""), &asked, &Cancel::default()).unwrap();
        assert!(matches!(answer, Answer::NotModified), "{answer:?}");
    }
    let requests = served.hub.requests();
    assert!(requests[before..].iter().all(|asked| asked.status == 304 && asked.bytes() == 0));
    let other = Validator { etag: Some("\"other\"".into()), last_modified: known.last_modified };
    let asked = Request { unless: Some(other), ..Request::default() };
    match remote.request(&served.at(""), &asked, &Cancel::default()).unwrap() {
        Answer::Whole(download) => assert_eq!(whole(download).unwrap(), served.bytes),
        other => panic!("{other:?}"),
    }
    assert_eq!(served.ask("status/304/", &Request::default()).unwrap_err().kind(), Kind::General);
}

#[test]
fn no_more_comes_than_was_asked_for() {
    let served = Served::new();
    let (told, bytes) =
        read_part(&served.at("endless/"), &Request::range(SIZE as u64 - 9, SIZE as u64)).unwrap();
    assert_eq!((told, bytes.as_slice()), (Some(SIZE as u64), &served.bytes[SIZE - 9..]));
    let rest = Request { start: SIZE as u64 - 9, ..Request::default() };
    assert_eq!(read_part(&served.at("endless/"), &rest).unwrap().1, &served.bytes[SIZE - 9..]);
    assert_eq!(read_part(&served.at("lying/10/"), &Request::range(0, 9)).unwrap().1, &served.bytes[..9]);
}

#[test]
fn eight_at_a_time_from_one_transport() {
    let served = Served::new();
    // Which of them meet the failures depends on who comes first: nobody may meet too many.
    let remote = AnyRemote::new(&HttpOptions { tries: 20, ..options() }).unwrap();
    let step = SIZE as u64 / 8 + 1;
    let parts: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..8)
            .map(|number| {
                let (served, remote) = (&served, &remote);
                scope.spawn(move || {
                    let asked =
                        Request::range(number * step, SIZE.min(((number + 1) * step) as usize) as u64);
                    let at = served.at("once-cut/100000/random/20/");
                    whole(part(remote.request(&at, &asked, &Cancel::default()).unwrap())).unwrap()
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    assert!(parts.concat() == served.bytes);
    // Bodies that are open at once and read in turn, more of them than the runtime has threads.
    let mut bodies: Vec<_> =
        (0..8).map(|_| remote.get(&served.at(""), &Cancel::default()).unwrap().body).collect();
    let mut piece = vec![0; 250_000];
    for from in (0..SIZE).step_by(piece.len()) {
        for body in &mut bodies {
            let wanted = piece.len().min(SIZE - from);
            body.read_exact(&mut piece[..wanted]).unwrap();
            assert!(piece[..wanted] == served.bytes[from..from + wanted]);
        }
    }
}
