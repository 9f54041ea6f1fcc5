//! A small scheduler for pipelines: a few lanes of jobs in order of priority. In an ordered lane jobs run one at a time, by
//! their number; in a parallel lane any worker takes any job. Work that others wait for stands in the first lanes, so that all
//! cores are busy as long as there is anything to do, and finished pieces leave memory soon.

use crate::env::Cancel;
use crate::error::{Error, Kind, Result};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

type LaneJob<'e> = Box<dyn FnOnce(&Lanes<'e>) -> Result<()> + Send + 'e>;

/// How the jobs of a lane run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LaneKind {
    Ordered,
    Parallel,
}

enum Lane<'e> {
    Ordered { next: u64, busy: bool, ready: BTreeMap<u64, LaneJob<'e>> },
    Parallel(VecDeque<LaneJob<'e>>),
}

struct LaneState<'e> {
    lanes: Vec<Lane<'e>>,
    running: usize,
    closed: bool,
    failure: Option<Error>,
}

pub(crate) struct Lanes<'e> {
    state: Mutex<LaneState<'e>>,
    wake: Condvar,
}

/// Runs a pipeline: `produce` submits the first jobs from the calling thread, `workers` threads run them and what they submit.
/// Returns when all is done, with the first failure if there was one.
pub(crate) fn run<'e, R>(
    workers: usize,
    kinds: &[LaneKind],
    cancel: &Cancel,
    produce: impl FnOnce(&Lanes<'e>) -> Result<R>,
) -> Result<R> {
    let lanes = Lanes {
        state: Mutex::new(LaneState {
            lanes: kinds
                .iter()
                .map(|kind| match kind {
                    LaneKind::Ordered => Lane::Ordered { next: 0, busy: false, ready: BTreeMap::new() },
                    LaneKind::Parallel => Lane::Parallel(VecDeque::new()),
                })
                .collect(),
            running: 0,
            closed: false,
            failure: None,
        }),
        wake: Condvar::new(),
    };
    let produced = std::thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(|| lanes.work(cancel));
        }
        let produced = produce(&lanes);
        let mut state = lanes.lock();
        state.closed = true;
        let produced = produced.map_err(|error| state.fail(error)).ok();
        drop(state);
        lanes.wake.notify_all();
        produced
    });
    let state = lanes.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let stuck =
        state.lanes.iter().any(|lane| matches!(lane, Lane::Ordered { ready, .. } if !ready.is_empty()));
    match (state.failure, produced) {
        (Some(error), _) => Err(error),
        (None, Some(value)) if !stuck => Ok(value),
        _ => Err(Error::new(Kind::General, "internal error: a pipeline stopped with work left")),
    }
}

impl<'e> LaneState<'e> {
    fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
        for lane in &mut self.lanes {
            match lane {
                Lane::Ordered { ready, .. } => ready.clear(),
                Lane::Parallel(queue) => queue.clear(),
            }
        }
    }

    fn next_job(&mut self) -> Option<(usize, LaneJob<'e>)> {
        self.lanes.iter_mut().enumerate().find_map(|(index, lane)| {
            let job = match lane {
                Lane::Ordered { busy: true, .. } => None,
                Lane::Ordered { next, busy, ready } => ready.remove(next).inspect(|_| *busy = true),
                Lane::Parallel(queue) => queue.pop_front(),
            };
            job.map(|job| (index, job))
        })
    }

    fn done(&mut self, index: usize) {
        self.running -= 1;
        if let Lane::Ordered { next, busy, .. } = &mut self.lanes[index] {
            *next += 1;
            *busy = false;
        }
    }
}

impl<'e> Lanes<'e> {
    fn lock(&self) -> MutexGuard<'_, LaneState<'e>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a job to an ordered lane; numbers count from 0 without gaps.
    pub(crate) fn submit_ordered(
        &self,
        lane: usize,
        number: u64,
        job: impl FnOnce(&Self) -> Result<()> + Send + 'e,
    ) {
        let mut state = self.lock();
        if state.failure.is_none()
            && let Lane::Ordered { ready, .. } = &mut state.lanes[lane]
        {
            ready.insert(number, Box::new(job));
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Adds a job to a parallel lane.
    pub(crate) fn submit(&self, lane: usize, job: impl FnOnce(&Self) -> Result<()> + Send + 'e) {
        let mut state = self.lock();
        if state.failure.is_none()
            && let Lane::Parallel(queue) = &mut state.lanes[lane]
        {
            queue.push_back(Box::new(job));
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Whether a job has failed, so that a producer may stop early.
    pub(crate) fn failed(&self) -> bool {
        self.lock().failure.is_some()
    }

    fn work(&self, cancel: &Cancel) {
        loop {
            let mut state = self.lock();
            let (index, job) = loop {
                if let Some(found) = state.next_job() {
                    state.running += 1;
                    break found;
                }
                if state.running == 0 && (state.closed || state.failure.is_some()) {
                    drop(state);
                    self.wake.notify_all();
                    return;
                }
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            };
            drop(state);
            let outcome = cancel.check().and_then(|()| {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(self)))
                    .unwrap_or_else(|_| Err(Error::new(Kind::General, "internal error: a worker panicked")))
            });
            let mut state = self.lock();
            state.done(index);
            if let Err(error) = outcome {
                state.fail(error);
            }
            drop(state);
            self.wake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const KINDS: [LaneKind; 2] = [LaneKind::Ordered, LaneKind::Parallel];

    #[test]
    fn ordered_jobs_run_in_order_whatever_order_they_come_in() {
        let seen = Mutex::new(Vec::new());
        run(4, &KINDS, &Cancel::default(), |lanes| {
            for i in 0..200u64 {
                let seen = &seen;
                lanes.submit(1, move |lanes| {
                    if i % 3 == 0 {
                        std::thread::yield_now();
                    }
                    lanes.submit_ordered(0, i, move |_| {
                        seen.lock().unwrap().push(i);
                        Ok(())
                    });
                    Ok(())
                });
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(seen.into_inner().unwrap(), (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_failure_wins_and_the_rest_is_dropped() {
        let ran = AtomicUsize::new(0);
        let error = run(1, &KINDS, &Cancel::default(), |lanes| {
            for i in 0..100u64 {
                let ran = &ran;
                lanes.submit_ordered(0, i, move |_| {
                    ran.fetch_add(1, Ordering::SeqCst);
                    if i == 3 { Err(Error::new(Kind::Integrity, "three")) } else { Ok(()) }
                });
            }
            Ok(())
        })
        .unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Integrity, "three"));
        assert_eq!(ran.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn a_panic_a_gap_and_a_stop_all_end_it() {
        let none = Cancel::default();
        assert!(
            run(2, &KINDS, &none, |lanes| {
                lanes.submit(1, |_| panic!("x"));
                Ok(())
            })
            .is_err()
        );
        assert!(
            run(2, &KINDS, &none, |lanes| {
                lanes.submit_ordered(0, 1, |_| Ok(()));
                Ok(())
            })
            .is_err()
        );
        let stopped = Cancel::default();
        stopped.cancel();
        let result = run(2, &KINDS, &stopped, |lanes| {
            lanes.submit(1, |_| Ok(()));
            Ok(())
        });
        assert_eq!(result.unwrap_err().kind(), Kind::Interrupted);
        assert_eq!(run(2, &KINDS, &none, |_| Ok(7)).unwrap(), 7);
    }
}
