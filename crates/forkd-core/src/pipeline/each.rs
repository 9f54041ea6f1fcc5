//! The same for each of some things, several at a time: for what waits rather than computes.

use crate::error::{Error, Kind, Result};
use crate::pipeline::mutex::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Does it on so many threads; gives what came of each, in order. After a failure nothing more is begun.
pub(crate) fn for_each_of<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done: Mutex<Vec<Option<R>>> = Mutex::new(items.iter().map(|_| None).collect());
    let run = || {
        while !failed.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { break };
            let outcome = work(item).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            lock(&done)[at] = Some(outcome);
        }
        Ok(())
    };
    let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.clamp(1, items.len().max(1))).map(|_| scope.spawn(run)).collect();
        let panicked = |_| Err(Error::new(Kind::General, "internal error: a worker panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    });
    outcomes.into_iter().collect::<Result<Vec<()>>>()?;
    Ok(done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_done_in_order_and_a_failure_ends_it() {
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(for_each_of(&items, 4, |i| Ok(i * 2)).unwrap()[99], 198);
        let failing = |i: &usize| if *i == 5 { Err(Error::Interrupted) } else { Ok(*i) };
        assert!(for_each_of(&items, 4, failing).is_err());
        assert!(for_each_of(&[] as &[usize], 4, |i| Ok(*i)).unwrap().is_empty());
    }
}
