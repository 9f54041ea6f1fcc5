//! Ends the machines of an arriving snapshot where whoever serves their files is killed: they could only hang, or fail at random.

use crate::arrival::protocol::Word;
use crate::error::Kind;
use crate::machine::run_dir::{ALIVE, is_held};
use crate::machine::stopped;
use std::io::BufRead;

/// Hears which machines read the files, a line of JSON each, and ends those that live when no more can come. Whoever serves the files ends
/// after the last of them, if nothing ends it before.
pub fn guard(words: impl BufRead) {
    let mut machines = Vec::new();
    for line in words.lines().map_while(Result::ok) {
        if let Ok(Word::Child { pid, run }) = serde_json::from_str(&line) {
            machines.push((pid, run));
        }
    }
    for (pid, run) in machines {
        // The lock is the machine's: without it the number may be another process's by now.
        if is_held(&run.join(ALIVE)) {
            stopped::note(&run, Kind::Transient, "the process that served its files has ended");
            let _ = forkd_sys::kill(pid);
        }
    }
}
