//! A server that was started, and its log.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with this value.
pub(super) struct ServerProcess {
    child: Child,
    log: PathBuf,
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ServerProcess {
    pub(super) fn start(command: &mut Command, log: &Path) -> Self {
        let output = || Stdio::from(File::options().create(true).append(true).open(log).unwrap());
        let child = command.stdin(Stdio::null()).stdout(output()).stderr(output()).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    /// Waits until something listens there, and `ready` says so.
    pub(super) fn wait(&mut self, port: u16, ready: impl Fn() -> bool) {
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() || !ready() {
            let ended = self.child.try_wait().unwrap();
            let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(ended.is_none() && begun.elapsed() < PATIENCE, "{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A port that is free now.
pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A port below those that connections take for themselves, which is free now, as is the one 10,000 above it.
pub(super) fn free_pair() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add((std::process::id() * 37) as u16);
        let port = 12_000 + number % 9_000;
        if free(port) && free(port + 10_000) {
            return port;
        }
    }
}

/// Whether a program is there.
pub(super) fn is_there(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success())
}
