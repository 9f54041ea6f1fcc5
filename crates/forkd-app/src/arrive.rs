//! Snapshots that are forked before all of them is here: a process of their own fetches and serves each.

use crate::app::App;
use crate::pull::{PullRequest, PullSource};
use forkd_core::arrival::{ArrivalPorts, ArrivalServer, ArrivingSnapshot, Lease, arriving};
use forkd_core::{Env, Error, Kind, PullReport, Result};
use forkd_format::Tag;
use forkd_mount::FuseMounter;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// A program that runs [`App::serve_arrival`] and prints what it is told, each in a line of its own.
#[derive(Debug, Clone)]
pub struct ArrivalProgram {
    pub program: PathBuf,
    pub args: Vec<std::ffi::OsString>,
}

/// What that program prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrivalWord {
    /// The snapshot can be forked.
    Ready(ArrivingSnapshot),
    /// All of it is here, under this tag.
    Whole(Tag),
    Failed {
        kind: Kind,
        message: String,
    },
}

/// What can be forked.
#[derive(Debug, Clone)]
pub enum ForkSource {
    /// A snapshot in the store.
    Whole(Tag),
    /// One whose first pages are here.
    Arriving(ArrivingSnapshot, Lease),
}

/// Listens to that program.
struct ArrivalWords {
    lines: Receiver<std::io::Result<String>>,
    name: String,
}

impl ArrivalWords {
    fn of(child: &mut Child, name: &str) -> Result<Self> {
        let (send, lines) = std::sync::mpsc::channel();
        let words = Self { lines, name: name.to_owned() };
        let out = child.stdout.take().ok_or_else(|| words.ended())?;
        std::thread::spawn(move || BufReader::new(out).lines().try_for_each(|line| send.send(line)));
        Ok(words)
    }

    /// `None` where nothing is said for a moment.
    fn next(&self) -> Result<Option<ArrivalWord>> {
        let line = match self.lines.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => line.map_err(|_| self.ended())?,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
        };
        serde_json::from_str(&line).map(Some).map_err(|_| self.ended())
    }

    fn ended(&self) -> Error {
        Error::new(Kind::General, format!("the process that fetches {} has ended", self.name))
    }
}

impl PullSource {
    /// What was asked for, without secrets.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Url(location) => location.to_string(),
            Self::Name(reference, _) => reference.to_string(),
            // As what is pulled is recorded.
            Self::Release(place) => place.recorded(),
            Self::Locked { package, .. } => package.reference.clone(),
        }
    }
}

impl App<'_> {
    /// Makes a snapshot ready to be forked, from a hub if it is not here; the rest of it comes while it is used. Where this host cannot show
    /// files before they are here, all of it is pulled.
    ///
    /// # Errors
    /// As [`App::pull`].
    pub fn arrive(&self, request: &PullRequest, program: &ArrivalProgram) -> Result<ForkSource> {
        let name = request.source.name();
        if let Some(tag) = self.pulled_as(&name)? {
            return Ok(ForkSource::Whole(tag));
        }
        if let Some((snapshot, lease)) = self.fetched(&name) {
            return Ok(ForkSource::Arriving(snapshot, lease));
        }
        if let Err(error) = FuseMounter::probe() {
            self.env.progress.note(&format!("{error}; pulling all of {name} first"));
            return Ok(ForkSource::Whole(self.pull(request)?.unpack.head));
        }
        let mut command = Command::new(&program.program);
        command.args(&program.args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        forkd_mount::in_background(&mut command);
        let mut child = command.spawn().map_err(Error::io("start", &program.program))?;
        let found = self.listen(&mut child, &name);
        if found.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        found
    }

    /// Listens to the program until it says what became of the snapshot.
    fn listen(&self, child: &mut Child, name: &str) -> Result<ForkSource> {
        let words = ArrivalWords::of(child, name)?;
        loop {
            match words.next()? {
                Some(ArrivalWord::Whole(tag)) => return Ok(ForkSource::Whole(tag)),
                Some(ArrivalWord::Failed { kind, message }) => {
                    return Err(Error::new(kind, message));
                }
                // Where it is ready and not to be found it was whole, or failed, before we came: that is what it says next. Where it says
                // nothing it may wait for another one that was quicker.
                Some(ArrivalWord::Ready(_)) | None => {
                    self.env.cancel.check()?;
                    if let Some((snapshot, lease)) = self.fetched(name) {
                        if lease.server != child.id() {
                            let _ = child.kill();
                            let _ = child.wait();
                        }
                        return Ok(ForkSource::Arriving(snapshot, lease));
                    }
                }
            }
        }
    }

    /// What is arriving under a name, where someone is fetching it.
    pub(crate) fn arriving_as(&self, name: &str) -> Option<ArrivingSnapshot> {
        let found = arriving(&self.settings.store);
        found.into_iter().find(|snapshot| snapshot.name == name && snapshot.fetched)
    }

    /// The same, and the right to read it.
    fn fetched(&self, name: &str) -> Option<(ArrivingSnapshot, Lease)> {
        let snapshot = self.arriving_as(name)?;
        let lease = Lease::of(&snapshot).ok()?;
        Some((snapshot, lease))
    }

    /// The tag of a snapshot that was pulled under a name.
    fn pulled_as(&self, name: &str) -> Result<Option<Tag>> {
        let store = &self.settings.store;
        let is_it = |tag: &Tag| {
            let source = store.load(tag).ok().and_then(|stored| stored.record)?.source?;
            (source.name == name && source.head.is_none_or(|head| head == *tag)).then_some(())
        };
        Ok(store.tags()?.into_iter().find(|tag| is_it(tag).is_some()))
    }

    /// Fetches a snapshot and serves it until it is whole and nobody needs it served any more. `tell` is told what happens; `guard` runs
    /// [`forkd_core::arrival::guard`] on what it reads.
    ///
    /// # Errors
    /// As [`App::pull`].
    pub fn serve_arrival(
        &self,
        request: &PullRequest,
        guard: &ArrivalProgram,
        tell: &'static (dyn Fn(&ArrivalWord) + Send + Sync),
    ) -> Result<PullReport> {
        let settings = self.settings;
        let cancel = self.env.cancel.child();
        let mut command = Command::new(&guard.program);
        command.args(&guard.args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        forkd_mount::in_background(&mut command);
        // Without it children are as good, as long as nobody kills this process.
        let hears = command.spawn().ok().and_then(|mut guard| guard.stdin.take());
        let hears = hears.map(|pipe| Box::new(pipe) as Box<dyn Write + Send>);
        let ports = ArrivalPorts {
            mounter: Box::new(FuseMounter),
            cancel: cancel.clone(),
            guard: hears.unwrap_or_else(|| Box::new(std::io::sink())),
            ready: Box::new(|snapshot| tell(&ArrivalWord::Ready(snapshot.clone()))),
        };
        let server = ArrivalServer::new(settings.store.clone(), ports, request.source.name());
        let env = Env { cancel: &cancel, ..self.env };
        let outcome = self.with_pull(request, Some(&server), |remote, options| {
            forkd_core::pull(&settings.store, remote, options, env)
        });
        match &outcome {
            Ok(report) => tell(&ArrivalWord::Whole(report.unpack.head.clone())),
            Err(error) => tell(&ArrivalWord::Failed { kind: error.kind(), message: error.to_string() }),
        }
        server.wait();
        outcome
    }
}
