//! Snapshots that go, and the children that stand in the way.

use crate::app::App;
use crate::machines::Machines;
use forkd_core::{Dependents, Error, Kind, RemoveReport, Result};
use forkd_format::Tag;

impl App<'_> {
    /// Removes snapshots; unless dependents may be orphaned, none of which children are running.
    ///
    /// # Errors
    /// As [`forkd_core::remove`]; [`Kind::General`] where children are running. Nothing is removed then.
    pub fn remove(&self, tags: &[Tag], dependents: Dependents) -> Result<RemoveReport> {
        if dependents != Dependents::Orphan {
            self.refuse_running(tags, dependents)?;
        }
        let store = &self.settings.store;
        let mut whole = Vec::new();
        for tag in tags {
            if store.contains(tag) || !forkd_core::arrival::stop(store, tag, self.env)? {
                whole.push(tag.clone());
            } else {
                self.env.progress.note(&format!("'{tag}' was arriving; what had come is deleted"));
            }
        }
        if whole.is_empty() && !tags.is_empty() {
            return Ok(RemoveReport::default());
        }
        forkd_core::remove(store, &whole, dependents, self.env)
    }

    /// Children that run keep their files open and would go on without; but who removes their snapshot has hardly meant that.
    fn refuse_running(&self, tags: &[Tag], dependents: Dependents) -> Result<()> {
        let store = &self.settings.store;
        let machines = Machines::running(&self.settings.runtime_dir);
        let running = machines.runtime.children(&machines.engine)?;
        let mut tags = tags.to_vec();
        if dependents == Dependents::Cascade {
            let mut more = store.dependents(&tags)?;
            while !more.is_empty() {
                tags.extend(more.into_iter().map(|(_, tag)| tag));
                more = store.dependents(&tags)?;
            }
        }
        for tag in &tags {
            let of = store.dir(tag);
            let ids: Vec<&str> =
                running.iter().filter(|child| child.snapshot == of).map(|child| child.id.as_str()).collect();
            if !ids.is_empty() {
                let message = format!("'{tag}': children of it are running ({})", ids.join(", "));
                return Err(Error::new(Kind::General, message).hint("`forkd kill` them first, or --force"));
            }
        }
        Ok(())
    }
}
