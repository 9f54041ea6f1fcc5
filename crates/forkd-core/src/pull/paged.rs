//! Paged packs: of the frames of a pack, those that no file of the store has are fetched, by several connections at a time.

use crate::arrival::begin::{ArrivalWatch, WatchedPull};
use crate::env::{Cancel, Env};
use crate::error::{Error, Kind, Result};
use crate::hub::remote::{Answer, Location, Request};
use crate::pack::paged::assemble::{Feed, Feeder};
use crate::pack::paged::bases::BaseSearch;
use crate::pack::paged::header::{PagedHeader, read_exact};
use crate::pack::stream::zstd_frames::read_error;
use crate::pull::context::{JOURNAL, PullContext, TrafficMeter, paged_key, settle};
use crate::pull::demands::Demands;
use crate::pull::frame_place::{FramePlace, PlacedRange};
use crate::pull::frame_queue::{FrameQueue, Pace, Turn, fetched_bytes};
use crate::pull::header_probe::{Front, HeaderProbe};
use crate::pull::journal::FrameJournal;
use crate::pull::landed::Landed;
use crate::pull::local::LocalFrames;
use crate::store::lock::LockKind;
use crate::store::record::Provenance;
use crate::store::workdir::WorkDir;
use crate::unpack::files::{StagedPack, publish};
use crate::unpack::job::UnpackJob;
use crate::unpack::paged::PagedFiles;
use crate::unpack::plan::{Outcome, UnpackPlan, UnpackReport, local_tags};
use forkd_format::Tag;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was pulled.
pub(crate) struct PagedPull {
    pub(crate) unpack: UnpackReport,
    /// Content that files of the store had already, by the tag that had it, in bytes.
    pub(crate) reused: BTreeMap<Tag, u64>,
    /// Bytes of the pack that an earlier run had brought.
    pub(crate) resumed: u64,
}

/// Pulls a pack whose header was read.
pub(crate) fn pull(
    context: &PullContext<'_>,
    location: &Location,
    name: &str,
    probe: HeaderProbe<'_>,
) -> Result<PagedPull> {
    let HeaderProbe { header, place, stream, front, .. } = probe;
    let key = paged_key(header.id.id().digest());
    let work = context.store.download(&key, context.env)?;
    let header = Arc::new(header);
    let fetch = FrameFetch { context, location, name, header: &header, place: &place, work: &work };
    let outcome = fetch.run(Incoming { stream, front });
    settle(work, outcome)
}

/// What comes in less time than this is under way: other requests do not hold it up.
const UNDER_WAY: Duration = Duration::from_millis(120);

struct FrameFetch<'a> {
    context: &'a PullContext<'a>,
    location: &'a Location,
    name: &'a str,
    header: &'a Arc<PagedHeader>,
    place: &'a FramePlace,
    work: &'a WorkDir,
}

/// Frames that come without being asked for.
struct Incoming<'a> {
    /// All of them.
    stream: Option<Box<dyn Read + Send + 'a>>,
    /// The first ones.
    front: Option<Front<'a>>,
}

impl FrameFetch<'_> {
    fn run(&self, incoming: Incoming<'_>) -> Result<PagedPull> {
        let PullContext { store, remote, options, env, .. } = *self.context;
        let (header, options) = (self.header, &options.unpack);
        let manifest = &header.manifest;
        let tags = local_tags(store, manifest, options)?;
        let _locks = store.lock_all(&tags, LockKind::Exclusive, env)?;
        let plan = UnpackPlan::new(store, manifest, &tags, options)?;
        let unpack = plan.report(store, manifest);
        let mut pulled = PagedPull { unpack, reused: BTreeMap::new(), resumed: 0 };
        if plan.changes_nothing() {
            return Ok(pulled);
        }
        let journal = FrameJournal::open(self.work, header.frames(), store.disk())?;
        let noted = journal.noted()?;
        if noted.is_empty() {
            // Whatever else lies there, nothing says that it is of this pack.
            self.work.clear_but(JOURNAL)?;
        }
        let mut sidecar = |file: &str| {
            let body = remote.get(&self.location.join(file)?, env.cancel)?.body;
            Ok(Box::new(self.context.traffic.meter(body)) as Box<dyn Read + Send>)
        };
        let (cache, location) = (options.cache.as_ref(), self.location.to_string());
        let search = BaseSearch { store, cache, work: self.work.path(), name: &location, env };
        let bases = search.open_all(header, &mut sidecar)?;
        let job = UnpackJob { store, manifest, plan: &plan, options, count_content: false, env };
        let staged = StagedPack::new(job, self.work)?;
        let demands = Arc::new(Demands::default());
        let watch = self.context.options.arrivals.map(|arrivals| {
            ArrivalWatch::new(WatchedPull {
                arrivals,
                header: Arc::clone(header),
                staged: &staged,
                plan: &plan,
                work: self.work.path(),
                demands: Arc::clone(&demands),
            })
        });
        let tell = |id: usize| {
            journal.note(id)?;
            watch.as_ref().map_or(Ok(()), |watch| watch.landed(id))
        };
        let files = PagedFiles::new(header, &staged, bases, Some(&tell))?;
        let landed = Landed::new(header, &plan, &staged, &files);
        let local = LocalFrames { store, header, files: &files, landed: &landed, env };
        pulled.resumed = local.check_noted(&noted)?;
        if !noted.is_empty() {
            local.clear_rest()?;
        }
        pulled.reused = local.reuse()?;
        // Where all that a working set has is here, that need not come.
        let set: Vec<usize> =
            self.header.set_ids().filter(|id| self.header.pages_are_in(*id, |of| landed.has(of))).collect();
        local.check_noted(&set)?;
        for base in 0..self.header.bases.len() {
            if self.header.base_set_is_in(base, |id| landed.has(id)) {
                self.header.ids_of(self.header.base_file(base)).for_each(|id| landed.set(id));
            }
        }
        let landed = landed.into_inner();
        let fetched = (|| {
            if let Some(watch) = &watch {
                watch.here(&landed)?;
            }
            self.fetch(&files, (&landed, &demands), incoming)
        })();
        if let (Some(watch), Err(error)) = (&watch, &fetched) {
            watch.fail(error);
        }
        fetched?;
        files.finish();
        // What is replaced comes to lie here in its place, and may be in use: it is not gone on with.
        let replaces = plan.outcomes.contains(&Outcome::Replaced);
        let provenance = Provenance { name: self.name.to_owned(), head: None, id: Some(header.id.id()) };
        publish(staged, &provenance, || if replaces { journal.end() } else { Ok(()) })?;
        Ok(pulled)
    }

    /// Fetches the frames that are missing, over several connections, or from the stream that is coming anyway.
    fn fetch(
        &self,
        files: &PagedFiles<'_>,
        (landed, demands): (&[bool], &Demands),
        Incoming { stream, front }: Incoming<'_>,
    ) -> Result<()> {
        let progress = self.context.env.progress;
        let wanted = self.header.wanted(|id| landed[id]);
        progress.start("pulling", Some(fetched_bytes(self.header.all_stored(), &wanted)));
        let options = self.context.options;
        let connections = options.connections(self.context.traffic.quickest_answer()).min(wanted.len());
        // One more for what is demanded: it waits for none of the others.
        let demanded = usize::from(options.arrivals.is_some() && connections > 0);
        let queue = FrameQueue::new(self.header.all_stored(), wanted, connections + demanded, demands);
        // Ends what is coming a second time once all is here.
        let enough = self.context.env.cancel.child();
        // Before any other connection looks for work.
        let mut claimed = front.map(|front| (queue.claim(0, front.end), front));
        let feeders: Vec<Feeder<'_>> = match stream {
            Some(mut stream) => {
                vec![Box::new(move |feed: &Feed<'_, '_>| self.feed_all(&mut stream, landed, feed))]
            }
            None => (0..connections + demanded)
                .map(|connection| {
                    let (queue, enough, front) = (&queue, &enough, claimed.take());
                    Box::new(move |feed: &Feed<'_, '_>| {
                        let turn = if connection < connections { Turn::Any } else { Turn::Demanded };
                        let fetched = front
                            .map_or(Ok(true), |front| self.feed_front(front, queue, feed))
                            .and_then(|goes_on| {
                                if goes_on {
                                    self.feed((connection, turn), queue, feed, enough)
                                } else {
                                    Ok(())
                                }
                            });
                        if fetched.is_err() && queue.is_done() { Ok(()) } else { fetched }
                    }) as Feeder<'_>
                })
                .collect(),
        };
        let outcome = files.assemble(&self.location.to_string(), landed, feeders);
        progress.finish();
        outcome
    }

    /// Takes the frames that came with the header, for the first connection. False where there is no use in going on.
    fn feed_front(
        &self,
        (claimed, front): (Range<usize>, Front<'_>),
        queue: &FrameQueue<'_>,
        feed: &Feed<'_, '_>,
    ) -> Result<bool> {
        let name = self.location.to_string();
        let mut body = front.body;
        let (begun, mut read) = (Instant::now(), 0);
        let set: u64 = self.header.set_ids().map(|id| u64::from(self.header.stored(id).len)).sum();
        let has_set = claimed.end >= self.header.set_ids().end;
        for id in claimed {
            let mut bytes = vec![0; self.header.stored(id).len as usize];
            read_exact(&mut body, &mut bytes, &name)?;
            read += bytes.len() as u64;
            let soon = begun.elapsed().as_secs_f64() * set.saturating_sub(read) as f64 / read as f64;
            if has_set && soon < UNDER_WAY.as_secs_f64() {
                queue.share();
            }
            self.context.env.progress.advance(bytes.len() as u64);
            queue.begin(0, id);
            if queue.arrived(id) && !feed.land(id, bytes)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fetches stretches until nothing is left.
    fn feed(
        &self,
        (connection, turn): (usize, Turn),
        queue: &FrameQueue<'_>,
        feed: &Feed<'_, '_>,
        enough: &Cancel,
    ) -> Result<()> {
        let mut pace = if self.context.options.arrivals.is_some() { Pace::short() } else { Pace::new() };
        let stop = || feed.failed() || enough.is_cancelled();
        while let Some(stretch) = queue.take(connection, (&pace, turn), stop) {
            let begun = Instant::now();
            let mut body = self.open(&stretch.bytes, enough)?;
            let name = self.location.to_string();
            let mut read = 0;
            for id in stretch.ids.take_while(|id| queue.begin(connection, *id)) {
                let mut bytes = vec![0; self.header.stored(id).len as usize];
                read_exact(&mut body, &mut bytes, &name)?;
                read += bytes.len() as u64;
                if queue.arrived(id) && !feed.land(id, bytes)? {
                    return Ok(());
                }
            }
            pace.learn(read, begun.elapsed());
        }
        if queue.is_done() {
            enough.cancel();
        }
        Ok(())
    }

    /// Asks for a stretch of the pack.
    fn open(&self, range: &Range<u64>, cancel: &Cancel) -> Result<ProgressMeter<'_>> {
        let nowhere = || Error::new(Kind::General, "internal error: frames that lie nowhere were asked for");
        let PlacedRange { location, bytes: range, validator } = self.place.find(range).ok_or_else(nowhere)?;
        let only_of = validator.cloned();
        let request = Request { start: range.start, end: Some(range.end), only_of, ..Request::default() };
        let changed = || Error::Changed { location: location.to_string() };
        let known = self.place.validator();
        let (mut body, skip) = match self.context.remote.request(location, &request, cancel)? {
            Answer::Part(download) => (download.body, 0),
            // The server gave ranges when it was asked first, so it has another copy now; or it lost the gift.
            Answer::Whole(download) if known.is_some_and(|known| download.validator != *known) => {
                return Err(changed());
            }
            Answer::Whole(download) => (download.body, range.start),
            Answer::NotModified => return Err(changed()),
        };
        let name = self.location.to_string();
        std::io::copy(&mut (&mut body).take(skip), &mut std::io::sink()).map_err(|e| read_error(&name, e))?;
        Ok(self.metered(body))
    }

    /// Takes all frames from one stream.
    fn feed_all(&self, stream: &mut dyn Read, landed: &[bool], feed: &Feed<'_, '_>) -> Result<()> {
        let name = self.location.to_string();
        for (id, frame) in self.header.all_stored().iter().enumerate() {
            let mut bytes = vec![0; frame.len as usize];
            read_exact(&mut &mut *stream, &mut bytes, &name)?;
            if !landed[id] && !feed.land(id, bytes)? {
                break;
            }
        }
        Ok(())
    }

    fn metered(&self, body: Box<dyn Read + Send>) -> ProgressMeter<'_> {
        ProgressMeter { body: self.context.traffic.meter(body), env: self.context.env }
    }
}

/// A body that counts as progress.
struct ProgressMeter<'a> {
    body: TrafficMeter<Box<dyn Read + Send>>,
    env: Env<'a>,
}

impl Read for ProgressMeter<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.env.cancel.check().map_err(std::io::Error::other)?;
        let read = self.body.read(buffer)?;
        self.env.progress.advance(read as u64);
        Ok(read)
    }
}
