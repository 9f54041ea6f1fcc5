#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;
use forkd_format::paged::FrameHash;
use std::sync::atomic::{AtomicUsize, Ordering};

fn frame(offset: u64) -> StoredFrame {
    StoredFrame { hash: FrameHash::from_bytes([0; 32]), sum: 0, offset, len: 100_000, needs: Box::default() }
}

/// Frames of 100 kB, one behind the other, but for some space behind each tenth.
fn frames(count: usize, space: u64) -> Vec<StoredFrame> {
    let offset = |id: u64| 1000 + id * 100_000 + id / 10 * space;
    (0..count as u64).map(|id| frame(offset(id))).collect()
}

fn queue<'a>(frames: &'a [StoredFrame], connections: usize, demands: &'a Demands) -> FrameQueue<'a> {
    FrameQueue::new(frames, (0..frames.len()).collect(), connections, demands)
}

fn demand(demands: &Demands, ids: &[usize]) {
    demands.push(ids.iter().copied().collect());
}

#[test]
fn each_frame_is_fetched_once_whatever_is_demanded() {
    let (frames, demands) = (frames(500, 0), Demands::default());
    let queue = queue(&frames, 4, &demands);
    let counts: Vec<AtomicUsize> = frames.iter().map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for connection in 0..4 {
            let (queue, counts, demands) = (&queue, &counts, &demands);
            scope.spawn(move || {
                let turn = if connection == 3 { Turn::Demanded } else { Turn::Any };
                while let Some(stretch) = queue.take(connection, (&Pace::new(), turn), || false) {
                    for id in stretch.ids.take_while(|id| queue.begin(connection, *id)) {
                        counts[id].fetch_add(1, Ordering::Relaxed);
                        assert!(queue.arrived(id));
                        if id % 37 == 0 {
                            demand(demands, &[(id * 7 + 450) % 500, (id * 3) % 500]);
                        }
                    }
                }
            });
        }
    });
    assert!(queue.is_done());
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
}

#[test]
fn what_is_demanded_comes_first_and_the_newest_before_the_others() {
    let (frames, demands) = (frames(100, 0), Demands::default());
    let queue = queue(&frames, 2, &demands);
    demand(&demands, &[40, 90]);
    demand(&demands, &[70]);
    let mut starts = Vec::new();
    for turn in [Turn::Any, Turn::Demanded, Turn::Any, Turn::Any] {
        starts.push(queue.take(0, (&Pace::new(), turn), || false).unwrap().ids.start);
    }
    assert_eq!(starts, [70, 40, 90, 0]);
    // What is demanded comes in short stretches.
    demand(&demands, &[20]);
    let stretch = queue.take(1, (&Pace::new(), Turn::Any), || false).unwrap();
    assert_eq!(stretch.ids, 20..22);
    // What is under way already is not asked for again.
    demand(&demands, &[20, 70]);
    assert!(
        queue.take(1, (&Pace::new(), Turn::Demanded), || demands.pop(&BTreeSet::new()).is_none()).is_none()
    );
}

#[test]
fn nothing_but_what_is_demanded_comes_while_that_is_alone() {
    let (frames, demands) = (frames(100, 0), Demands::default());
    let queue = queue(&frames, 1, &demands);
    demands.come_alone();
    demand(&demands, &[50]);
    let take = |tries: &AtomicUsize| {
        let stop = || tries.fetch_add(1, Ordering::Relaxed) > 1;
        queue.take(0, (&Pace::new(), Turn::Any), stop).map(|stretch| stretch.ids.start)
    };
    assert_eq!(take(&AtomicUsize::new(0)), Some(50));
    assert_eq!(take(&AtomicUsize::new(0)), None);
    demands.share();
    assert_eq!(take(&AtomicUsize::new(0)), Some(0));
}

#[test]
fn a_demand_wakes_a_connection_that_waits() {
    let (frames, demands) = (frames(10, 0), Demands::default());
    let queue = queue(&frames, 1, &demands);
    demands.come_alone();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| queue.take(0, (&Pace::new(), Turn::Demanded), || false).unwrap());
        std::thread::sleep(Duration::from_millis(20));
        demand(&demands, &[4]);
        assert_eq!(waits.join().unwrap().ids.start, 4);
    });
}

#[test]
fn a_frame_that_is_late_is_brought_by_another_too() {
    let (frames, demands) = (frames(1, 0), Demands::default());
    let mut queue = queue(&frames, 2, &demands);
    queue.late = Duration::ZERO;
    let take = |connection, stop| queue.take(connection, (&Pace::new(), Turn::Any), || stop);
    assert_eq!(take(0, false).unwrap().ids, 0..1);
    assert!(queue.begin(0, 0));
    assert_eq!(take(1, false).unwrap().ids, 0..1);
    assert!(queue.arrived(0));
    assert!(!queue.arrived(0), "a second time");
    assert!(take(1, false).is_none(), "all is here");
}

#[test]
fn a_slow_connection_gives_up_the_second_half() {
    let (frames, demands) = (frames(30, 0), Demands::default());
    let mut queue = queue(&frames, 2, &demands);
    queue.late = Duration::ZERO;
    let mut pace = Pace::new();
    pace.learn(1 << 30, Duration::from_secs(1));
    let slow = queue.take(0, (&pace, Turn::Any), || false).unwrap().ids;
    let mut ends = vec![slow.clone()];
    while ends.last().unwrap().end < 30 {
        ends.push(queue.take(0, (&pace, Turn::Any), || false).unwrap().ids);
    }
    let slow = ends.last().unwrap().clone();
    assert!(slow.len() >= 3, "{slow:?}");
    let taken = queue.take(1, (&pace, Turn::Any), || false).unwrap().ids;
    assert!(slow.start < taken.start && taken.end == slow.end, "{taken:?} of {slow:?}");
    assert!(queue.begin(0, taken.start - 1));
    assert!(!queue.begin(0, taken.start), "the other one brings it");
}

#[test]
fn short_frames_between_are_fetched_along_and_long_ones_are_not() {
    let (frames, demands) = (frames(30, 1000), Demands::default());
    let wanted: BTreeSet<usize> = (0..30).filter(|id| *id != 5).collect();
    assert_eq!(fetched_bytes(&frames, &wanted), 29 * 100_000 + 2 * 1000);
    let queue = FrameQueue::new(&frames, wanted, 1, &demands);
    let mut pace = Pace::new();
    pace.learn(1 << 30, Duration::from_secs(1));
    let first = queue.take(0, (&pace, Turn::Any), || false).unwrap();
    assert_eq!((first.ids, first.bytes), (0..5, 1000..501_000));
    let second = queue.take(0, (&pace, Turn::Any), || false).unwrap();
    assert!(second.ids.start == 6 && second.ids.end > 10, "{second:?}");
}

#[test]
fn what_comes_unasked_is_claimed_only_where_someone_wants_it() {
    let (frames, demands) = (frames(10, 0), Demands::default());
    let all = queue(&frames, 1, &demands);
    assert_eq!(all.claim(0, 1000 + 3 * 100_000 - 1), 0..2);
    assert_eq!(all.take(0, (&Pace::new(), Turn::Any), || false).unwrap().ids.start, 2);
    let last = FrameQueue::new(&frames, BTreeSet::from([9]), 1, &demands);
    assert_eq!(last.claim(0, 500_000), 0..0);
}

#[test]
fn ranges_are_as_long_as_a_second_and_within_bounds() {
    let mut pace = Pace::new();
    pace.learn(3 << 20, Duration::from_secs(1));
    assert_eq!(pace.next, 3 << 20);
    pace.learn(1, Duration::from_secs(1));
    assert_eq!(pace.next, SHORTEST);
    pace.learn(u64::MAX, Duration::ZERO);
    assert_eq!(pace.next, LONGEST);
    let mut short = Pace::short();
    short.learn(u64::MAX, Duration::ZERO);
    assert_eq!(short.next, 2 * FIRST);
}

#[test]
fn slow_connections_take_less_towards_the_end_and_fast_ones_do_not() {
    let (frames, demands) = (frames(40, 0), Demands::default());
    let slow = Pace { next: 4_000_000, longest: LONGEST };
    let first = queue(&frames, 4, &demands).take(0, (&slow, Turn::Any), || false).unwrap();
    assert_eq!(first.ids, 0..5);
    let fast = Pace { next: LONGEST, longest: LONGEST };
    let first = queue(&frames, 4, &demands).take(0, (&fast, Turn::Any), || false).unwrap();
    assert_eq!(first.ids, 0..40);
}
