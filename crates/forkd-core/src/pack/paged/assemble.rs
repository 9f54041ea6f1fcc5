//! Makes files from frames that come in any order: each is decoded as soon as what it refers to is there, checked, and written in place.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::paged::decode::{DecodeBuffers, Pages, decode};
use crate::pack::paged::header::PagedHeader;
use crate::pack::paged::page_source::PageSource;
use crate::pipeline::mutex::lock;
use forkd_format::paged::{FRAME_PAGES, FRAME_SIZE, Plan, RefRun, parse_data_frame};
use forkd_format::{FormatError, PAGE_SIZE};
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// Bytes of frames that may wait for others. One that waits for nothing is always taken, so that there is always one to go on with.
const WAITING: usize = 64 << 20;

/// Where finished frames go.
pub(crate) trait FrameTarget: Sync {
    /// Bytes of a file that are not zero.
    fn write(&self, file: usize, offset: u64, bytes: &[u8]) -> Result<()>;
    /// All of a frame was written.
    fn landed(&self, id: usize) -> Result<()>;
}

/// Frames on their way into files.
pub(crate) struct Assembly<'a> {
    header: &'a PagedHeader,
    name: &'a str,
    /// Bases, then the pack's own files, then its working set.
    sources: &'a [PageSource],
    target: &'a dyn FrameTarget,
    state: Mutex<AssemblyState>,
    wake: Condvar,
}

struct AssemblyState {
    done: Vec<bool>,
    waiting: BTreeMap<usize, PendingFrame>,
    /// Bytes of frames that have come and are not in their files yet.
    held: usize,
    feeding: usize,
    running: usize,
    failure: Option<Error>,
}

/// A frame that has come.
struct PendingFrame {
    bytes: Vec<u8>,
    plan: Plan,
    plan_len: usize,
    /// Frames of the pack that must be there first.
    needs: Vec<usize>,
}

/// What a feeder is given.
pub(crate) struct Feed<'a, 'b> {
    assembly: &'b Assembly<'a>,
    env: Env<'b>,
}

/// Brings frames.
pub(crate) type Feeder<'f> = Box<dyn FnOnce(&Feed<'_, '_>) -> Result<()> + Send + 'f>;

impl<'a> Assembly<'a> {
    /// `done` are the frames that are in the files already, or not wanted.
    pub(crate) fn new(
        header: &'a PagedHeader,
        name: &'a str,
        sources: &'a [PageSource],
        target: &'a dyn FrameTarget,
        done: Vec<bool>,
    ) -> Self {
        let state =
            AssemblyState { done, waiting: BTreeMap::new(), held: 0, feeding: 0, running: 0, failure: None };
        Self { header, name, sources, target, state: Mutex::new(state), wake: Condvar::new() }
    }

    /// Runs feeders until they have brought all that is missing.
    pub(crate) fn run(&self, feeders: Vec<Feeder<'_>>, env: Env<'_>) -> Result<()> {
        lock(&self.state).feeding = feeders.len();
        std::thread::scope(|scope| {
            for _ in 0..env.jobs.max(1) {
                scope.spawn(|| self.work(env));
            }
            for feed in feeders {
                scope.spawn(move || {
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        feed(&Feed { assembly: self, env })
                    }));
                    let mut state = lock(&self.state);
                    state.feeding -= 1;
                    match outcome {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => state.fail(error),
                        Err(_) => state.fail(Error::new(Kind::General, "internal error: a reader panicked")),
                    }
                    drop(state);
                    self.wake.notify_all();
                });
            }
        });
        let mut state = lock(&self.state);
        if let Some(error) = state.failure.take() {
            return Err(error);
        }
        match state.done.iter().position(|done| !done) {
            None => Ok(()),
            Some(id) => Err(self.refused(id, "it never came, or refers to frames that never came")),
        }
    }

    fn work(&self, env: Env<'_>) {
        let (mut scratch, mut pages) = (DecodeBuffers::new(), Pages::new());
        loop {
            let mut state = lock(&self.state);
            let (id, frame) = loop {
                if state.failure.is_some() {
                    return;
                }
                let ready =
                    state.waiting.iter().find(|(_, frame)| frame.needs.iter().all(|id| state.done[*id]));
                if let Some(id) = ready.map(|(id, _)| *id)
                    && let Some(frame) = state.waiting.remove(&id)
                {
                    state.running += 1;
                    break (id, frame);
                }
                if state.feeding == 0 && state.running == 0 {
                    return;
                }
                state = self.wait(state);
            };
            drop(state);
            let outcome = env.cancel.check().and_then(|()| {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    self.finish(id, &frame, &mut scratch, &mut pages)
                }))
                .unwrap_or_else(|_| Err(Error::new(Kind::General, "internal error: a worker panicked")))
            });
            let mut state = lock(&self.state);
            state.running -= 1;
            state.held -= frame.bytes.len();
            match outcome {
                Ok(()) => state.done[id] = true,
                Err(error) => state.fail(error),
            }
            drop(state);
            self.wake.notify_all();
        }
    }

    fn wait<'s>(
        &self,
        state: std::sync::MutexGuard<'s, AssemblyState>,
    ) -> std::sync::MutexGuard<'s, AssemblyState> {
        let waited = self.wake.wait_timeout(state, Duration::from_millis(100));
        waited.map_or_else(|e| e.into_inner().0, |(state, _)| state)
    }

    fn finish(
        &self,
        id: usize,
        frame: &PendingFrame,
        scratch: &mut DecodeBuffers,
        pages: &mut Pages,
    ) -> Result<()> {
        let (stored, len) = (self.header.stored(id), self.header.len(id));
        let body = parse_data_frame(&frame.bytes).map_err(|e| self.explain(id, Error::malformed("")(e)))?;
        decode(body, (&frame.plan, frame.plan_len), stored, len, self.sources, scratch, pages)
            .map_err(|e| self.explain(id, self.blame(&frame.plan, e)))?;
        self.place(id, pages)?;
        self.target.landed(id)
    }

    /// Writes a frame's pages where they belong. What the working set has said of a page must be what its frame says.
    fn place(&self, id: usize, pages: &Pages) -> Result<()> {
        let (file, number) = self.header.place(id);
        if file == self.header.set_file() {
            let first = number * FRAME_PAGES;
            let in_frame = self.header.set.pages().iter().skip(first).take(FRAME_PAGES);
            for (i, (file, page)) in in_frame.enumerate() {
                let bytes = pages.page(i);
                let of = self.header.id(*file, *page as usize / FRAME_PAGES);
                // What is in a file by a frame of its own is not written again.
                if of.is_some_and(|of| lock(&self.state).done[of]) {
                    self.compare(id, *file, *page, bytes)?;
                } else if let Some(bytes) = bytes {
                    self.target.write(*file, page * PAGE_SIZE as u64, bytes)?;
                }
            }
            return Ok(());
        }
        for (page, _) in self.header.set.in_frame(file, number) {
            self.compare(id, file, page, pages.page(page as usize % FRAME_PAGES))?;
        }
        let offset = (number * FRAME_SIZE) as u64;
        pages.runs().try_for_each(|(at, bytes)| self.target.write(file, offset + at as u64, bytes))
    }

    /// Holds a page of a frame, `None` where it is zero, against what its file has.
    fn compare(&self, id: usize, file: usize, page: u64, bytes: Option<&[u8]>) -> Result<()> {
        let mut found = [0; PAGE_SIZE];
        self.sources[self.header.bases.len() + file].read(page, &mut found)?;
        if bytes.map_or_else(|| forkd_sys::is_zero(&found), |bytes| bytes == found) {
            return Ok(());
        }
        let member = self.header.member(file);
        Err(self
            .refused(id, &format!("page {page} of {member} is another in the working set than in its frame")))
    }

    /// A frame that refers to a base may be right, and the base not what it was when it was recorded.
    fn blame(&self, plan: &Plan, error: Error) -> Error {
        // One that came with the rest was checked as it came.
        let bases = &self.header.bases;
        let local = |run: RefRun| bases.get(run.source).filter(|base| base.frames.frames.is_empty());
        match (error, plan.references().find_map(|(run, _)| local(run))) {
            (Error::Malformed { file, source: FormatError::Frame(why) }, Some(base)) => {
                let why = format!(
                    "{why}; it refers to {}, which may be damaged here: `forkd verify` that too",
                    base.label()
                );
                Error::Malformed { file, source: FormatError::Frame(why) }
            }
            (error, _) => error,
        }
    }

    fn refused(&self, id: usize, why: &str) -> Error {
        self.explain(id, Error::Malformed { file: String::new(), source: FormatError::Frame(why.into()) })
    }

    /// Says which bytes of which file a refused frame would have been.
    fn explain(&self, id: usize, error: Error) -> Error {
        let Error::Malformed { source, .. } = error else { return error };
        let (file, number) = self.header.place(id);
        let begin = number as u64 * FRAME_SIZE as u64;
        let end = begin + self.header.len(id) as u64;
        let member = self.header.member(file);
        Error::Malformed { file: format!("{}: {member}, bytes {begin}..{end}", self.name), source }
    }

    /// Reads the plan of a frame that has come, and what it needs. A frame refers to earlier ones only, so that the first that is
    /// missing never waits.
    fn admit(&self, id: usize, bytes: Vec<u8>) -> Result<PendingFrame> {
        let len = self.header.len(id);
        let body = parse_data_frame(&bytes).map_err(Error::malformed("frame"))?;
        let pages = |named: usize| {
            let source = self.header.source(id, named)?;
            let known = self.sources.get(source)?.pages();
            self.header.pages_before(id, source, known)
        };
        let (mut plan, plan_len) = Plan::parse(body, len, pages).map_err(Error::malformed("frame"))?;
        plan.renumber(|named| self.header.source(id, named).unwrap_or(named));
        let needs = self.header.needs(id, &plan).map_err(Error::malformed("frame"))?;
        Ok(PendingFrame { bytes, plan, plan_len, needs })
    }
}

impl AssemblyState {
    fn fail(&mut self, error: Error) {
        // What the user or another failure caused is told before what that caused in turn.
        if self.failure.is_none() || error.kind() == Kind::Interrupted {
            self.failure = Some(error);
        }
        self.waiting.clear();
    }
}

impl Feed<'_, '_> {
    /// Hands over a frame, header included; waits while too much is waiting. False where there is no use in
    /// going on.
    pub(crate) fn land(&self, id: usize, bytes: Vec<u8>) -> Result<bool> {
        let assembly = self.assembly;
        let waiting = assembly.admit(id, bytes).map_err(|e| assembly.explain(id, e))?;
        let mut state = lock(&assembly.state);
        loop {
            self.env.cancel.check()?;
            if state.failure.is_some() {
                return Ok(false);
            }
            let is_ready = waiting.needs.iter().all(|id| state.done[*id]);
            if is_ready || state.held + waiting.bytes.len() <= WAITING {
                state.held += waiting.bytes.len();
                state.waiting.insert(id, waiting);
                drop(state);
                assembly.wake.notify_all();
                return Ok(true);
            }
            state = assembly.wait(state);
        }
    }

    /// Whether another part has failed.
    pub(crate) fn failed(&self) -> bool {
        lock(&self.assembly.state).failure.is_some()
    }
}
