//! Pushes that are cut off: they go on, and no tag ever points to what is not there.

use crate::{content, other, publisher};
use forkd_testing::{DockerRegistry, FaultProxy, often, pseudo_random};
use std::time::Duration;

pub(crate) const TESTS: &[(&str, fn())] = &[("cuts::a_push_that_is_cut_goes_on", a_push_that_is_cut_goes_on)];

fn a_push_that_is_cut_goes_on() {
    // Enough for several blobs: most of its pages hold noise.
    let (user, tags) = publisher(2, 400 << 20);
    let dir = tempfile::tempdir().unwrap();
    let registry = DockerRegistry::start(dir.path());
    let proxy = FaultProxy::start(&registry.host);
    let place = format!("oci://{}/acme/x:v1", proxy.address);
    let direct = format!("oci://{}/acme/x:v1", registry.host);
    let mut random = pseudo_random(7);
    let rounds = often(20, 100);
    let mut cuts = 0;
    for round in 0..rounds {
        // What an earlier round sent is gone, or it would send nothing.
        let _ = std::fs::remove_dir_all(dir.path().join("storage/docker"));
        let before = proxy.sent();
        let at = 1000 + random() % (50 << 20);
        match round % 3 {
            0 => proxy.cut_after(at, 0),
            1 => proxy.cut_after(at, 500),
            _ => {
                let mut child = user.command(&["push", "--tag", &tags[1], &place]).spawn().unwrap();
                std::thread::sleep(Duration::from_millis(200 + random() % 2500));
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if round % 3 < 2 {
            let seen = user.run(&["push", "--tag", &tags[1], &place]);
            assert!(matches!(seen.code, 0 | 5), "{}", seen.err);
            cuts += usize::from(seen.code == 5);
            if seen.code != 0 {
                let to = other();
                to.fails(3, &["pull", &direct]);
                assert!(to.is_untouched());
            }
        }
        proxy.heal();
        let report = user.json(&["push", "--tag", &tags[1], &place]);
        let sent = proxy.sent() - before;
        let size = report["size_bytes"].as_u64().unwrap();
        // Four connections, each of which may lose a blob at each try.
        let lost = 4 * 4 * (17 << 20);
        assert!(sent <= size + lost, "{sent} of {size}");
    }
    assert!(cuts > 0 || rounds < 3);
    let to = other();
    to.ok_noted(&["pull", &direct]);
    assert_eq!(content(&to, &tags[1]), content(&user, &tags[1]));
}
