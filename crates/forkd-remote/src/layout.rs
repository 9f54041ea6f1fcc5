//! A folder in the OCI image layout (image-spec 1.1, image-layout.md), which other tools read and which can be carried anywhere.

use forkd_core::hub::{BlobFile, Location, ManifestName, Repository};
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use forkd_format::Digest;
use forkd_format::release::{Descriptor, MAX_RELEASE_MANIFEST, ReleaseDocument, media};
use forkd_sys::{LockKind, try_lock};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The annotation that names a manifest.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";
const RETRY: Duration = Duration::from_millis(20);

/// A folder as a repository.
#[derive(Debug)]
pub struct LayoutRepository {
    dir: PathBuf,
}

impl LayoutRepository {
    /// The folder, which is made when something is put there.
    ///
    /// # Errors
    /// [`Kind::Usage`] where the path is not absolute.
    pub fn new(dir: &Path) -> Result<Self> {
        Location::of_file(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.to_string())
    }

    fn read(&self, path: &Path, what: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(Kind::NotFound, format!("no {what} in {}", self.dir.display()))
            }
            _ => Error::io("open", path)(e),
        })?;
        file.take(MAX_RELEASE_MANIFEST + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        if bytes.len() as u64 > MAX_RELEASE_MANIFEST {
            return Err(Error::new(Kind::Integrity, format!("{}: it is too long", path.display())));
        }
        Ok(bytes)
    }

    /// The layout's list of manifests.
    fn index(&self) -> Result<Vec<Value>> {
        let path = self.dir.join(INDEX);
        let wrong = || Error::new(Kind::Integrity, format!("{}: no index of an OCI layout", path.display()));
        let index: Value = serde_json::from_slice(&self.read(&path, "OCI layout")?).map_err(|_| wrong())?;
        index.get("manifests").and_then(Value::as_array).cloned().ok_or_else(wrong)
    }

    /// Changes the list, one writer at a time.
    fn change(&self, cancel: &Cancel, edit: impl FnOnce(&mut Vec<Value>) -> Result<()>) -> Result<()> {
        fs::create_dir_all(&self.dir).map_err(Error::io("create", &self.dir))?;
        let guard = File::open(&self.dir).map_err(Error::io("open", &self.dir))?;
        while !try_lock(&guard, LockKind::Exclusive).map_err(Error::io("lock", &self.dir))? {
            cancel.check()?;
            std::thread::sleep(RETRY);
        }
        let mut manifests = match self.index() {
            Err(error) if error.kind() == Kind::NotFound => Vec::new(),
            found => found?,
        };
        edit(&mut manifests)?;
        let marker = json!({ "imageLayoutVersion": "1.0.0" });
        put_text(&self.dir.join(MARKER), &marker.to_string())?;
        let index = json!({ "schemaVersion": 2, "mediaType": media::IMAGE_INDEX, "manifests": manifests });
        put_text(&self.dir.join(INDEX), &index.to_string())
    }
}

fn tag_of(manifest: &Value) -> Option<&str> {
    manifest.get("annotations")?.get(REF_NAME)?.as_str()
}

/// Puts a file into its place at once.
fn put_text(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let made = tempfile::Builder::new().prefix(".forkd-put-").tempfile_in(dir);
    let mut temp = made.map_err(Error::io("create a file in", dir))?;
    let failed = || Error::io("write", path);
    temp.write_all(text.as_bytes()).map_err(failed())?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    temp.as_file().set_permissions(mode).map_err(failed())?;
    temp.as_file().sync_all().map_err(failed())?;
    temp.persist(path).map(drop).map_err(|e| failed()(e.error))
}

impl Repository for LayoutRepository {
    fn name(&self) -> String {
        format!("oci-layout:{}", self.dir.display())
    }

    fn blob_location(&self, digest: &Digest) -> Result<Location> {
        Location::of_file(&self.blob_path(digest))
    }

    fn manifest(&self, name: &ManifestName, _: &Cancel) -> Result<Vec<u8>> {
        let digest = match name {
            ManifestName::Digest(digest) => *digest,
            ManifestName::Tag(tag) => {
                let manifests = self.index()?;
                let found = manifests.iter().find(|manifest| tag_of(manifest) == Some(tag));
                let digest =
                    found.and_then(|manifest| manifest.get("digest")?.as_str()?.strip_prefix("sha256:"));
                let there: Vec<&str> = manifests.iter().filter_map(tag_of).collect();
                let missing = || {
                    let message = format!("{}: no tag '{tag}'; there are: {}", self.name(), there.join(", "));
                    Error::new(Kind::NotFound, message)
                };
                digest.and_then(|hex| hex.parse().ok()).ok_or_else(missing)?
            }
        };
        let bytes = self.read(&self.blob_path(&digest), &format!("manifest sha256:{digest}"))?;
        forkd_core::hub::check_manifest(&bytes, &ManifestName::Digest(digest), &self.name())?;
        Ok(bytes)
    }

    fn tags(&self, _: &Cancel) -> Result<Vec<String>> {
        let mut tags: Vec<String> = self.index()?.iter().filter_map(tag_of).map(str::to_owned).collect();
        tags.sort_unstable();
        Ok(tags)
    }

    fn has_blob(&self, blob: &Descriptor, _: &Cancel) -> Result<bool> {
        Ok(self.blob_path(&blob.digest).metadata().is_ok_and(|found| found.len() == blob.size))
    }

    fn put_blob(&self, file: BlobFile<'_>, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        let path = self.blob_path(&file.blob.digest);
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        crate::folder::put(&Location::of_file(&path)?, file.path, progress, cancel)
    }

    fn put_manifest(&self, name: &ManifestName, manifest: &[u8], cancel: &Cancel) -> Result<()> {
        let kind = match ReleaseDocument::parse(manifest) {
            Ok(ReleaseDocument::Variants(_)) => media::IMAGE_INDEX,
            _ => media::MANIFEST,
        };
        let descriptor = Descriptor::of(kind, manifest);
        let path = self.blob_path(&descriptor.digest);
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        put_text(&path, &String::from_utf8_lossy(manifest))?;
        let ManifestName::Tag(tag) = name else { return Ok(()) };
        let mut entry = Map::new();
        entry.insert("mediaType".into(), kind.into());
        entry.insert("digest".into(), format!("sha256:{}", descriptor.digest).into());
        entry.insert("size".into(), descriptor.size.into());
        entry.insert("artifactType".into(), media::SNAPSHOT.into());
        entry.insert("annotations".into(), json!({ REF_NAME: tag }));
        self.change(cancel, |manifests| {
            manifests.retain(|other| tag_of(other) != Some(tag.as_str()));
            manifests.push(Value::Object(entry));
            Ok(())
        })
    }

    fn delete(&self, tag: &str, cancel: &Cancel) -> Result<()> {
        self.change(cancel, |manifests| {
            let before = manifests.len();
            manifests.retain(|other| tag_of(other) != Some(tag));
            if manifests.len() == before {
                return Err(Error::new(Kind::NotFound, format!("{}: no tag '{tag}'", self.name())));
            }
            Ok(())
        })
    }
}
