//! A hub's catalogue as pages in a folder.

use crate::app::App;
use crate::hub_place::HubPlace;
use forkd_core::{Error, Kind, Result};
use forkd_page::{SiteFile, SiteOptions, site};
use serde::Serialize;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What was written.
#[derive(Debug, Clone, Serialize)]
pub struct HubPageReport {
    #[serde(serialize_with = "forkd_core::json::path")]
    pub dir: PathBuf,
    pub packages: usize,
    pub files: usize,
    /// Pages of packages that are no longer listed.
    pub removed: usize,
}

/// What every site of ours has, and nothing else as a rule.
const MARK: &str = "packages.js";

impl App<'_> {
    /// Writes a site of a hub's packages into a folder; one that is there is replaced file by file, the list last.
    ///
    /// # Errors
    /// Those of the hub and of the disk.
    pub fn hub_page(&self, hub: &HubPlace, dir: &Path, options: &SiteOptions) -> Result<HubPageReport> {
        let packages = self.packages_of(hub, &|_, _| true)?;
        let broken = |e: forkd_page::TemplateError| Error::new(Kind::General, format!("internal error: {e}"));
        let mut files = site(&packages, options).map_err(broken)?;
        files.sort_by_key(|file| file.path == "index.html");
        let was_site = dir.join(MARK).is_file();
        for file in &files {
            self.env.cancel.check()?;
            write(dir, file)?;
        }
        let removed = if was_site { remove_others(&dir.join("p"), dir, &files)? } else { 0 };
        Ok(HubPageReport { dir: dir.to_owned(), packages: packages.len(), files: files.len(), removed })
    }
}

fn write(dir: &Path, file: &SiteFile) -> Result<()> {
    let path = dir.join(&file.path);
    let parent = path.parent().unwrap_or(dir);
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    if fs::read(&path).is_ok_and(|there| there == file.text.as_bytes()) {
        return Ok(());
    }
    forkd_core::write_whole(&path, file.text.as_bytes())
}

/// Removes pages of packages that are no longer there.
fn remove_others(folder: &Path, dir: &Path, files: &[SiteFile]) -> Result<usize> {
    let kept: HashSet<PathBuf> = files.iter().map(|file| dir.join(&file.path)).collect();
    let mut removed = 0;
    for owner in fs::read_dir(folder).into_iter().flatten().flatten() {
        for page in fs::read_dir(owner.path()).into_iter().flatten().flatten() {
            let path = page.path();
            if path.extension().is_some_and(|end| end == "html") && !kept.contains(&path) {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}
