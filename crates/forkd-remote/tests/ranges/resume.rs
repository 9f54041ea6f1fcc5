//! Downloads whose connections break.

use crate::*;
use std::time::Instant;

#[test]
fn a_cut_costs_only_what_it_cut_off() {
    for percent in [10, 50, 90, 99] {
        let served = Served::new();
        let cut = SIZE * percent / 100;
        assert_eq!(served.get(&format!("once-cut/{cut}/")).unwrap(), served.bytes, "{percent} %");
        assert_eq!(served.ranges(), [None, Some(format!("bytes={cut}-"))]);
        assert_eq!(served.moved(), SIZE as u64);
        let second = &served.hub.requests()[1];
        assert!(second.if_range.as_deref().unwrap().starts_with('"'));
    }
}

#[test]
fn a_range_resumes_within_itself() {
    let served = Served::new();
    let asked = Request::range(1_000_000, 2_000_000);
    let (told, bytes) = read_part(&served.at("cut-each/300000/"), &asked).unwrap();
    assert_eq!(told, Some(SIZE as u64));
    assert!(bytes == served.bytes[1_000_000..2_000_000]);
    let starts = [1_000_000, 1_300_000, 1_600_000, 1_900_000];
    assert_eq!(served.ranges(), starts.map(|start| Some(format!("bytes={start}-1999999"))));
    assert_eq!(served.moved(), 1_000_000);
}

#[test]
fn progress_gives_new_tries() {
    let served = Served::new();
    assert_eq!(served.get("cut-each/200000/").unwrap(), served.bytes);
    assert_eq!(served.hub.requests().len(), SIZE.div_ceil(200_000));
    assert_eq!(served.moved(), SIZE as u64);
}

#[test]
fn without_progress_tries_end() {
    let served = Served::new();
    let error = served.get("cut/1000000/").unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    let again = Some("bytes=1000000-".to_owned());
    assert_eq!(served.ranges(), [None, again.clone(), again.clone(), again.clone(), again]);
    let served = Served::new();
    let error = served.get_with("stall/1000000/", &impatient()).unwrap_err();
    assert!(error.to_string().contains("no byte in 0.6 s"), "{error}");
    assert_eq!(error.kind(), Kind::Transient);
    let served = Served::new();
    assert_eq!(served.get("status/503/").unwrap_err().kind(), Kind::Transient);
    assert_eq!(served.hub.requests().len(), 4);
    let served = Served::new();
    assert_eq!(served.get("status/404/").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(served.hub.requests().len(), 1);
}

#[test]
fn what_came_before_a_failure_is_handed_over() {
    let served = Served::new();
    let remote = remote();
    let mut body = remote.get(&served.at("cut/1000001/"), &Cancel::default()).unwrap().body;
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).unwrap_err();
    assert!(bytes == served.bytes[..1_000_001]);
}

#[test]
fn a_stalled_connection_is_given_up() {
    let served = Served::new();
    let begun = Instant::now();
    assert_eq!(served.get_with("once-stall/1234567/", &impatient()).unwrap(), served.bytes);
    assert!(begun.elapsed() >= impatient().stall_timeout);
    assert_eq!(served.ranges(), [None, Some("bytes=1234567-".into())]);
    assert_eq!(served.moved(), SIZE as u64);
}

#[test]
fn a_busy_server_is_left_alone_for_as_long_as_it_asks() {
    let served = Served::new();
    let begun = Instant::now();
    assert_eq!(served.get("retry-after/1/flaky/2/").unwrap(), served.bytes);
    assert!(begun.elapsed() >= Duration::from_secs(2));
    let statuses: Vec<_> = served.hub.requests().iter().map(|asked| asked.status).collect();
    assert_eq!(statuses, [503, 503, 200]);
    // The same in the middle of a body; no three failures in a row are drawn.
    assert_eq!(served.get("random/30/cut-each/300000/").unwrap(), served.bytes);
    assert!(served.hub.requests()[3..].iter().any(|asked| asked.status >= 408));
}

#[test]
fn without_ranges_known_bytes_are_dropped() {
    let served = Served::new();
    assert_eq!(served.get("once-cut/2000000/noranges/").unwrap(), served.bytes);
    assert_eq!(served.moved(), SIZE as u64 + 2_000_000);
    // Bytes that are known already are no progress.
    assert_eq!(served.get("cut-each/2000000/noranges/").unwrap_err().kind(), Kind::Transient);
    let error = served.get("once-cut/2000000/noranges/noetag/").unwrap_err();
    assert_eq!(error.kind(), Kind::Transient);
    assert!(error.to_string().contains("the server cannot resume"), "{error}");
}

#[test]
fn another_copy_is_never_mixed_in() {
    let served = Served::new();
    let error = served.get("once-cut/1000000/changing/").unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    // The file itself is replaced while it is read.
    let remote = remote();
    let mut body = remote.get(&served.at("cut/2500000/"), &Cancel::default()).unwrap().body;
    let mut bytes = vec![0; 1000];
    body.read_exact(&mut bytes).unwrap();
    std::fs::write(served.dir.path().join("f.new"), vec![1; SIZE]).unwrap();
    std::fs::rename(served.dir.path().join("f.new"), served.dir.path().join("f")).unwrap();
    let error = body.read_to_end(&mut bytes).unwrap_err().downcast::<Error>().unwrap();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert!(bytes == served.bytes[..bytes.len()]);
    // Without validators the size is all there is to tell by.
    std::fs::write(served.dir.path().join("f"), &served.bytes).unwrap();
    let mut body = remote.get(&served.at("cut/2500000/noetag/"), &Cancel::default()).unwrap().body;
    body.read_exact(&mut [0; 1000]).unwrap();
    std::fs::write(served.dir.path().join("f"), &served.bytes[1..]).unwrap();
    let error = body.read_to_end(&mut bytes).unwrap_err().downcast::<Error>().unwrap();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

#[test]
fn a_declared_length_is_held_to() {
    let served = Served::new();
    let error = served.get("lying/5/").unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert_eq!(served.ranges(), [None, Some(format!("bytes={SIZE}-"))]);
}

#[test]
fn a_redirect_is_asked_for_anew() {
    let served = Served::new();
    assert_eq!(served.get("redirect/once-cut/1000000/").unwrap(), served.bytes);
    let uris: Vec<_> = served.hub.requests().into_iter().map(|asked| asked.uri).collect();
    let (first, second) = ("/redirect/once-cut/1000000/f", "/once-cut/1000000/f");
    assert_eq!(uris, [first, second, first, second]);
}
