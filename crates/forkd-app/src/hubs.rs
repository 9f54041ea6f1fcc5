//! Several hubs, looked into one after another.

use crate::app::App;
use crate::hub_place::HubPlace;
use forkd_core::hub::{Hub, IndexHub, Remote};
use forkd_core::{Error, Kind, Result};
use forkd_format::Reference;
use forkd_remote::{AnyRemote, ObjectRegistry};
use std::fmt;
use std::sync::Arc;

/// A hub, and others that have the same.
#[derive(Debug, Clone)]
pub struct HubEntry {
    pub place: HubPlace,
    /// Asked where the hub cannot be reached, in this order.
    pub mirrors: Vec<HubPlace>,
}

/// Hubs, in the order in which a name is looked up in them.
#[derive(Debug, Clone)]
pub struct Hubs(pub Vec<HubEntry>);

impl Hubs {
    /// One hub.
    #[must_use]
    pub fn one(place: HubPlace) -> Self {
        Self(vec![HubEntry { place, mirrors: Vec::new() }])
    }
}

impl Hubs {
    /// All of them, each before its mirrors.
    pub(crate) fn places(&self) -> impl Iterator<Item = &HubPlace> {
        self.0.iter().flat_map(|entry| std::iter::once(&entry.place).chain(&entry.mirrors))
    }

    /// Whether one of them is called so.
    #[must_use]
    pub fn have(&self, name: &str) -> bool {
        self.places().any(|place| place.index_name() == name)
    }
}

impl fmt::Display for Hubs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(|entry| entry.place.index_name()).collect();
        f.write_str(&names.join(", "))
    }
}

impl App<'_> {
    /// Looks into a hub's registry.
    pub(crate) fn with_index<T>(
        &self,
        hub: &HubPlace,
        limit_rate: Option<u64>,
        work: impl FnOnce(&dyn Remote, &IndexHub<'_>) -> Result<T>,
    ) -> Result<T> {
        let cache = self.settings.cache();
        match hub.index() {
            Some(index) => {
                let index = index?;
                let remote = AnyRemote::new(&self.settings.web(&index, limit_rate))?;
                work(&remote, &IndexHub::new(&remote, &index, cache.as_ref()))
            }
            None => {
                let objects = hub.objects(self.opened(limit_rate, false))?;
                let remote = AnyRemote::new(&self.settings.http)?;
                work(&remote, &IndexHub::of(&remote, Arc::new(ObjectRegistry::new(objects))))
            }
        }
    }

    /// The hub that has a package: the first one that lists it, or a mirror of that.
    pub(crate) fn find_hub(&self, reference: &Reference, hubs: &Hubs) -> Result<HubPlace> {
        let Hubs(entries) = hubs;
        if let [HubEntry { place, mirrors }] = entries.as_slice()
            && mirrors.is_empty()
        {
            return Ok(place.clone());
        }
        let mut missing = Vec::new();
        for HubEntry { place, mirrors } in entries {
            let mut unreachable = None;
            for hub in std::iter::once(place).chain(mirrors) {
                match self.lists(hub, reference) {
                    Ok(()) => return Ok(hub.clone()),
                    Err(error) if error.kind() == Kind::NotFound => {
                        missing.push(error);
                        unreachable = None;
                        break;
                    }
                    Err(error) if error.kind() == Kind::Transient => {
                        unreachable = unreachable.or(Some(error))
                    }
                    Err(error) => return Err(error),
                }
            }
            // A name may mean something else on a later hub: nobody is led there by a hub that is away.
            if let Some(error) = unreachable {
                return Err(error);
            }
        }
        match missing.len() {
            1 => Err(missing.remove(0)),
            _ => {
                let message = format!("no '{reference}' in {hubs}");
                Err(Error::new(Kind::NotFound, message).hint("`forkd search` lists what there is"))
            }
        }
    }

    fn lists(&self, hub: &HubPlace, reference: &Reference) -> Result<()> {
        match hub {
            HubPlace::Registry { .. } | HubPlace::Layout(_) => {
                let open = hub.open(&reference.package, self.opened(None, false))?;
                let place = crate::release::ReleasePlace::of_package(hub.clone(), reference);
                open.repository.manifest(&place.name(), self.env.cancel).map(drop)
            }
            _ => self.with_index(hub, None, |_, index| index.offers(reference, self.env.cancel)).map(drop),
        }
    }
}
