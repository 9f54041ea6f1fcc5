//! A hub of objects as publishers of packs see it.

use super::entry::{PACKS, note_key};
use super::marker::{Marker, publish};
use super::port::Objects;
use super::registry::{read_registry, update_locked};
use forkd_core::hub::{Catalogue, Decision, VersionChange};
use forkd_core::{Cancel, Progress, Result};
use forkd_format::registry_text::RegistryText;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Packs and their list, in a folder or a bucket.
pub struct ObjectCatalogue {
    objects: Arc<dyn Objects>,
    /// Keeps collectors away.
    marker: Mutex<Option<Marker>>,
}

impl ObjectCatalogue {
    /// A hub; nothing is asked or made yet.
    #[must_use]
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        Self { objects, marker: Mutex::default() }
    }
}

impl Catalogue for ObjectCatalogue {
    fn name(&self) -> String {
        self.objects.name()
    }

    fn registry(&self, cancel: &Cancel) -> Result<RegistryText> {
        read_registry(&*self.objects, cancel).map(|(text, _)| text)
    }

    fn url(&self, file_name: &str) -> String {
        format!("{PACKS}{file_name}")
    }

    fn announce(&self, cancel: &Cancel) -> Result<()> {
        let mut marker = self.marker.lock().unwrap_or_else(PoisonError::into_inner);
        if marker.is_none() {
            *marker = Some(publish(&self.objects, cancel)?);
        }
        Ok(())
    }

    fn has_file(&self, file_name: &str, size: u64, cancel: &Cancel) -> Result<bool> {
        let found = self.objects.head(&self.url(file_name), cancel)?;
        Ok(found.is_some_and(|found| found.size == size))
    }

    fn put_file(&self, file_name: &str, file: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        self.announce(cancel)?;
        self.objects.put_file(&self.url(file_name), file, progress, cancel)
    }

    fn change(&self, decide: &Decision<'_>, cancel: &Cancel) -> Result<()> {
        self.announce(cancel)?;
        let _lock = self.objects.lock(cancel)?;
        let (text, _) = read_registry(&*self.objects, cancel)?;
        for VersionChange { package, version, note } in decide(&text)? {
            let text = serde_json::to_vec_pretty(&note).unwrap_or_default();
            self.objects.put(&note_key(&package, &version), &text, cancel)?;
        }
        update_locked(&*self.objects, cancel)?;
        *self.marker.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }
}
