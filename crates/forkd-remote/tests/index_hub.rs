//! A hub that is a `registry.json`: in a folder and behind a web server, through the same port.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use forkd_core::hub::{Claim, Hub, IndexHub, Location, Release, ReleasePack};
use forkd_core::{Cancel, Kind, Silent};
use forkd_format::{Digest, PackId, Reference};
use forkd_remote::{AnyRemote, HttpOptions};
use forkd_testing::TestHub;
use std::path::Path;

fn release<'a>(version: &str, file: &'a Path, latest: bool) -> Release<'a> {
    let bytes = std::fs::read(file).unwrap();
    let pack = |name: &str, id| ReleasePack {
        file,
        file_name: format!("{version}{name}"),
        id,
        size: bytes.len() as u64,
        header_bytes: None,
        bases: Vec::new(),
    };
    Release {
        package: "acme/py".into(),
        version: version.into(),
        latest,
        description: Some("warm".into()),
        memory_mib: Some(512),
        base_image: None,
        packs: vec![
            pack(".zst", PackId::File(Digest::of(&bytes))),
            pack(".v3.zst", PackId::Manifest(Digest::of(b"manifest"))),
        ],
    }
}

fn names(hub: &dyn Hub, reference: &str) -> Vec<String> {
    let reference: Reference = reference.parse().unwrap();
    let offers = hub.offers(&reference, &Cancel::default()).unwrap();
    offers.iter().map(|offer| offer.location.url().path().rsplit('/').next().unwrap().to_owned()).collect()
}

/// What a publisher and a consumer see, wherever the hub lies.
fn try_out(index: &str, folder: &Path) {
    let remote = AnyRemote::new(&HttpOptions::default()).unwrap();
    let hub = IndexHub::new(&remote, &Location::parse(index).unwrap(), None);
    let (cancel, work) = (Cancel::default(), tempfile::tempdir().unwrap());
    let (one, two) = (work.path().join("one"), work.path().join("two"));
    std::fs::write(&one, "first").unwrap();
    std::fs::write(&two, "second").unwrap();
    // What others keep in the registry stays.
    std::fs::write(folder.join("registry.json"), r#"{"_by":"x","schema_version":1,"packages":{}}"#).unwrap();
    hub.publish(&release("v1", &one, false), &Silent, &cancel).unwrap();
    assert_eq!(std::fs::read_to_string(folder.join("v1.zst")).unwrap(), "first");
    assert_eq!(names(&hub, "acme/py"), ["v1.zst", "v1.v3.zst"]);
    hub.publish(&release("v2", &two, true), &Silent, &cancel).unwrap();
    assert_eq!(names(&hub, "acme/py"), ["v2.zst", "v2.v3.zst"]);
    let listed = hub.list(&cancel).unwrap();
    assert_eq!(listed[0].name, "acme/py");
    assert_eq!(listed[0].versions, ["latest", "v1", "v2"]);
    let text = std::fs::read_to_string(folder.join("registry.json")).unwrap();
    assert!(text.starts_with("{\n  \"_by\": \"x\""), "{text}");
    // The same again is no news; other bytes under the same name are refused before anything is sent.
    hub.publish(&release("v2", &two, true), &Silent, &cancel).unwrap();
    let mut other = release("v2", &one, true);
    other.packs.iter_mut().for_each(|pack| pack.file_name = "other.zst".into());
    let error = hub.publish(&other, &Silent, &cancel).unwrap_err();
    assert!(error.kind() == Kind::General && error.to_string().contains("with other bytes"), "{error}");
    assert!(!folder.join("other.zst").exists());
    // A pin is of what the registry says that it is of.
    let pin = format!("acme/py@v2@sha256:{}", Digest::of(b"manifest"));
    let offers = hub.offers(&pin.parse().unwrap(), &cancel).unwrap();
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].claim, Claim::Id(PackId::Manifest(Digest::of(b"manifest"))));
    hub.delete(&"acme/py@v2".parse().unwrap(), &Silent, &cancel).unwrap();
    assert_eq!(names(&hub, "acme/py"), ["v1.zst", "v1.v3.zst"]);
    let error = hub.delete(&"acme/py@v2".parse().unwrap(), &Silent, &cancel).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[test]
fn a_folder_is_a_hub() {
    let folder = tempfile::tempdir().unwrap();
    try_out(&format!("file://{}/registry.json", folder.path().display()), folder.path());
}

#[test]
fn a_web_server_is_a_hub() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestHub::start(folder.path());
    try_out(&server.url("unsigned/registry.json"), folder.path());
}
