//! Proxies that the environment names, and hosts that none is asked for.

use super::published;
use crate::common::User;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A SOCKS 5 server (RFC 1928) that leads wherever it is asked to one address, and counts how often it was asked.
fn socks(target: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || relay(client, target));
        }
    });
    (address, asked)
}

fn relay(mut client: TcpStream, target: SocketAddr) -> Option<()> {
    let mut read = |len: usize| {
        let mut bytes = vec![0; len];
        client.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    let methods = read(2)?[1];
    read(methods.into())?;
    client.write_all(&[5, 0]).ok()?;
    let mut head = [0; 5];
    client.read_exact(&mut head).ok()?;
    // A name: its length came with the head; its port follows it.
    assert_eq!((head[1], head[3]), (1, 3), "a connection to a name");
    client.read_exact(&mut vec![0; usize::from(head[4]) + 2]).ok()?;
    let mut server = TcpStream::connect(target).ok()?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    let (mut back, mut from) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || std::io::copy(&mut from, &mut back));
    std::io::copy(&mut client, &mut server).ok().map(drop)
}

#[test]
fn a_socks_proxy_leads_to_the_hub_and_names_with_ports_pass_it_by() {
    let (_publisher, hub) = published("py");
    let (proxy, asked) = socks(hub.address);
    let user = User::new();
    let pull = |url: &str, variables: &[(&str, &str)]| {
        let mut command = user.command(&["pull", url, "--force"]);
        user.seen(&command.envs(variables.iter().copied()).output().unwrap())
    };
    let proxied = ("ALL_PROXY", &*format!("socks5h://{proxy}"));
    let seen = pull("http://hub.invalid/py.zst", &[proxied]);
    assert_eq!((seen.code, asked.load(Ordering::SeqCst) > 0), (0, true), "{}", seen.err);
    let before = asked.load(Ordering::SeqCst);
    let port = hub.address.port();
    for excepted in [format!("other:1,127.0.0.1:{port}"), "127.0.0.1".to_owned(), "*".to_owned()] {
        let seen = pull(&hub.url("py.zst"), &[proxied, ("NO_PROXY", &excepted)]);
        assert_eq!((seen.code, asked.load(Ordering::SeqCst)), (0, before), "{excepted}: {}", seen.err);
    }
    let other = format!("hub.invalid:{}", port.wrapping_add(1).max(1));
    let seen = pull("http://hub.invalid/py.zst", &[proxied, ("NO_PROXY", &other)]);
    assert_eq!((seen.code, asked.load(Ordering::SeqCst) > before), (0, true), "another port: {}", seen.err);
    let seen = pull(&hub.url("py.zst"), &[("ALL_PROXY", "socks5://127.0.0.1:9")]);
    assert_eq!(seen.code, 1, "nobody listens there: {}", seen.err);
    assert!(
        seen.err
            .ends_with(": the SOCKS proxy cannot be reached; see ALL_PROXY, HTTP_PROXY and HTTPS_PROXY\n"),
        "{}",
        seen.err
    );
    let seen = pull(&hub.url("py.zst"), &[("HTTP_PROXY", "ftp://user:password@127.0.0.1:1")]);
    assert_eq!(seen.code, 2, "{}", seen.err);
    assert!(
        seen.err.starts_with("forkd: HTTP_PROXY names a proxy of the kind 'ftp:'; expected one of http"),
        "{}",
        seen.err
    );
    assert!(!seen.err.contains("password"), "{}", seen.err);
}
