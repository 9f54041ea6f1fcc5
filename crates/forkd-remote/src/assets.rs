//! A folder of files that are hosted elsewhere, with the registry that names them there.

use forkd_core::hub::{Catalogue, Decision, VersionChange};
use forkd_core::{Cancel, Error, Progress, Result};
use forkd_format::registry_text::RegistryText;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What is to be uploaded, and the registry as it will be.
pub struct AssetFolder {
    dir: PathBuf,
    /// What goes before a file's name to make its URL; ends with a slash.
    base: String,
    registry: RegistryText,
    /// Files that were put, with their digests.
    sums: Mutex<Vec<String>>,
}

impl AssetFolder {
    /// A folder, which is made when something is put there; `registry` is the one that is changed.
    #[must_use]
    pub fn new(dir: &Path, base: &str, registry: RegistryText) -> Self {
        let base = if base.ends_with('/') { base.to_owned() } else { format!("{base}/") };
        Self { dir: dir.to_owned(), base, registry, sums: Mutex::default() }
    }

    fn put_text(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        let failed = || Error::io("write", &path);
        let mut file = tempfile::Builder::new()
            .prefix(".forkd-put-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(&self.dir)
            .map_err(failed())?;
        file.write_all(text.as_bytes()).map_err(failed())?;
        file.persist(&path).map(drop).map_err(|e| failed()(e.error))
    }
}

impl Catalogue for AssetFolder {
    fn name(&self) -> String {
        self.dir.display().to_string()
    }

    fn registry(&self, _: &Cancel) -> Result<RegistryText> {
        Ok(self.registry.clone())
    }

    fn url(&self, file_name: &str) -> String {
        format!("{}{file_name}", self.base)
    }

    fn announce(&self, _: &Cancel) -> Result<()> {
        Ok(())
    }

    fn has_file(&self, _: &str, _: u64, _: &Cancel) -> Result<bool> {
        Ok(false)
    }

    fn put_file(&self, file_name: &str, file: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        std::fs::create_dir_all(&self.dir).map_err(Error::io("create", &self.dir))?;
        let target = forkd_core::hub::Location::of_file(&self.dir.join(file_name))?;
        crate::folder::put(&target, file, progress, cancel)?;
        let mut hasher = forkd_format::Hasher::default();
        let mut input = std::fs::File::open(file).map_err(Error::io("open", file))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = std::io::Read::read(&mut input, &mut buffer).map_err(Error::io("read", file))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
        let line = format!("{}  {file_name}\n", hasher.finish());
        self.sums.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        Ok(())
    }

    fn change(&self, decide: &Decision<'_>, _: &Cancel) -> Result<()> {
        let mut text = self.registry.clone();
        for VersionChange { package, version, note } in decide(&self.registry)? {
            text.apply(&package, &version, &note);
        }
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner).concat();
        self.put_text("SHA256SUMS", &sums)?;
        self.put_text("registry.json", &text.to_string())
    }
}
