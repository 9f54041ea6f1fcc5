//! What is said between whoever serves an arriving snapshot and whoever forks it: lines of JSON over a socket in the download's folder.

use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The socket of whoever serves it.
pub(crate) const SOCKET: &str = "serve";

/// What a server says first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The folder in which the files are shown.
    pub(crate) dir: PathBuf,
    /// Whoever serves.
    pub(crate) pid: u32,
    /// Bytes of the pack that had to come for what was read so far, head and front included.
    pub(crate) needed: u64,
}

/// What a client says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// A machine reads the files.
    Child { pid: u32, run: PathBuf },
    /// Nobody wants the snapshot any more.
    Stop,
}

/// Connects to whoever serves what arrives in a folder.
pub(crate) fn ask(work: &Path) -> std::io::Result<(UnixStream, Hello)> {
    let stream = forkd_sys::connect(&work.join(SOCKET))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    Ok((stream, serde_json::from_str(&line)?))
}

pub(crate) fn say(mut stream: &UnixStream, word: &Word) -> std::io::Result<()> {
    stream.write_all(format!("{}\n", serde_json::to_string(word)?).as_bytes())
}
