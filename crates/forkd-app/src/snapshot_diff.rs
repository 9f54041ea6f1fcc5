//! A link on top of a snapshot.

use crate::app::App;
use crate::machines::Machines;
use crate::narrator::Event;
use forkd_core::Result;
use forkd_core::machine::{self, DiffOptions, DiffReport};
use forkd_format::Tag;

impl App<'_> {
    /// Forks `from`, runs `command` in the child by its shell, and freezes what changed into the link `tag`.
    ///
    /// # Errors
    /// As [`machine::snapshot_diff`].
    pub fn snapshot_diff(&self, from: &Tag, tag: &Tag, command: &str) -> Result<DiffReport> {
        let settings = self.settings;
        settings.store.load(from)?;
        let machines = Machines::open(settings.search_path.as_deref(), &settings.runtime_dir)?;
        let options = DiffOptions {
            from: from.clone(),
            tag: tag.clone(),
            exec: command.to_owned(),
            created_at: settings.timestamp.clone(),
        };
        self.narrator.tell(&Event::DiffBegun { tag, from });
        let (engine, runtime) = (&machines.engine, &machines.runtime);
        self.hearing_guest(|output| {
            machine::snapshot_diff(&settings.store, engine, runtime, &options, self.env, output)
        })
    }
}
