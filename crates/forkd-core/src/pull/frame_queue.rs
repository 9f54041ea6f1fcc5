//! Which frames are still to come, and which connection is bringing which. One that is slow loses its work to those that are idle.

use crate::pipeline::mutex::lock;
use crate::pull::demands::Demands;
use forkd_format::paged::StoredFrame;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Frames that are not wanted are fetched along where they are so short that another request would cost more.
const GAP: u64 = 8 << 10;

/// Bytes of the first range that a connection is asked for; later ones are as long as it manages in [`PACE`].
const FIRST: u64 = 1 << 20;
const SHORTEST: u64 = 256 << 10;
/// A blob of a release: some registries read as much as that whatever they are asked for.
const LONGEST: u64 = 16 << 20;
const PACE: Duration = Duration::from_secs(1);

/// So many bytes are worth another request, and the loss of a connection that is cut short.
const WORTH: u64 = 256 << 10;

/// A connection that takes so long for what should take [`PACE`] is slow, and so is one that takes as long for a frame.
const LATE: Duration = Duration::from_millis(2500);

/// A stretch of a pack that one connection is to bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) bytes: Range<u64>,
    /// The frames in it, wanted or not.
    pub(crate) ids: Range<usize>,
}

/// What a connection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Whatever comes next.
    Any,
    /// What is demanded, and nothing else.
    Demanded,
}

/// Frames that are to come.
pub(crate) struct FrameQueue<'a> {
    frames: &'a [StoredFrame],
    state: Mutex<QueueState>,
    demands: &'a Demands,
    /// See [`LATE`].
    late: Duration,
}

struct QueueState {
    /// What nobody is bringing.
    missing: BTreeSet<usize>,
    /// What did not come yet.
    wanted: BTreeSet<usize>,
    /// What each connection is bringing.
    taken: Vec<Option<Assignment>>,
}

/// A stretch that is under way.
struct Assignment {
    /// The frame that is coming, and those behind it.
    ids: Range<usize>,
    begun: Instant,
    /// When that frame began to come.
    since: Instant,
    /// Whether another connection brings that frame too.
    doubled: bool,
}

/// How fast a connection is.
pub(crate) struct Pace {
    next: u64,
    longest: u64,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { next: FIRST, longest: LONGEST }
    }

    /// One that never goes so far that demands would wait for long.
    pub(crate) fn short() -> Self {
        Self { next: FIRST, longest: 2 * FIRST }
    }

    /// So many bytes came in so much time.
    pub(crate) fn learn(&mut self, bytes: u64, time: Duration) {
        let rate = bytes as f64 / time.as_secs_f64().max(1e-4);
        self.next = ((rate * PACE.as_secs_f64()) as u64).clamp(SHORTEST, self.longest);
    }
}

impl<'a> FrameQueue<'a> {
    /// For so many connections.
    pub(crate) fn new(
        frames: &'a [StoredFrame],
        wanted: BTreeSet<usize>,
        connections: usize,
        demands: &'a Demands,
    ) -> Self {
        let taken = (0..connections).map(|_| None).collect();
        let state = QueueState { missing: wanted.clone(), wanted, taken };
        Self { frames, state: Mutex::new(state), demands, late: LATE }
    }

    /// What a connection is to bring next; waits while that may still change. `None` once all has come or `stop` says so.
    pub(crate) fn take(
        &self,
        connection: usize,
        (pace, turn): (&Pace, Turn),
        stop: impl Fn() -> bool,
    ) -> Option<Stretch> {
        let mut state = lock(&self.state);
        state.taken[connection] = None;
        loop {
            if state.wanted.is_empty() || stop() {
                self.demands.wake();
                return None;
            }
            let alone = self.demands.are_alone();
            let found = match if alone { Turn::Demanded } else { turn } {
                Turn::Any => self.next(&mut state, pace.next, turn).or_else(|| self.take_over(&mut state)),
                Turn::Demanded => self.next(&mut state, pace.next, Turn::Demanded),
            };
            if let Some(ids) = found {
                let first = self.frames[ids.start].offset;
                let last = &self.frames[ids.end - 1];
                let now = Instant::now();
                state.taken[connection] =
                    Some(Assignment { ids: ids.clone(), begun: now, since: now, doubled: false });
                return Some(Stretch { bytes: first..last.offset + u64::from(last.len), ids });
            }
            self.demands.wait(state);
            state = lock(&self.state);
        }
    }

    /// The first frames that nobody is bringing, and what lies directly behind.
    fn next(&self, state: &mut QueueState, longest: u64, turn: Turn) -> Option<Range<usize>> {
        let demanded = self.demands.pop(&state.missing);
        let longest = if demanded.is_some() { SHORTEST } else { longest };
        let begin = match (demanded, turn) {
            (None, Turn::Any) => state.missing.first().copied()?,
            (demanded, _) => demanded?,
        };
        // Towards the end less at a time, so that connections end together; where that takes long enough to be worth more requests.
        let share = match longest {
            LONGEST.. => usize::MAX,
            _ => state.missing.len() / (2 * state.taken.len()),
        };
        state.missing.remove(&begin);
        let (mut end, from) = (begin + 1, self.frames[begin].offset);
        while let Some(id) = state.missing.range(end..).next().copied() {
            let last = &self.frames[end - 1];
            let frame = &self.frames[id];
            let length = frame.offset + u64::from(frame.len) - from;
            let is_enough = length > longest || (end - begin >= share && length > SHORTEST);
            if is_enough || frame.offset - (last.offset + u64::from(last.len)) > GAP {
                break;
            }
            state.missing.remove(&id);
            end = id + 1;
        }
        Some(begin..end)
    }

    /// The second half of what a connection has before it, of the one that has most; or the frame that one has been bringing for long.
    fn take_over(&self, state: &mut QueueState) -> Option<Range<usize>> {
        let behind = |taken: &Assignment| {
            let ids = taken.ids.start + 1..taken.ids.end;
            ids.map(|id| u64::from(self.frames[id].len)).sum::<u64>()
        };
        let slow = state.taken.iter_mut().flatten().filter(|taken| taken.begun.elapsed() > self.late);
        let most = slow.max_by_key(|taken| behind(taken))?;
        if most.ids.len() > 1 && behind(most) >= WORTH {
            let middle = most.ids.start + most.ids.len().div_ceil(2);
            let rest = middle..most.ids.end;
            most.ids.end = middle;
            return Some(rest);
        }
        let late = |taken: &&mut Assignment| {
            !taken.doubled && taken.since.elapsed() > self.late && !taken.ids.is_empty()
        };
        let slow = state.taken.iter_mut().flatten().find(late)?;
        slow.doubled = true;
        Some(slow.ids.clone())
    }

    /// What a connection is bringing without having been asked: the frames from the first one up to a place in the pack. None where
    /// nobody wants any of them.
    pub(crate) fn claim(&self, connection: usize, end: u64) -> Range<usize> {
        let mut state = lock(&self.state);
        let inside = |id: &usize| {
            let frame = &self.frames[*id];
            frame.offset + u64::from(frame.len) <= end
        };
        let count = (0..self.frames.len()).take_while(inside).count();
        if state.missing.range(..count).next().is_none() {
            return 0..0;
        }
        state.missing.retain(|id| *id >= count);
        let now = Instant::now();
        state.taken[connection] = Some(Assignment { ids: 0..count, begun: now, since: now, doubled: false });
        0..count
    }

    /// See [`Demands::share`].
    pub(crate) fn share(&self) {
        self.demands.share();
    }

    /// A connection comes to a frame. False where another one brings that by now.
    pub(crate) fn begin(&self, connection: usize, id: usize) -> bool {
        let mut state = lock(&self.state);
        let Some(taken) = state.taken[connection].as_mut().filter(|taken| id < taken.ids.end) else {
            return false;
        };
        if taken.ids.start != id {
            (taken.ids.start, taken.since, taken.doubled) = (id, Instant::now(), false);
        }
        true
    }

    /// A frame has come. False where it had come before, or nobody wants it.
    pub(crate) fn arrived(&self, id: usize) -> bool {
        let mut state = lock(&self.state);
        let first = state.wanted.remove(&id);
        if state.wanted.is_empty() {
            self.demands.wake();
        }
        first
    }

    /// Whether all has come.
    pub(crate) fn is_done(&self) -> bool {
        lock(&self.state).wanted.is_empty()
    }
}

/// The bytes of the stretches that hold some frames, with what is fetched along.
pub(crate) fn fetched_bytes(frames: &[StoredFrame], wanted: &BTreeSet<usize>) -> u64 {
    let (mut bytes, mut end) = (0, None);
    for id in wanted {
        let frame = &frames[*id];
        let gap = end.map_or(0, |end| frame.offset - end);
        bytes += u64::from(frame.len) + if gap <= GAP { gap } else { 0 };
        end = Some(frame.offset + u64::from(frame.len));
    }
    bytes
}

#[cfg(test)]
mod tests;
