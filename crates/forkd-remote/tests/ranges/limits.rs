//! Rates, and being stopped.

use crate::*;
use forkd_core::Silent;
use forkd_testing::SIGNATURE;
use std::sync::mpsc;
use std::time::Instant;

fn limited(rate: u64) -> AnyRemote {
    AnyRemote::new(&HttpOptions { limit_rate: Some(rate), ..impatient() }).unwrap()
}

#[test]
fn a_rate_holds_over_all_downloads() {
    let served = Served::new();
    let remote = limited(1_000_000);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        // So many that each waits longer for its turn than a stall may last.
        for number in 0..16 {
            let (served, remote) = (&served, &remote);
            scope.spawn(move || {
                let asked = Request::range(number * 75_000, (number + 1) * 75_000);
                let answer = remote.request(&served.at(""), &asked, &Cancel::default()).unwrap();
                assert_eq!(whole(part(answer)).unwrap().len(), 75_000);
            });
        }
    });
    assert!(begun.elapsed() >= Duration::from_millis(1050), "{:?}", begun.elapsed());
    assert_eq!(served.hub.requests().len(), 16);
}

#[test]
fn a_rate_holds_for_uploads() {
    let served = Served::new();
    let file = served.dir.path().join("f");
    let target = Location::parse(&served.hub.url(&format!("g?{SIGNATURE}"))).unwrap();
    let begun = Instant::now();
    limited(3_000_000).put(&target, &file, &Silent, &Cancel::default()).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(850), "{:?}", begun.elapsed());
    assert_eq!(std::fs::read(served.dir.path().join("g")).unwrap(), served.bytes);
}

#[test]
fn a_slow_server_is_no_stall() {
    let served = Served::new();
    let begun = Instant::now();
    let remote = AnyRemote::new(&impatient()).unwrap();
    let asked = Request::range(0, 80_000);
    let answer = remote.request(&served.at("slow/100000/"), &asked, &Cancel::default()).unwrap();
    assert!(whole(part(answer)).unwrap() == served.bytes[..80_000]);
    assert!(begun.elapsed() >= impatient().stall_timeout);
}

/// Whatever it waits for, it ends when it is told to; the waits here would otherwise outlast the test.
#[test]
fn a_wish_to_stop_is_heard_while_it_waits() {
    let served = Served::new();
    let patient = HttpOptions {
        stall_timeout: Duration::from_secs(600),
        backoff: Duration::from_secs(25),
        ..HttpOptions::default()
    };
    for (prefix, limit_rate) in [
        ("stall/0/", None),
        ("stall/1000/", None),
        ("cut/1000/", None),
        ("status/503/", None),
        ("retry-after/600/status/429/", None),
        ("slow/10/", None),
        ("", Some(10)),
    ] {
        let remote = AnyRemote::new(&HttpOptions { limit_rate, ..patient.clone() }).unwrap();
        let (cancel, at) = (Cancel::default(), served.at(prefix));
        let before = served.hub.requests().len();
        let (told, heard) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                told.send(remote.get(&at, &cancel).and_then(whole)).unwrap();
            });
            while served.hub.requests().len() == before {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(150));
            assert!(heard.try_recv().is_err(), "{prefix} ended by itself");
            cancel.cancel();
            let error = heard.recv_timeout(Duration::from_secs(15)).unwrap().unwrap_err();
            assert_eq!(error.kind(), Kind::Interrupted, "{prefix}: {error}");
        });
    }
}

#[test]
fn a_body_nobody_reads_is_let_go() {
    let served = Served::new();
    let remote = AnyRemote::new(&impatient()).unwrap();
    drop(remote.get(&served.at("endless/"), &Cancel::default()).unwrap());
    drop(remote.get(&served.at("stall/1000/"), &Cancel::default()).unwrap());
    let moved = || served.hub.requests().iter().map(LoggedRequest::bytes).collect::<Vec<_>>();
    let (begun, mut before) = (Instant::now(), Vec::new());
    while moved() != before {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is still read");
        before = moved();
        std::thread::sleep(impatient().stall_timeout * 2);
    }
    assert_eq!(served.hub.requests().len(), 2, "no rest is asked for");
}

#[test]
fn a_body_does_not_pass_for_whole_when_its_transport_goes() {
    let served = Served::new();
    let transport = remote();
    let download = transport.get(&served.at("slow/100000/"), &Cancel::default()).unwrap();
    drop(transport);
    assert!(whole(download).is_err());
}
