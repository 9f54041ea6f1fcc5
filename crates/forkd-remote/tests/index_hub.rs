//! A hub that is a `registry.json`: written by its publishers, read in a folder and behind a web server through the same port.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use forkd_core::hub::{Catalogue, Claim, Hub, IndexHub, Location, VersionChange};
use forkd_core::{Cancel, Kind, Progress, Result};
use forkd_format::registry::VersionNote;
use forkd_format::{Digest, PackId, Reference};
use forkd_remote::{AnyRemote, FolderObjects, HttpOptions, ObjectCatalogue, ObjectInfo, Objects};
use forkd_testing::TestHub;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

fn change(version: &str, bytes: &str) -> VersionChange {
    let entry = json!({
        "url": format!("packs/{bytes}.zst"),
        "sha256": Digest::of(bytes.as_bytes()).to_string(),
        "size_bytes": bytes.len(),
        "artifacts": [{
            "format": 3, "url": format!("packs/{bytes}.v3.zst"),
            "manifest_sha256": Digest::of(b"manifest").to_string(), "size_bytes": 7,
        }],
    });
    let entry = entry.as_object().cloned();
    let note = VersionNote { entry, description: Some("warm".into()) };
    VersionChange { package: "acme/py".into(), version: version.into(), note }
}

fn names(hub: &dyn Hub, reference: &str) -> Vec<String> {
    let reference: Reference = reference.parse().unwrap();
    let offers = hub.offers(&reference, &Cancel::default()).unwrap();
    offers.iter().map(|offer| offer.location.url().path().rsplit('/').next().unwrap().to_owned()).collect()
}

/// What a publisher writes and a consumer sees, wherever the hub lies.
fn try_out(index: &str, folder: &Path) {
    let remote = AnyRemote::new(&HttpOptions::default()).unwrap();
    let hub = IndexHub::new(&remote, &Location::parse(index).unwrap(), None);
    let catalogue = ObjectCatalogue::new(Arc::new(FolderObjects::new(folder)));
    let cancel = Cancel::default();
    // What others keep in the registry stays.
    std::fs::write(folder.join("registry.json"), r#"{"_by":"x","schema_version":1,"packages":{}}"#).unwrap();
    catalogue.change(&|_| Ok(vec![change("v1", "one")]), &cancel).unwrap();
    assert_eq!(names(&hub, "acme/py"), ["one.zst", "one.v3.zst"]);
    catalogue.change(&|_| Ok(vec![change("v2", "two"), change("latest", "two")]), &cancel).unwrap();
    assert_eq!(names(&hub, "acme/py"), ["two.zst", "two.v3.zst"]);
    let listed = hub.list(&cancel).unwrap();
    assert_eq!((listed[0].name.as_str(), listed[0].versions.len()), ("acme/py", 3));
    let text = std::fs::read_to_string(folder.join("registry.json")).unwrap();
    assert!(text.starts_with("{\n  \"_by\": \"x\""), "{text}");
    // Whoever decides sees what others have said meanwhile, and may leave it at that.
    let refuse = |text: &forkd_format::registry_text::RegistryText| {
        assert_eq!(text.version("acme/py", "v2").unwrap()["url"], "packs/two.zst");
        Err(forkd_core::Error::new(Kind::General, "seen"))
    };
    assert_eq!(catalogue.change(&refuse, &cancel).unwrap_err().kind(), Kind::General);
    assert_eq!(names(&hub, "acme/py@v2"), ["two.zst", "two.v3.zst"]);
    // A pin is of what the registry says that it is of.
    let pin = format!("acme/py@v2@sha256:{}", Digest::of(b"manifest"));
    let offers = hub.offers(&pin.parse().unwrap(), &cancel).unwrap();
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].claim, Claim::Id(PackId::Manifest(Digest::of(b"manifest"))));
    forkd_core::unpublish(&catalogue, &"acme/py@v2".parse().unwrap(), false, &cancel).unwrap();
    assert_eq!(names(&hub, "acme/py"), ["one.zst", "one.v3.zst"]);
    let again = forkd_core::unpublish(&catalogue, &"acme/py@v2".parse().unwrap(), false, &cancel);
    assert_eq!(again.unwrap_err().kind(), Kind::NotFound);
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

/// A store that knows neither locks nor conditions: every write wins.
struct Careless(FolderObjects);

impl Objects for Careless {
    fn name(&self) -> String {
        self.0.name()
    }

    fn location(&self, key: &str) -> Result<Location> {
        self.0.location(key)
    }

    fn read(&self, key: &str, limit: u64, cancel: &Cancel) -> Result<Option<Vec<u8>>> {
        let read = self.0.read(key, limit, cancel);
        // Time for others to write what this does not know of.
        std::thread::sleep(std::time::Duration::from_millis(1));
        read
    }

    fn head(&self, key: &str, cancel: &Cancel) -> Result<Option<ObjectInfo>> {
        self.0.head(key, cancel)
    }

    fn put(&self, key: &str, bytes: &[u8], cancel: &Cancel) -> Result<()> {
        self.0.put(key, bytes, cancel)
    }

    fn put_file(&self, key: &str, path: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        self.0.put_file(key, path, progress, cancel)
    }

    fn list(&self, prefix: &str, cancel: &Cancel) -> Result<Vec<ObjectInfo>> {
        self.0.list(prefix, cancel)
    }

    fn delete(&self, key: &str, cancel: &Cancel) -> Result<()> {
        self.0.delete(key, cancel)
    }
}

#[test]
fn nobodys_word_is_lost_where_every_write_wins() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for n in 0..20 {
            let dir = folder.path();
            scope.spawn(move || {
                let catalogue = ObjectCatalogue::new(Arc::new(Careless(FolderObjects::new(dir))));
                let mut all = vec![change(&format!("v{n}"), &format!("p{n}"))];
                all.extend((n == 7).then(|| change("latest", "p7")));
                catalogue.change(&|_| Ok(all.clone()), &Cancel::default()).unwrap();
            });
        }
    });
    let catalogue = ObjectCatalogue::new(Arc::new(FolderObjects::new(folder.path())));
    let text = catalogue.registry(&Cancel::default()).unwrap();
    assert_eq!(text.versions("acme/py").len(), 21);
    assert_eq!(text.version("acme/py", "latest").unwrap()["url"], "packs/p7.zst");
}
