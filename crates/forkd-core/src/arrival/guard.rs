//! Ends the machines of an arriving snapshot where whoever serves their files is killed: they could only hang, or fail at random.

use crate::arrival::protocol::Word;
use crate::error::Kind;
use crate::machine::stopped;
use std::io::BufRead;

/// Hears which machines read the files, a line of JSON each, and ends those that live when no more can come. Whoever serves the files ends
/// after the last of them, if nothing ends it before.
pub fn guard(words: impl BufRead) {
    let mut machines = Vec::new();
    for line in words.lines().map_while(Result::ok) {
        if let Ok(Word::Child { pid, run }) = serde_json::from_str(&line) {
            machines.retain(|(process, _): &(forkd_sys::Process, _)| process.is_alive());
            machines.extend(forkd_sys::Process::open(pid).map(|process| (process, run)));
        }
    }
    for (process, run) in machines {
        if process.is_alive() {
            stopped::note(&run, Kind::Transient, "the process that served its files has ended");
            process.kill();
        }
    }
}
