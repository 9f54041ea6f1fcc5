//! Stores that several users share.

use crate::app::App;
use forkd_core::store::{Sharing, SharingReport};
use forkd_core::{Error, Kind, Result};
use std::path::Path;
use std::process::Command;

impl App<'_> {
    /// Gives the store to a group of this host's, by its name or number.
    ///
    /// # Errors
    /// [`Kind::NotFound`] where there is no such group; as [`forkd_core::Store::set_sharing`].
    pub fn share_store(&self, group: &str) -> Result<SharingReport> {
        self.settings.store.set_sharing(Sharing::Group(group_number(group)?))
    }

    /// Takes the store back for its owner alone.
    ///
    /// # Errors
    /// As [`forkd_core::Store::set_sharing`].
    pub fn unshare_store(&self) -> Result<SharingReport> {
        self.settings.store.set_sharing(Sharing::Private)
    }
}

/// Asks the host's own directory of groups, which may be more than a file.
fn group_number(group: &str) -> Result<u32> {
    let getent = Path::new("getent");
    let output =
        Command::new(getent).args(["--", "group", group]).output().map_err(Error::io("run", getent))?;
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = line.split(':').nth(2).and_then(|number| number.trim().parse().ok());
    number.or_else(|| group.parse().ok()).ok_or_else(|| {
        let message = format!("this host has no group '{}'", group.escape_debug());
        Error::new(Kind::NotFound, message).hint("groupadd makes one, as root")
    })
}
