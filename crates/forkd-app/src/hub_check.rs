//! A hub is gone through: is everything there that it names, and is it what it is said to be?

use crate::app::App;
use crate::hub_place::HubPlace;
use crate::hubs::Hubs;
use crate::pull::{PullRequest, PullSource, TagChoice};
use forkd_core::hub::{Claim, Hub, IndexHub, Location, Offer, Remote, Request};
use forkd_core::store::ScratchStore;
use forkd_core::{Error, Kind, Result};
use forkd_format::registry::{PackageDetails, VersionDetails, check, details};
use forkd_format::{PackId, Reference};
use serde::Serialize;
use std::io::Write;
use tempfile::NamedTempFile;

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Somebody who pulls is refused, or gets something else than was said.
    Error,
    /// Nobody who pulls is hurt.
    Warning,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, Serialize)]
pub struct HubFault {
    pub severity: Severity,
    /// `owner/name@version`, or the name of a file.
    pub what: String,
    pub message: String,
}

/// What was looked at and found.
#[derive(Debug, Clone, Serialize)]
pub struct HubCheckReport {
    pub hub: String,
    pub packages: usize,
    pub versions: usize,
    /// Packs and releases that were looked for.
    pub artifacts: usize,
    /// Whether all their bytes were read.
    pub deep: bool,
    pub faults: Vec<HubFault>,
}

impl HubCheckReport {
    /// Whether somebody who pulls would be hurt.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.faults.iter().any(|fault| fault.severity == Severity::Error)
    }

    fn add(&mut self, severity: Severity, what: impl Into<String>, message: impl Into<String>) {
        self.faults.push(HubFault { severity, what: what.into(), message: message.into() });
    }
}

impl App<'_> {
    /// Checks a hub that has a registry. `deep` reads all bytes of all artifacts.
    ///
    /// # Errors
    /// Where the registry cannot be read at all; all else is a fault in the report.
    pub fn check_hub(&self, hub: &HubPlace, deep: bool) -> Result<HubCheckReport> {
        let mut report = HubCheckReport {
            hub: hub.index_name(),
            packages: 0,
            versions: 0,
            artifacts: 0,
            deep,
            faults: Vec::new(),
        };
        self.with_index(hub, None, |remote, index| {
            let text = index.text(self.env.cancel)?;
            if let Err(error) = check(text.as_bytes()) {
                report.add(Severity::Error, "registry.json", error.to_string());
            }
            let packages = details(text.as_bytes(), &|_, _| true).map_err(Error::malformed(index.name()))?;
            report.packages = packages.len();
            for package in &packages {
                self.check_package(package, (remote, index), hub, &mut report)?;
            }
            Ok(())
        })?;
        if let HubPlace::Folder(_) | HubPlace::Bucket(_) = hub {
            let objects = hub.objects(self.opened(None, false))?;
            match forkd_remote::unreferenced(&*objects, self.env.cancel) {
                Ok(keys) => keys.into_iter().for_each(|key| {
                    report.add(Severity::Warning, key, "nothing names it; `forkd hub gc` removes it");
                }),
                Err(error) if is_ours(&error) => return Err(error),
                Err(error) => report.add(Severity::Error, "releases", error.to_string()),
            }
        }
        report.faults.sort_by_key(|fault| fault.severity);
        Ok(report)
    }

    fn check_package(
        &self,
        package: &PackageDetails,
        (remote, index): (&dyn Remote, &IndexHub<'_>),
        hub: &HubPlace,
        report: &mut HubCheckReport,
    ) -> Result<()> {
        let mut done: Vec<&VersionDetails> = Vec::new();
        for version in &package.versions {
            self.env.cancel.check()?;
            report.versions += 1;
            let name = format!("{}@{}", package.name, version.version);
            if let Some(fault) = &version.fault {
                report.add(Severity::Error, name, fault.clone());
                continue;
            }
            let Ok(reference) = name.parse::<Reference>() else {
                report.add(
                    Severity::Warning,
                    name,
                    "no reference can spell this name, so nobody can pull it",
                );
                continue;
            };
            // `latest` is another version's twin as a rule.
            if done.iter().any(|other| {
                other.pack == version.pack
                    && other.artifacts == version.artifacts
                    && other.variants == version.variants
                    && other.release == version.release
            }) {
                continue;
            }
            done.push(version);
            let offers = match index.offers(&reference, self.env.cancel) {
                Ok(offers) => offers,
                Err(error) if is_ours(&error) => return Err(error),
                Err(error) => {
                    report.add(Severity::Error, name, error.to_string());
                    continue;
                }
            };
            for offer in &offers {
                report.artifacts += 1;
                let checked = if report.deep {
                    self.read_offer(offer, remote, (package, &reference), hub)
                } else {
                    self.find_offer(offer, remote)
                };
                match checked {
                    Err(error) if is_ours(&error) => return Err(error),
                    Err(error) => report.add(Severity::Error, name.clone(), error.to_string()),
                    Ok(()) => {}
                }
            }
        }
        Ok(())
    }

    /// Whether an artifact is where it is said to be, and as long.
    fn find_offer(&self, offer: &Offer, remote: &dyn Remote) -> Result<()> {
        if let Some(release) = &offer.release {
            let blobs = release.manifest.blobs.iter().map(|blob| (blob.size, blob.digest));
            let places = blobs.filter_map(|(size, digest)| {
                let at = release.blobs.binary_search_by_key(&digest, |(digest, _)| *digest).ok()?;
                Some((size, &release.blobs[at].1))
            });
            let documents = [
                (release.manifest.config.size, &release.config),
                (release.manifest.index.size, &release.index),
            ];
            return places.chain(documents).try_for_each(|(size, at)| self.find(at, Some(size), remote));
        }
        self.find(&offer.location, offer.size, remote)?;
        for kernel in offer.bases.iter().filter(|base| base.kind == forkd_format::manifest::BaseKind::Kernel)
        {
            if !kernel.is_unused() {
                self.find(&offer.location.join(&kernel.file_name())?, None, remote)?;
            }
        }
        Ok(())
    }

    fn find(&self, location: &Location, size: Option<u64>, remote: &dyn Remote) -> Result<()> {
        let found = remote.whole(location, &Request::range(0, 1), self.env.cancel)?.size;
        match (size, found) {
            (Some(said), Some(found)) if said != found => {
                let message = format!("{location}: it has {found} bytes; {said} are declared");
                Err(Error::new(Kind::Integrity, message))
            }
            _ => Ok(()),
        }
    }

    /// Whether an artifact is what it is said to be, to the last byte.
    fn read_offer(
        &self,
        offer: &Offer,
        remote: &dyn Remote,
        (package, reference): (&PackageDetails, &Reference),
        hub: &HubPlace,
    ) -> Result<()> {
        let scratch = self.settings.store.scratch(self.env)?;
        if offer.release.is_some() {
            let digest = offer.claim.digest();
            return self.pull_into(&scratch, &Reference { digest, ..reference.clone() }, hub);
        }
        let file = self.download(offer, remote)?;
        if let Claim::Id(PackId::File(expected)) = offer.claim {
            let found = forkd_core::file_digest(file.path())?;
            if found != expected {
                let message = format!("{}: sha256 is {found}; the registry says {expected}", offer.location);
                return Err(Error::new(Kind::Integrity, message));
            }
        }
        let cache = self.settings.cache();
        let verify = || forkd_core::verify_file(scratch.store(), file.path(), cache.as_ref(), self.env);
        let mut verified = verify();
        // What it refers to is another version of the package, as a rule.
        for other in package.versions.iter().filter(|other| other.version != reference.version) {
            if !verified.as_ref().is_err_and(|error| error.kind() == Kind::NotFound) {
                break;
            }
            let digest = other.pack.as_ref().map(|pack| pack.sha256);
            let base = Reference { package: package.name.clone(), version: other.version.clone(), digest };
            if self.pull_into(&scratch, &base, hub).is_ok() {
                verified = verify();
            }
        }
        let verified = verified?;
        if let Some(damage) = verified.damage.first() {
            return Err(Error::new(Kind::Integrity, format!("{}: {}", offer.location, damage.message)));
        }
        if let Claim::Id(id @ PackId::Manifest(_)) = offer.claim {
            let inspection = forkd_core::inspect_file(file.path(), self.env)?;
            let found = inspection.paged.map(|paged| PackId::Manifest(paged.artifact.manifest_sha256));
            if found != Some(id) {
                let found = found.map_or_else(|| "a pack of another format".to_owned(), |id| id.to_string());
                let message = format!("{}: {found}; the registry says {id}", offer.location);
                return Err(Error::new(Kind::Integrity, message));
            }
        }
        Ok(())
    }

    fn pull_into(&self, scratch: &ScratchStore, reference: &Reference, hub: &HubPlace) -> Result<()> {
        let source = PullSource::Name(reference.clone(), Hubs::one(hub.clone()));
        let place = TagChoice { force: true, ..TagChoice::default() };
        let request = PullRequest { source, place, connections: None, limit_rate: None };
        self.with_pull(&request, None, |remote, options| {
            forkd_core::pull(scratch.store(), remote, options, self.env).map(drop)
        })
    }

    fn download(&self, offer: &Offer, remote: &dyn Remote) -> Result<NamedTempFile> {
        let dir = &self.settings.temp_dir;
        let mut file = tempfile::Builder::new()
            .prefix("forkd-check-")
            .tempfile_in(dir)
            .map_err(Error::io("create a file in", dir))?;
        let mut body = remote.whole(&offer.location, &Request::default(), self.env.cancel)?.body;
        let limit = offer.size.unwrap_or(u64::MAX);
        let (mut buffer, mut len) = (vec![0; 1 << 20], 0);
        loop {
            self.env.cancel.check()?;
            let read = std::io::Read::read(&mut body, &mut buffer).map_err(|e| {
                e.downcast::<Error>()
                    .unwrap_or_else(|e| Error::new(Kind::Transient, format!("{}: {e}", offer.location)))
            })?;
            len += read as u64;
            if len > limit || (read == 0 && offer.size.is_some_and(|size| size != len)) {
                let message = format!("{}: {len} bytes came; {limit} are declared", offer.location);
                return Err(Error::new(Kind::Integrity, message));
            }
            if read == 0 {
                return Ok(file);
            }
            file.write_all(&buffer[..read]).map_err(Error::io("write", dir))?;
        }
    }
}

/// Whether it says nothing of the hub, but that it could not be looked at.
fn is_ours(error: &Error) -> bool {
    matches!(error.kind(), Kind::Interrupted | Kind::NoSpace | Kind::Locked | Kind::Transient)
}
