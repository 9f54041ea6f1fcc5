//! Whoever fetches an arriving snapshot serves it: files to machines, leases to those who start them.

use crate::arrival::arriving::{ArrivalReader, Failure};
use crate::arrival::begin::Arrivals;
use crate::arrival::note::ArrivingSnapshot;
use crate::arrival::protocol::{Hello, SOCKET, Word};
use crate::env::Cancel;
use crate::error::{Error, Result};
use crate::machine::stopped;
use crate::mount::{Mount, Mounter, PageReader};
use crate::pipeline::mutex::lock;
use crate::store::arrival_note::{ArrivalNote, note_stopped};
use crate::store::root::Store;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// What a server works with.
pub struct ArrivalPorts {
    /// Shows its files.
    pub mounter: Box<dyn Mounter>,
    /// Stops the pull that it is told of.
    pub cancel: Cancel,
    /// Where [`crate::arrival::guard`] hears.
    pub guard: Box<dyn Write + Send>,
    /// Told when the snapshot can be forked.
    pub ready: Box<dyn Fn(&ArrivingSnapshot) + Send + Sync>,
}

impl std::fmt::Debug for ArrivalPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArrivalPorts").finish_non_exhaustive()
    }
}

/// Serves one arriving snapshot.
pub struct ArrivalServer {
    store: Store,
    mounter: Box<dyn Mounter>,
    /// What was asked for, without secrets.
    name: String,
    /// Told when it can be forked.
    ready: Box<dyn Fn(&ArrivingSnapshot) + Send + Sync>,
    shared: Arc<ServerState>,
    mount: Mutex<Option<Box<dyn Mount>>>,
}

struct ServerState {
    leases: Mutex<Leases>,
    changed: Condvar,
    /// Stops the pull.
    cancel: Cancel,
    /// Hears of the machines, and ends them where this process is killed.
    guard: Mutex<Box<dyn Write + Send>>,
}

#[derive(Debug, Default)]
struct Leases {
    count: usize,
    /// Process and folder of each machine.
    children: Vec<(u32, PathBuf)>,
}

impl std::fmt::Debug for ArrivalServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArrivalServer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl ArrivalServer {
    /// `name` is what was asked for, without secrets.
    #[must_use]
    pub fn new(store: Store, ports: ArrivalPorts, name: String) -> Self {
        let ArrivalPorts { mounter, cancel, guard, ready } = ports;
        let shared = ServerState {
            leases: Mutex::default(),
            changed: Condvar::new(),
            cancel,
            guard: Mutex::new(guard),
        };
        Self { store, mounter, name, ready, shared: Arc::new(shared), mount: Mutex::new(None) }
    }

    /// Waits until nobody has a lease any more.
    pub fn wait(&self) {
        let mut leases = lock(&self.shared.leases);
        while leases.count > 0 {
            leases = self.shared.changed.wait(leases).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Arrivals for ArrivalServer {
    fn begun(&self, arriving: Arc<ArrivalReader>, work: &Path) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let _ = arriving.stop.set(Box::new(move |reader, failure| shared.stop(reader, failure)));
        let header = &arriving.pack.header;
        let note = ArrivalNote {
            tag: arriving.tag.clone(),
            name: self.name.clone(),
            total: header.data_end(),
            frames: header.frames() as u64,
            stopped: None,
        };
        let files = arriving.files();
        let mount = self.mounter.mount(files, Arc::clone(&arriving) as Arc<dyn PageReader>)?;
        let dir = mount.dir().to_owned();
        *lock(&self.mount) = Some(mount);
        let socket = work.join(SOCKET);
        let _ = std::fs::remove_file(&socket);
        let listener = forkd_sys::listen(&socket).map_err(Error::io("create", &socket))?;
        let hello = move || {
            let pid = std::process::id();
            let hello = Hello { dir: dir.clone(), pid, needed: arriving.needed.load(Ordering::Relaxed) };
            format!("{}\n", serde_json::to_string(&hello).unwrap_or_default())
        };
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || serve(&listener, &hello, &shared));
        note.write(&self.store, work)?;
        (self.ready)(&ArrivingSnapshot { fetched: true, ..ArrivingSnapshot::new(note, work.to_owned()) });
        Ok(())
    }

    fn stopped(&self, work: &Path, error: &Error) {
        // A disk that is full has no room for it either.
        let _ = note_stopped(&self.store, work, error.to_string().chars().take(1000).collect());
    }
}

fn serve(listener: &UnixListener, hello: &dyn Fn() -> String, shared: &Arc<ServerState>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        lock(&shared.leases).count += 1;
        let (shared, hello) = (Arc::clone(shared), hello());
        std::thread::spawn(move || {
            let _ = hear(&stream, &hello, &shared);
            lock(&shared.leases).count -= 1;
            shared.changed.notify_all();
        });
    }
}

/// Hears a client out, until it and all its machines have ended.
fn hear(mut stream: &UnixStream, hello: &str, shared: &ServerState) -> std::io::Result<()> {
    stream.write_all(hello.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        match serde_json::from_str(&line) {
            Ok(Word::Child { pid, run }) => {
                // A guard that has ended is missed by nobody but those whose server is killed too.
                let _ = lock(&shared.guard).write_all(format!("{line}\n").as_bytes());
                lock(&shared.leases).children.push((pid, run));
            }
            Ok(Word::Stop) => shared.cancel.cancel(),
            Err(_) => break,
        }
    }
    Ok(())
}

impl ServerState {
    /// Ends the machine that reads what never comes, and says why in its folder.
    fn stop(&self, reader: u32, failure: &Failure) {
        let process = forkd_sys::process_of(reader).unwrap_or(reader);
        let leases = lock(&self.leases);
        if let Some((pid, run)) = leases.children.iter().find(|(pid, _)| *pid == process) {
            stopped::note(run, failure.kind, &failure.message);
            let _ = forkd_sys::kill(*pid);
        }
    }
}
