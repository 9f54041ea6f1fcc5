//! From a hub to the store: the cheapest of the packs that a version has, and of that only what is not here.

pub(crate) mod choose;
pub(crate) mod context;
pub(crate) mod journal;
pub(crate) mod paged;
pub(crate) mod probe;
pub(crate) mod ranges;
pub(crate) mod stream;

use crate::cache::answers::{Known, get_text};
use crate::digest::checked_reader::Expected;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::hub::offer::{Candidate, check_pin};
use crate::hub::registry::{Target, look_up};
use crate::hub::remote::{Location, Remote, Validator};
use crate::pull::choose::Chosen;
use crate::pull::context::{Moved, PullOptions, Pulling, settle};
use crate::pull::probe::{Opened, open};
use crate::store::by_source::already_here;
use crate::store::lock::LockKind;
use crate::store::partial::Partial;
use crate::store::root::Store;
use crate::unpack::plan::UnpackReport;
use forkd_format::registry::MAX_REGISTRY;
use forkd_format::{Digest, Tag};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

/// How often a pull begins again where the server's copy changes under it.
const RESTARTS: usize = 3;

/// What was pulled.
#[derive(Debug, Clone)]
pub struct PullReport {
    /// Bytes of packs that came.
    pub downloaded: u64,
    /// Bytes of the pack that an earlier run had brought.
    pub resumed: u64,
    /// Content that files of the store had already, by the tag that had it, in bytes.
    pub reused: BTreeMap<Tag, u64>,
    /// The digest that the pack was checked against: of the whole pack, or of version 3 of its manifest. `None` where none was known.
    pub sha256: Option<Digest>,
    /// The format of the pack that was taken; `None` where nothing was.
    pub format: Option<u32>,
    /// Which of several packs was taken, and why.
    pub choice: Option<String>,
    /// What is in the store now.
    pub unpack: UnpackReport,
}

/// What a pull would do.
#[derive(Debug, Clone)]
pub struct PullPlan {
    /// The tag under which all of it is here.
    pub here: Option<Tag>,
    /// The pack that would be taken.
    pub location: Option<Location>,
    /// Its format.
    pub format: Option<u32>,
    /// Which of several packs would be taken, and why.
    pub choice: Option<String>,
    /// Bytes that would be fetched; `None` where the server does not say how long the pack is.
    pub fetch_bytes: Option<u64>,
    /// Content that files of the store seem to have, by the tag that has it, in bytes.
    pub reused: BTreeMap<Tag, u64>,
}

/// Pulls: nothing is visible before every digest holds, and what has come of a pull that fails is gone on with by the next.
///
/// # Errors
/// As [`resolve`], [`Remote::request`] and [`crate::unpack::unpack_file`].
pub fn pull(store: &Store, remote: &dyn Remote, options: &PullOptions, env: Env<'_>) -> Result<PullReport> {
    let pulling = Pulling { store, remote, options, env, moved: Moved::default() };
    let mut restarts = 0;
    loop {
        match pulling.pull() {
            Err(Error::Changed { location }) if restarts < RESTARTS => {
                restarts += 1;
                env.progress.finish();
                env.progress.note(&format!("{location}: the server's copy changed; starting over"));
            }
            outcome => return outcome,
        }
    }
}

/// Says what [`pull`] would do, and changes nothing.
///
/// # Errors
/// As [`pull`].
pub fn plan_pull(
    store: &Store,
    remote: &dyn Remote,
    options: &PullOptions,
    env: Env<'_>,
) -> Result<PullPlan> {
    Pulling { store, remote, options, env, moved: Moved::default() }.plan()
}

impl<'a> Pulling<'a> {
    /// What the target may be fetched as, and the digests by which it may be here already.
    fn candidates(&self) -> Result<(String, Vec<Candidate>)> {
        match &self.options.target {
            Target::Url(location) => {
                let candidate = Candidate {
                    location: location.clone(),
                    sha256: location.pinned_digest()?,
                    size: None,
                    format: 0,
                    head_bytes: None,
                    choice: None,
                    bases: Vec::new(),
                };
                Ok((location.to_string(), vec![candidate]))
            }
            Target::Reference { reference, hub } => {
                let text = get_text(self, hub, MAX_REGISTRY)?;
                let version = look_up(text.as_bytes(), reference, hub)?;
                Ok((reference.to_string(), choose::candidates(&version, reference, hub)?))
            }
        }
    }

    fn pull(&self) -> Result<PullReport> {
        let (name, candidates) = self.candidates()?;
        // Of several who want the same pack, one downloads; the others find it done.
        let main = &candidates[0];
        let key = main.sha256.unwrap_or_else(|| Digest::of(main.location.url().as_str().as_bytes()));
        let what = format!("the download of {name}");
        let _lock = self.store.lock_name(&format!("pull-{key}"), &what, LockKind::Exclusive, self.env)?;
        let digests: Vec<Digest> = candidates.iter().filter_map(|candidate| candidate.sha256).collect();
        if let Some(here) = already_here(self.store, &digests, &self.options.unpack)? {
            let (digest, here) = here;
            return Ok(self.nothing_moved(Some(digest), here));
        }
        // Each may turn out not to serve: then the next.
        let mut ordered = choose::order(self, candidates)?;
        loop {
            let Chosen { candidate, opened } = ordered.remove(0);
            match self.take(&name, &candidate, opened) {
                Err(error) if !ordered.is_empty() && error.kind() == Kind::NotFound => {
                    self.env.progress.finish();
                    self.env.progress.note(&format!("{error}; taking another pack of {name}"));
                }
                outcome => return outcome,
            }
        }
    }

    fn nothing_moved(&self, sha256: Option<Digest>, unpack: UnpackReport) -> PullReport {
        let downloaded = self.moved.0.load(Ordering::Relaxed);
        PullReport {
            downloaded,
            resumed: 0,
            reused: BTreeMap::new(),
            sha256,
            format: None,
            choice: None,
            unpack,
        }
    }

    /// Fetches one pack and unpacks it.
    fn take(
        &self,
        name: &str,
        chosen: &Candidate,
        opened: Option<Box<probe::Framed<'a>>>,
    ) -> Result<PullReport> {
        let location = &chosen.location;
        if let Some(opened) = opened {
            return self.take_framed(name, chosen, *opened);
        }
        let expected = Expected {
            sha256: chosen.sha256.filter(|_| chosen.format < 3),
            size: chosen.size.filter(|_| chosen.format > 0),
        };
        let url_key = Digest::of(location.url().as_str().as_bytes());
        let partial = match chosen.format {
            3 => None,
            // What lies on this host need not be kept twice.
            _ if location.url().scheme() == "file" => None,
            _ => {
                let key = chosen.sha256.unwrap_or(url_key).to_string();
                Some(self.store.partial(&format!("stream-{}", &key[..32]), self.env)?)
            }
        };
        let kept = partial.as_ref().map(stream::Kept::open).transpose()?;
        let mut resumed = 0;
        let opened = match kept {
            Some(kept) if kept.len > 0 || chosen.format == 1 => {
                resumed = kept.len;
                match stream::resume(self, location, expected.clone(), kept) {
                    // Its beginning was kept before its version was known; what is gone on with there is its frames.
                    Ok((incoming, _)) if incoming.manifest().version == 3 => {
                        drop(incoming);
                        open(self, location, expected, chosen.head_bytes, None, None)
                    }
                    resumed => resumed.map(|(incoming, copy)| Opened::Stream(Box::new(incoming), copy, None)),
                }
                .map(|opened| (opened, None))
            }
            kept => {
                let known =
                    Known::load(self, location).filter(|_| chosen.format == 0 && !self.options.unpack.force);
                let here = match known.as_ref().and_then(|known| known.body.parse().ok()) {
                    Some(digest) if chosen.sha256.is_none() => {
                        already_here(self.store, &[digest], &self.options.unpack)?
                    }
                    _ => None,
                };
                let unless = here.as_ref().and(known.map(|known| known.validator));
                open(self, location, expected, chosen.head_bytes, unless, kept).map(|opened| (opened, here))
            }
        };
        let (opened, here) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.settle_option(partial, Err(error)),
        };
        match opened {
            Opened::NotModified => {
                self.settle_option(partial, Ok(()))?;
                let (digest, here) = here.ok_or_else(|| Error::Changed { location: location.to_string() })?;
                Ok(self.nothing_moved(Some(digest), here))
            }
            Opened::Stream(incoming, validator, _) => {
                let report = self.take_stream(name, chosen, partial, *incoming, &validator)?;
                Ok(PullReport { resumed, ..report })
            }
            Opened::Framed(opened) => {
                self.settle_option(partial, Ok(()))?;
                self.take_framed(name, chosen, *opened)
            }
        }
    }

    fn take_framed(&self, name: &str, chosen: &Candidate, opened: probe::Framed<'a>) -> Result<PullReport> {
        let location = &chosen.location;
        let digest = opened.head.digest;
        check_pin(chosen, digest)?;
        let validator = opened.validator.clone();
        let pulled = paged::pull(self, location, name, opened)?;
        if chosen.format == 0 {
            Known::save(self, location, &validator, &digest.to_string());
        }
        Ok(PullReport {
            downloaded: self.moved.0.load(Ordering::Relaxed),
            resumed: pulled.resumed,
            reused: pulled.reused,
            sha256: chosen.sha256,
            format: Some(3),
            choice: chosen.choice.clone(),
            unpack: pulled.unpack,
        })
    }

    fn take_stream(
        &self,
        name: &str,
        chosen: &Candidate,
        partial: Option<Partial>,
        incoming: crate::pack::stream::read::Incoming<crate::digest::checked_reader::CheckedBody<'a>>,
        validator: &Validator,
    ) -> Result<PullReport> {
        let location = &chosen.location;
        let version = incoming.manifest().version;
        self.env.progress.start("pulling", chosen.size);
        let outcome = stream::receive(self, location, name, incoming, chosen.sha256);
        self.env.progress.finish();
        let (unpack, found) = self.settle_option(partial, outcome)?;
        if let (Some(found), 0) = (found, chosen.format) {
            Known::save(self, location, validator, &found.to_string());
        }
        Ok(PullReport {
            downloaded: self.moved.0.load(Ordering::Relaxed),
            resumed: 0,
            reused: BTreeMap::new(),
            sha256: chosen.sha256,
            format: Some(version),
            choice: chosen.choice.clone(),
            unpack,
        })
    }

    fn settle_option<T>(&self, partial: Option<Partial>, outcome: Result<T>) -> Result<T> {
        match partial {
            Some(partial) => settle(partial, outcome),
            None => outcome,
        }
    }

    fn plan(&self) -> Result<PullPlan> {
        let (_, candidates) = self.candidates()?;
        let digests: Vec<Digest> = candidates.iter().filter_map(|candidate| candidate.sha256).collect();
        let mut plan = PullPlan {
            here: already_here(self.store, &digests, &self.options.unpack)?.map(|(_, here)| here.head),
            location: None,
            format: None,
            choice: None,
            fetch_bytes: Some(0),
            reused: BTreeMap::new(),
        };
        if plan.here.is_some() {
            return Ok(plan);
        }
        let Chosen { candidate: chosen, .. } = choose::order(self, candidates)?.remove(0);
        plan.location = Some(chosen.location.clone());
        plan.choice = chosen.choice.clone();
        if matches!(chosen.format, 1 | 2) {
            (plan.format, plan.fetch_bytes) = (None, chosen.size);
            return Ok(plan);
        }
        let expected = Expected { sha256: None, size: chosen.size };
        match open(self, &chosen.location, expected, chosen.head_bytes, None, None)? {
            Opened::NotModified => {}
            Opened::Stream(incoming, _, size) => {
                plan.format = Some(incoming.manifest().version);
                plan.fetch_bytes = size;
            }
            Opened::Framed(opened) => {
                check_pin(&chosen, opened.head.digest)?;
                let files = crate::store::by_content::files(self.store)?;
                let blocks = crate::store::by_content::LocalBlocks::of(&files);
                let needs = crate::pull::ranges::needs(&opened.head, &files, &blocks);
                plan.format = Some(3);
                plan.fetch_bytes = Some(needs.fetch_bytes);
                plan.reused = needs.reused;
            }
        }
        Ok(plan)
    }
}
