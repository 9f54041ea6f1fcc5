//! Packs that come from elsewhere: pulled, looked up, unpacked.

use crate::app::App;
use crate::hub_place::HubPlace;
use crate::hubs::Hubs;
use crate::release::ReleasePlace;
use crate::settings::Settings;
use forkd_core::arrival::Arrivals;
use forkd_core::hub::{Hub, Location, Remote};
use forkd_core::machine::Engine;
use forkd_core::{
    Examine, Kind, PullOptions, PullReport, PullSummary, PullTarget, Result, UnpackOptions, UnpackReport,
};
use forkd_engine::Qemu;
use forkd_format::{Digest, LockedPackage, Reference, Snapshot, Tag};
use forkd_remote::AnyRemote;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is pulled.
#[derive(Debug, Clone)]
pub enum PullSource {
    /// A pack.
    Url(Location),
    /// A name, and the hubs that it is looked up in.
    Name(Reference, Hubs),
    /// A release in a repository.
    Release(ReleasePlace),
    /// What a name was locked to.
    Locked {
        package: Box<LockedPackage>,
        /// Whether its hub is one that the user has named: only such a one is told who we are.
        is_known: bool,
    },
}

/// Where a snapshot goes in the store.
#[derive(Debug, Clone, Default)]
pub struct TagChoice {
    /// Another tag than the pack's; for a chain in an update only.
    pub tag: Option<Tag>,
    /// Whether a snapshot that has other bytes is replaced.
    pub force: bool,
    /// Whether an earlier version gives its place to this one.
    pub update: bool,
}

/// A pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    pub source: PullSource,
    pub place: TagChoice,
    /// See [`PullOptions::connections`].
    pub connections: Option<usize>,
    /// Bytes a second over all connections; `None` for no limit.
    pub limit_rate: Option<u64>,
}

/// What a registry lists under a name.
#[derive(Debug, Clone, Serialize)]
pub struct EntryReport {
    /// As it was asked for.
    pub reference: String,
    /// Where the pack that every host reads lies.
    pub url: Location,
    pub sha256: Digest,
    pub size_bytes: u64,
    /// For people.
    pub memory_mib: Option<u64>,
    pub base_image: Option<String>,
}

impl App<'_> {
    /// Pulls into the store.
    ///
    /// # Errors
    /// As [`forkd_core::pull`].
    pub fn pull(&self, request: &PullRequest) -> Result<PullReport> {
        self.await_arrival(&request.source.name())?;
        self.with_pull(request, None, |remote, options| {
            forkd_core::pull(&self.settings.store, remote, options, self.env)
        })
    }

    /// Waits while another process fetches what was asked for, for as long as more of it comes.
    fn await_arrival(&self, name: &str) -> Result<()> {
        let (store, progress) = (&self.settings.store, self.env.progress);
        let Some(mut known) = self.arriving_as(name) else { return Ok(()) };
        progress.start("arriving", Some(known.total));
        progress.advance(known.here);
        let mut since = Instant::now();
        while let Some(snapshot) = self.arriving_as(name) {
            if snapshot.here > known.here {
                progress.advance(snapshot.here - known.here);
                (known, since) = (snapshot, Instant::now());
            }
            if since.elapsed() > store.lock_timeout() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            self.env.cancel.check()?;
        }
        progress.finish();
        Ok(())
    }

    /// Says what a pull would do, and changes nothing.
    ///
    /// # Errors
    /// As [`forkd_core::plan_pull`].
    pub fn pull_summary(&self, request: &PullRequest) -> Result<PullSummary> {
        self.with_pull(request, None, |remote, options| {
            forkd_core::plan_pull(&self.settings.store, remote, options, self.env)?.summary()
        })
    }

    pub(crate) fn with_pull<T>(
        &self,
        request: &PullRequest,
        arrivals: Option<&dyn Arrivals>,
        work: impl FnOnce(&dyn Remote, &PullOptions<'_>) -> Result<T>,
    ) -> Result<T> {
        let limit_rate = request.limit_rate;
        let any = |at: &Location| AnyRemote::new(&self.settings.web(at, limit_rate));
        let unpack = self.unpack_options(&request.place);
        let connections = request.connections;
        match &request.source {
            PullSource::Release(place) => {
                let open = place.open(self.opened(limit_rate, false))?;
                let target = PullTarget::Release { repository: &*open.repository, name: place.name() };
                work(&*open.remote, &PullOptions { target, unpack, connections, arrivals })
            }
            PullSource::Locked { package, is_known: false } if self.settings.hub_token.is_some() => {
                // The file may be a stranger's.
                let settings = Settings { hub_token: None, ..self.settings.clone() };
                let source = PullSource::Locked { package: package.clone(), is_known: true };
                let request = PullRequest { source, ..request.clone() };
                App { settings: &settings, ..*self }.with_pull(&request, arrivals, work)
            }
            PullSource::Locked { package, .. } => {
                let (reference, hub) = App::locked_place(package)?;
                let Some(version) = package.version() else {
                    let place = self.locked_release(package, hub, &reference)?;
                    let open = place.open(self.opened(limit_rate, false))?;
                    let target = PullTarget::Release { repository: &*open.repository, name: place.name() };
                    return work(&*open.remote, &PullOptions { target, unpack, connections, arrivals });
                };
                self.with_index(&hub, limit_rate, |remote, index| {
                    let offers = index.locked(&reference, version)?;
                    let target = PullTarget::Offers { reference, offers };
                    work(remote, &PullOptions { target, unpack, connections, arrivals })
                })
            }
            PullSource::Url(location) => {
                let remote = any(location)?;
                let target = PullTarget::Url(location.clone());
                work(&remote, &PullOptions { target, unpack, connections, arrivals })
            }
            PullSource::Name(reference, hubs) => {
                let hub = self.find_hub(reference, hubs)?;
                if !self.has_index(&hub, reference)? {
                    let place = ReleasePlace::of_package(hub, reference);
                    let open = place.open(self.opened(limit_rate, false))?;
                    let target = PullTarget::Release { repository: &*open.repository, name: place.name() };
                    return work(&*open.remote, &PullOptions { target, unpack, connections, arrivals });
                }
                self.with_index(&hub, limit_rate, |remote, index| {
                    let target = PullTarget::Name { reference: reference.clone(), hub: index };
                    work(remote, &PullOptions { target, unpack, connections, arrivals })
                })
            }
        }
    }

    /// Unpacks a pack that lies on this host.
    ///
    /// # Errors
    /// As [`forkd_core::unpack_file`].
    pub fn unpack(&self, file: &Path, place: &TagChoice) -> Result<UnpackReport> {
        forkd_core::unpack_file(&self.settings.store, file, &self.unpack_options(place), self.env)
    }

    /// What a registry says of a name, where a pack of that size is in the place that it names.
    ///
    /// # Errors
    /// [`forkd_core::Kind::NotFound`] with what is there instead; [`forkd_core::Kind::Integrity`] where the pack has another size; what the
    /// transport says.
    pub fn registry_entry(&self, reference: &Reference, hubs: &Hubs) -> Result<EntryReport> {
        let hub = self.find_hub(reference, hubs)?;
        self.with_index(&hub, None, |_, hub| {
            let (url, version) = hub.version(reference, self.env.cancel)?;
            hub.check_version(&url, &version, self.env.cancel)?;
            Ok(EntryReport {
                reference: reference.to_string(),
                url,
                sha256: version.sha256,
                size_bytes: version.size_bytes,
                memory_mib: version.memory_mib,
                base_image: version.base_image,
            })
        })
    }

    /// Whether a name is looked up in a registry. A bucket's lists what was published last; other releases are found by their tags.
    pub(crate) fn has_index(&self, hub: &HubPlace, reference: &Reference) -> Result<bool> {
        match hub {
            HubPlace::Folder(_) | HubPlace::Web(_) => Ok(true),
            HubPlace::Registry { .. } | HubPlace::Layout(_) => Ok(false),
            HubPlace::Bucket(_) => {
                match self.with_index(hub, None, |_, index| index.offers(reference, self.env.cancel)) {
                    Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Integrity) => Ok(false),
                    found => found.map(|_| true),
                }
            }
        }
    }

    /// With an opinion on whether this host can fork what comes.
    fn unpack_options(&self, place: &TagChoice) -> UnpackOptions {
        let search_path = self.settings.search_path.clone();
        let fits = move |snapshot: &Snapshot| {
            let qemu = Qemu::find(search_path.as_deref())?;
            // A hub tells of a snapshot what it runs under, and nothing else.
            if snapshot.get("frozen").is_none() && snapshot.get("guest").is_none() {
                return qemu.check_engine(snapshot);
            }
            qemu.check(snapshot)
        };
        UnpackOptions {
            tag: place.tag.clone(),
            force: place.force,
            update: place.update,
            examine: Some(Examine(Arc::new(fits))),
            cache: self.settings.cache(),
        }
    }
}
