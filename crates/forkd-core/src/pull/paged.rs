//! Version 3: of the frames of a pack, those that no file of the store has are fetched, by several connections at a time.

use crate::error::{Error, Kind, Result};
use crate::hub::remote::{Answer, Location, Request, Validator};
use crate::pack::paged::assemble::{Feed, Feeder, Target};
use crate::pack::paged::bases::open_bases;
use crate::pack::paged::decode::Pages;
use crate::pack::paged::head::{Head, read_exact};
use crate::pull::context::{Counted, Pulling, source_of};
use crate::pull::journal::{JOURNAL, Journal};
use crate::pull::probe::Framed as OpenFramed;
use crate::pull::ranges::{Stretch, ranges};
use crate::store::by_content::{self, LocalBlocks};
use crate::store::lock::LockKind;
use crate::store::partial::Partial;
use crate::unpack::files::{Unpacking, publish};
use crate::unpack::origin::Origin;
use crate::unpack::paged::Framed;
use crate::unpack::plan::{Outcome, UnpackReport, local_tags, plan, report};
use forkd_format::Tag;
use forkd_format::v3::{FRAME_SIZE, frame_len};
use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// What was pulled.
pub(crate) struct Pulled {
    pub(crate) unpack: UnpackReport,
    pub(crate) reused: BTreeMap<Tag, u64>,
    pub(crate) resumed: u64,
}

/// Pulls a pack whose head was read.
pub(crate) fn pull(
    pulling: &Pulling<'_>,
    location: &Location,
    name: &str,
    opened: OpenFramed<'_>,
) -> Result<Pulled> {
    let OpenFramed { head, validator, stream } = opened;
    let key = format!("pack-{}", &head.digest.to_string()[..32]);
    let partial = pulling.store.partial(&key, pulling.env)?;
    let run = Run { pulling, location, name, head: &head, validator: &validator, partial: &partial };
    let outcome = run.pull(stream);
    crate::pull::context::settle(partial, outcome)
}

pub(crate) struct Run<'a> {
    pulling: &'a Pulling<'a>,
    location: &'a Location,
    name: &'a str,
    head: &'a Head,
    validator: &'a Validator,
    partial: &'a Partial,
}

impl Run<'_> {
    fn pull(&self, stream: Option<Box<dyn Read + Send + '_>>) -> Result<Pulled> {
        let Pulling { store, options, env, .. } = *self.pulling;
        let (head, options) = (self.head, &options.unpack);
        let manifest = &head.manifest;
        let tags = local_tags(manifest, options.tag.as_ref())?;
        let _locks = store.lock_all(&tags, LockKind::Exclusive, env)?;
        let outcomes = plan(store, manifest, &tags, options)?;
        let report = report(store, manifest, &tags, &outcomes);
        let mut pulled = Pulled { unpack: report, reused: BTreeMap::new(), resumed: 0 };
        if pulled.unpack.nothing_new() {
            return Ok(pulled);
        }
        let mut beside = |file: &str| {
            let body = self.pulling.remote.get(&self.location.join(file)?, env.cancel)?.body;
            Ok(Box::new(Counted { body, moved: self.pulling.moved.clone() }) as Box<dyn Read + Send>)
        };
        let journal = Journal::open(self.partial, head.frames(), store.disk())?;
        let landed = journal.landed()?;
        if landed.is_empty() {
            // Whatever else lies there, nothing says that it is of this pack.
            self.partial.clear_but(JOURNAL)?;
        }
        let bases = open_bases(
            store,
            head,
            &self.location.to_string(),
            self.partial.path(),
            options,
            &mut beside,
            env,
        )?;
        let source = source_of(self.name, Some(head.digest));
        let origin = Origin { source, sidecar: &mut beside, trust_manifest: false, count_content: false };
        let unpacking =
            Unpacking::new(store, manifest, self.partial.path(), &outcomes, &origin, options, env)?;
        let note = |id: usize| journal.note(id);
        let framed = Framed::new(head, &unpacking, Some(&note))?;
        let done = Done::new(head, &outcomes, &unpacking);
        pulled.resumed = self.check_landed(&landed, &framed, &done)?;
        if !landed.is_empty() {
            self.clear_rest(&framed, &done)?;
        }
        pulled.reused = self.reuse(&framed, &done)?;
        let done = done.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let ranges = ranges(head, &done);
        let bytes: u64 = ranges.iter().map(|stretch| stretch.bytes.end - stretch.bytes.start).sum();
        env.progress.start("pulling", Some(bytes));
        let queue = Mutex::new(VecDeque::from(ranges));
        let wanted = &done;
        let feeders: Vec<Feeder<'_>> = match stream {
            Some(mut stream) => {
                vec![Box::new(move |feed: &Feed<'_, '_>| self.feed_all(&mut stream, wanted, feed))]
            }
            None => (0..self.connections(&queue))
                .map(|_| Box::new(|feed: &Feed<'_, '_>| self.feed(&queue, wanted, feed)) as Feeder<'_>)
                .collect(),
        };
        let name = self.location.to_string();
        let outcome = framed.assemble(store, &name, bases, &outcomes, &tags, done.clone(), feeders, env);
        env.progress.finish();
        outcome?;
        framed.finish();
        // What is replaced comes to lie here in its place, and may be in use: it is not gone on with.
        let replaces = outcomes.contains(&Outcome::Replaced);
        let before = || if replaces { journal.end() } else { Ok(()) };
        publish(store, &unpacking, &tags, &origin, before, env)?;
        Ok(pulled)
    }

    fn connections(&self, queue: &Mutex<VecDeque<Stretch>>) -> usize {
        let ranges = queue.lock().map_or(0, |queue| queue.len());
        self.pulling.options.connections.clamp(1, 16).min(ranges)
    }

    /// Fetches ranges until none is left.
    fn feed(&self, queue: &Mutex<VecDeque<Stretch>>, done: &[bool], feed: &Feed<'_, '_>) -> Result<()> {
        loop {
            let next = queue.lock().ok().and_then(|mut queue| queue.pop_front());
            let Some(Stretch { bytes: range, ids }) = next.filter(|_| !feed.failed()) else { return Ok(()) };
            let only_of = Some(self.validator.clone()).filter(|validator| !validator.is_empty());
            let request = Request { start: range.start, end: Some(range.end), only_of, unless: None };
            let changed = || Error::Changed { location: self.location.to_string() };
            let answer = self.pulling.remote.request(self.location, &request, self.pulling.env.cancel)?;
            let (mut body, skip) = match answer {
                Answer::Part(download) => (download.body, 0),
                // The server gave ranges when it was asked first, so it has another copy now; or it lost the gift.
                Answer::Whole(download) if download.validator != *self.validator => return Err(changed()),
                Answer::Whole(download) => (download.body, range.start),
                Answer::NotModified => return Err(changed()),
            };
            let name = self.location.to_string();
            std::io::copy(&mut (&mut body).take(skip), &mut std::io::sink())
                .map_err(|e| crate::pack::stream::zstd_frames::read_error(&name, e))?;
            let mut body = self.counted(body);
            for id in ids {
                let mut bytes = vec![0; self.head.stored(id).len as usize];
                read_exact(&mut body, &mut bytes, &name)?;
                if !done[id] && !feed.land(id, bytes)? {
                    return Ok(());
                }
            }
        }
    }

    /// Takes all frames from one stream.
    fn feed_all(&self, stream: &mut dyn Read, done: &[bool], feed: &Feed<'_, '_>) -> Result<()> {
        let name = self.location.to_string();
        for (id, (_, _, frame)) in self.head.index.stored().enumerate() {
            let mut bytes = vec![0; frame.len as usize];
            read_exact(&mut &mut *stream, &mut bytes, &name)?;
            if !done[id] && !feed.land(id, bytes)? {
                break;
            }
        }
        Ok(())
    }

    fn counted(&self, body: Box<dyn Read + Send>) -> Progressing<'_> {
        Progressing { body: Counted { body, moved: self.pulling.moved.clone() }, pulling: self.pulling }
    }

    /// Reads what an earlier run noted again: a machine that went down may have lost it.
    fn check_landed(&self, landed: &[usize], framed: &Framed<'_>, done: &Done) -> Result<u64> {
        let bytes = AtomicU64::new(0);
        self.each(landed, |id, pages, raw| {
            let (file, number) = self.head.place(id);
            let len = self.len(id);
            if done.has(id) || !framed.read(file, number as u64 * FRAME_SIZE as u64, &mut raw[..len])? {
                return Ok(());
            }
            if self.is_frame(id, pages, &raw[..len]) {
                done.set(id);
                bytes.fetch_add(u64::from(self.head.stored(id).len), Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(bytes.into_inner())
    }

    /// What has not landed must be zero where it will not be written: zeros are not.
    fn clear_rest(&self, framed: &Framed<'_>, done: &Done) -> Result<()> {
        let mut raw = vec![0; FRAME_SIZE];
        for (file, table) in self.head.index.files.iter().enumerate() {
            for number in 0..table.frames.len() {
                if self.head.id(file, number).is_some_and(|id| done.has(id)) {
                    continue;
                }
                self.pulling.env.cancel.check()?;
                let len = frame_len(table.size, number);
                framed.clear(file, number as u64 * FRAME_SIZE as u64, &mut raw[..len])?;
            }
        }
        Ok(())
    }

    /// Takes frames from files of the store that hold the same bytes.
    fn reuse(&self, framed: &Framed<'_>, done: &Done) -> Result<BTreeMap<Tag, u64>> {
        let files = by_content::files(self.pulling.store)?;
        let blocks = LocalBlocks::of(&files);
        let wanted: Vec<usize> = (0..self.head.frames()).filter(|id| !done.has(*id)).collect();
        let reused: Mutex<BTreeMap<Tag, u64>> = Mutex::default();
        self.each(&wanted, |id, pages, raw| {
            let (file, number) = self.head.place(id);
            let len = self.len(id);
            for (local, block) in blocks.places(self.head.stored(id).sum) {
                let local = &files[*local];
                let offset = block * FRAME_SIZE as u64;
                let Some(opened) = local.open() else { continue };
                if frame_len(local.recorded.size, *block as usize) != len
                    || crate::digest::sparse::read_data(opened, offset, &mut raw[..len]).is_err()
                    || !self.is_frame(id, pages, &raw[..len])
                {
                    continue;
                }
                for (at, bytes) in pages.runs() {
                    framed.write(file, number as u64 * FRAME_SIZE as u64 + at as u64, bytes)?;
                }
                framed.landed(id, len)?;
                done.set(id);
                if let Ok(mut reused) = reused.lock() {
                    *reused.entry(local.tag.clone()).or_default() += len as u64;
                }
                break;
            }
            Ok(())
        })?;
        Ok(reused.into_inner().unwrap_or_default())
    }

    fn len(&self, id: usize) -> usize {
        let (file, number) = self.head.place(id);
        frame_len(self.head.index.files[file].size, number)
    }

    fn is_frame(&self, id: usize, pages: &mut Pages, raw: &[u8]) -> bool {
        let bitmap = pages.take(raw);
        pages.are(self.head.stored(id), raw.len(), &bitmap)
    }

    /// Does something with each of some frames, on all cores.
    fn each(
        &self,
        ids: &[usize],
        work: impl Fn(usize, &mut Pages, &mut [u8]) -> Result<()> + Sync,
    ) -> Result<()> {
        let (next, env) = (AtomicU64::new(0), self.pulling.env);
        let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..env.jobs.clamp(1, ids.len().max(1)))
                .map(|_| {
                    scope.spawn(|| {
                        let (mut pages, mut raw) = (Pages::new(), vec![0; FRAME_SIZE]);
                        while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                            env.cancel.check()?;
                            work(*id, &mut pages, &mut raw)?;
                        }
                        Ok(())
                    })
                })
                .collect();
            let failed = |_| Err(Error::new(Kind::General, "internal error: a reader panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(failed)).collect()
        });
        outcomes.into_iter().collect()
    }
}

/// Frames that are in the files.
struct Done(Mutex<Vec<bool>>);

impl Done {
    /// Those of links that are here with the same bytes.
    fn new(head: &Head, outcomes: &[Outcome], unpacking: &Unpacking<'_>) -> Self {
        let kept = |id| {
            let (file, _) = head.place(id);
            unpacking.link_of(file).is_some_and(|link| outcomes[link] == Outcome::Kept)
        };
        Self(Mutex::new((0..head.frames()).map(kept).collect()))
    }

    fn has(&self, id: usize) -> bool {
        self.0.lock().is_ok_and(|done| done[id])
    }

    fn set(&self, id: usize) {
        if let Ok(mut done) = self.0.lock() {
            done[id] = true;
        }
    }
}

/// A body that counts as progress.
struct Progressing<'a> {
    body: Counted<Box<dyn Read + Send>>,
    pulling: &'a Pulling<'a>,
}

impl Read for Progressing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.pulling.env.cancel.check().map_err(std::io::Error::other)?;
        let read = self.body.read(buffer)?;
        self.pulling.env.progress.advance(read as u64);
        Ok(read)
    }
}
