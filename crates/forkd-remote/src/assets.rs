//! A folder of files that are hosted elsewhere, with the registry that names them there.

use forkd_core::hub::{Catalogue, Decision, VersionChange};
use forkd_core::{Cancel, Error, Progress, Result};
use forkd_format::registry_text::RegistryText;
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
        let line = format!("{}  {file_name}\n", forkd_core::file_digest(file)?);
        self.sums.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        Ok(())
    }

    fn change(&self, decide: &Decision<'_>, _: &Cancel) -> Result<()> {
        let mut text = self.registry.clone();
        for VersionChange { package, version, note } in decide(&self.registry)? {
            text.apply(&package, &version, &note);
        }
        let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner).concat();
        forkd_core::write_whole(&self.dir.join("SHA256SUMS"), sums.as_bytes())?;
        forkd_core::write_whole(&self.dir.join("registry.json"), text.to_string().as_bytes())
    }
}
