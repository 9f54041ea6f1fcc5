//! Layers into the cache: several at a time, each going on where an earlier run was cut off.

use crate::layer_source::Layer;
use crate::manifest::Descriptor;
use forkd_core::cache::{Cache, CacheEntry, CacheKind, CacheSlot, CacheWriter};
use forkd_core::{Cancel, Env, Error, Kind, Progress, Result};
use forkd_format::{Digest, Hasher};
use forkd_http::{HttpClient, Try};
use forkd_registry::RegistryClient;
use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What was fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FetchReport {
    /// Layers that came over the network.
    pub fetched_layers: u64,
    /// Their bytes that came in this run.
    pub fetched_bytes: u64,
    /// Layers that were in the cache.
    pub cached_layers: u64,
}

/// What layers may take as they are stored, in bytes: more than any root disk holds.
const MAX_LAYERS_SIZE: u64 = 64 << 30;
/// A try that brings so much more than all before it makes those count no longer.
const RENEWING: u64 = 1 << 20;
/// At least so many layers are fetched at a time: one stream rarely fills a line.
const STREAMS: usize = 3;

/// Fetches what the cache lacks.
pub(crate) fn layers(
    registry: &RegistryClient,
    cache: &Cache,
    wanted: &[Descriptor],
    env: Env<'_>,
) -> Result<(Vec<Layer>, FetchReport)> {
    let mut report = FetchReport::default();
    let mut here: HashMap<Digest, Arc<CacheEntry>> = HashMap::new();
    let mut missing: Vec<&Descriptor> = Vec::new();
    for layer in wanted {
        if here.contains_key(&layer.digest) || missing.iter().any(|other| other.digest == layer.digest) {
            continue;
        }
        match cache.find(CacheKind::Blob, &layer.digest)? {
            Some(entry) if entry.len() == layer.size => {
                report.cached_layers += 1;
                here.insert(layer.digest, Arc::new(entry));
            }
            other => {
                // A whole file of another length is damaged.
                other.map_or(Ok(()), |entry| entry.discard())?;
                missing.push(layer);
            }
        }
    }
    if !missing.is_empty() {
        let total = missing.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size));
        if total > MAX_LAYERS_SIZE {
            let message = format!(
                "the image's layers take {total} bytes, as it says; at most {MAX_LAYERS_SIZE} are fetched"
            );
            return Err(Error::new(Kind::Integrity, message));
        }
        env.progress.start("fetching layers", Some(total));
        let fetched = fetch_all(registry, cache, &missing, env);
        env.progress.finish();
        for (layer, (entry, bytes)) in missing.iter().zip(fetched?) {
            match bytes {
                Some(bytes) => {
                    report.fetched_layers += 1;
                    report.fetched_bytes += bytes;
                }
                None => report.cached_layers += 1,
            }
            here.insert(layer.digest, Arc::new(entry));
        }
    }
    let layer = |layer: &Descriptor| Some(Layer::cached(layer.digest, Arc::clone(here.get(&layer.digest)?)));
    Ok((wanted.iter().filter_map(layer).collect(), report))
}

type FetchedLayer = (CacheEntry, Option<u64>);

fn fetch_all(
    registry: &RegistryClient,
    cache: &Cache,
    missing: &[&Descriptor],
    env: Env<'_>,
) -> Result<Vec<FetchedLayer>> {
    let http = registry.http()?;
    // The first failure stops the others; what they have stays for the next run.
    let cancel = env.cancel.child();
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
    let done: Mutex<HashMap<usize, FetchedLayer>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..env.jobs.max(STREAMS).min(missing.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(layer) = missing.get(at) else { return };
                    let job =
                        FetchJob { registry, http: &http, layer, progress: env.progress, cancel: &cancel };
                    match job.run(cache, env.jobs) {
                        Ok(fetched) => {
                            done.lock().unwrap_or_else(PoisonError::into_inner).insert(at, fetched);
                        }
                        Err(error) => {
                            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                            cancel.cancel();
                            return;
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let all: Vec<FetchedLayer> = (0..missing.len()).filter_map(|at| done.remove(&at)).collect();
    if all.len() == missing.len() { Ok(all) } else { Err(Error::Interrupted) }
}

struct FetchJob<'a> {
    registry: &'a RegistryClient,
    http: &'a HttpClient,
    layer: &'a Descriptor,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

/// What of a layer is there.
struct LayerState {
    writer: CacheWriter,
    hasher: Hasher,
    at: u64,
    /// The most that ever was there, as far as progress was told.
    told: u64,
    fetched: u64,
}

/// How a try ended that did not fail.
enum TryEnd {
    Whole,
    /// The body ended after so many bytes, although the server let it end as if it were whole, or says that there are no more.
    Short(u64),
    /// There are more bytes than declared.
    Long,
}

impl LayerState {
    fn restart(&mut self) -> Result<()> {
        (self.hasher, self.at) = (Hasher::default(), 0);
        self.writer.restart()
    }

    fn moved(&mut self, progress: &dyn Progress) {
        progress.advance(self.at.saturating_sub(self.told));
        self.told = self.told.max(self.at);
    }
}

impl FetchJob<'_> {
    fn what(&self) -> String {
        format!("{}: layer {}", self.registry.reference(), self.layer.digest)
    }

    /// The layer in the cache, and how many bytes came; `None` where another process brought them.
    fn run(&self, cache: &Cache, jobs: usize) -> Result<FetchedLayer> {
        let env = Env { progress: self.progress, cancel: self.cancel, jobs };
        let writer = loop {
            match cache.find_or_create(CacheKind::Blob, &self.layer.digest, env)? {
                CacheSlot::Free(writer) => break writer,
                CacheSlot::Found(entry) if entry.len() == self.layer.size => {
                    self.progress.advance(self.layer.size);
                    return Ok((entry, None));
                }
                CacheSlot::Found(entry) => entry.discard()?,
            }
        };
        let mut state = self.go_on(writer)?;
        let mut tries = self.http.tries();
        let mut again = true;
        loop {
            if state.at == self.layer.size && state.hasher.clone().finish() == self.layer.digest {
                return Ok((state.writer.commit()?, Some(state.fetched)));
            }
            let damage = if state.at == self.layer.size {
                Some("are others than its digest says".to_owned())
            } else {
                let highest = state.told;
                tries.begin();
                let outcome = self.try_once(&mut state);
                if state.told >= highest.saturating_add(RENEWING) {
                    tries.progress();
                }
                match outcome {
                    Ok(TryEnd::Whole) => continue,
                    Ok(TryEnd::Long) => Some(format!("are more than the {} declared", self.layer.size)),
                    Ok(TryEnd::Short(came)) => {
                        let words =
                            format!("{}: only {} of {} bytes came", self.what(), came, self.layer.size);
                        let failed = Error::new(Kind::Transient, words.clone());
                        let waited = tries.wait(failed.into(), self.cancel);
                        waited.map_err(|error| match error.kind() {
                            Kind::Transient => Error::new(Kind::Integrity, words),
                            _ => error,
                        })?;
                        None
                    }
                    Err(failed) => {
                        tries.wait(failed, self.cancel)?;
                        None
                    }
                }
            };
            if let Some(damage) = damage {
                // What an earlier run left may be to blame, or a proxy's bad day; a second time is no accident.
                state.restart()?;
                if !again {
                    let message = format!("{}: the bytes that the registry sends {damage}", self.what());
                    return Err(Error::new(Kind::Integrity, message));
                }
                again = false;
            }
        }
    }

    /// Hashes what an earlier run left.
    fn go_on(&self, mut writer: CacheWriter) -> Result<LayerState> {
        if writer.len() > self.layer.size {
            writer.restart()?;
        }
        let mut state = LayerState { hasher: Hasher::default(), at: 0, told: 0, fetched: 0, writer };
        let mut buffer = vec![0; 256 << 10];
        while state.at < state.writer.len() {
            self.cancel.check()?;
            let read = state.writer.file().read_at(&mut buffer, state.at);
            let read = read.map_err(Error::io("read", state.writer.path()))?;
            if read == 0 {
                break;
            }
            state.hasher.update(&buffer[..read]);
            state.at += read as u64;
            state.moved(self.progress);
        }
        Ok(state)
    }

    /// One request for what is missing.
    fn try_once(&self, state: &mut LayerState) -> Try<TryEnd> {
        let response = self.registry.blob(self.http, &self.layer.digest, state.at, self.cancel)?;
        let transient =
            |why: &str| Error::new(Kind::Transient, format!("{}: {why}", self.what())).hint("try again");
        if state.at > 0 {
            match response.status() {
                StatusCode::RANGE_NOT_SATISFIABLE => {
                    let came = state.at;
                    state.restart()?;
                    return Ok(TryEnd::Short(came));
                }
                StatusCode::PARTIAL_CONTENT => {
                    let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok());
                    let start = range.and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                    if start != Some(state.at) {
                        state.restart()?;
                        return Err(transient("the registry sent another part than was asked for").into());
                    }
                }
                // The range was ignored: all comes again.
                _ => state.restart()?,
            }
        }
        let mut long = false;
        self.http.read(response, &self.what(), self.cancel, |piece| {
            let room = usize::try_from(self.layer.size - state.at).unwrap_or(usize::MAX);
            long = piece.len() > room;
            let piece = &piece[..piece.len().min(room)];
            state.writer.write_at(piece, state.at)?;
            state.hasher.update(piece);
            state.at += piece.len() as u64;
            state.fetched += piece.len() as u64;
            state.moved(self.progress);
            Ok(!long)
        })?;
        Ok(match state.at == self.layer.size {
            _ if long => TryEnd::Long,
            true => TryEnd::Whole,
            false => TryEnd::Short(state.at),
        })
    }
}
