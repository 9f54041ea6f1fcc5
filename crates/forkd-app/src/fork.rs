//! Children, and what is done in each.

use crate::app::App;
use crate::guest_eval::eval;
use crate::lines::{KeptOutput, Lines};
use crate::machines::Machines;
use crate::narrator::{Event, Speaker};
use forkd_core::arrival::Lease;
use forkd_core::machine::{self, Child, Exec, ForkOptions, Guest, Limits, Stream, Streams};
use forkd_core::{Error, Kind, Result};
use forkd_format::Tag;
use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What to fork, and what for.
#[derive(Debug, Clone)]
pub struct ForkRequest {
    pub tag: Tag,
    pub count: usize,
    /// What they may have.
    pub limits: Limits,
    /// Where the snapshot is arriving: the right to read it.
    pub lease: Option<Lease>,
    pub work: ChildWork,
    /// For the work.
    pub time_limit: Option<Duration>,
    /// Whether a program's output is kept for the report; else the narrator hears it.
    pub keep_output: bool,
    /// For so long the children run on after their work.
    pub settle: Duration,
}

/// What is done in a child, as soon as it is awake.
#[derive(Debug, Clone)]
pub enum ChildWork {
    None,
    /// Its eval endpoint is asked.
    Eval(String),
    /// A program is run: its name and arguments.
    Program(Vec<String>),
}

/// What was forked.
#[derive(Debug, Clone, Serialize)]
pub struct ForkReport {
    pub tag: Tag,
    /// By number.
    pub children: Vec<ChildReport>,
    /// Time until the work was done in all of them.
    #[serde(rename = "seconds", serialize_with = "forkd_core::json::seconds")]
    pub time: Duration,
}

impl ForkReport {
    /// The worst of the programs' exit codes.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.children.iter().filter_map(|child| child.exit_code).max().unwrap_or(0)
    }
}

/// What became of a child.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ChildReport {
    /// From 1.
    #[serde(rename = "child")]
    pub number: usize,
    pub id: String,
    pub pid: u32,
    /// From the start of its process until it was awake, had answered, or its program had ended.
    #[serde(rename = "seconds", serialize_with = "forkd_core::json::seconds")]
    pub time: Duration,
    /// That of its eval endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// As a shell has it; 124 at the time limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
    /// Whether its program was killed at the time limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timed_out: Option<bool>,
    /// Where output is kept: what its program printed, up to a MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// The same of its other stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
}

impl App<'_> {
    /// Forks a snapshot, does the work in every child, and ends the children or lets them live on detached.
    ///
    /// # Errors
    /// As [`machine::fork`], and where the work fails in a child. No child is left then.
    pub fn fork(&self, request: &ForkRequest) -> Result<ForkReport> {
        let settings = self.settings;
        if request.lease.is_none() {
            settings.store.load(&request.tag)?;
        }
        let machines = Machines::open(settings.search_path.as_deref(), &settings.runtime_dir)?;
        let lease = request.lease.clone();
        let options =
            ForkOptions { tag: request.tag.clone(), count: request.count, limits: request.limits, lease };
        let begun = Instant::now();
        let reports: Mutex<Vec<ChildReport>> = Mutex::default();
        let work = |child: &Child, guest: &mut Guest| {
            let report = self.work(request, child, guest)?;
            reports.lock().unwrap_or_else(PoisonError::into_inner).push(report);
            Ok(())
        };
        let (engine, runtime) = (&machines.engine, &machines.runtime);
        let mut children = machine::fork(&settings.store, engine, runtime, &options, self.env, &work)
            .map_err(|e| match e.kind() {
                Kind::Interrupted => Error::new(Kind::Interrupted, "interrupted; no child is left"),
                _ => e,
            })?;
        let time = begun.elapsed();
        let until = Instant::now() + request.settle;
        while Instant::now() < until {
            self.env.cancel.check()?;
            std::thread::sleep(Duration::from_millis(20));
            children.iter_mut().try_for_each(Child::check_alive)?;
        }
        if request.limits.detached {
            children.into_iter().try_for_each(|child| child.detach().map(drop))?;
        }
        let mut children = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
        children.sort_by_key(|child| child.number);
        Ok(ForkReport { tag: request.tag.clone(), children, time })
    }

    fn work(&self, request: &ForkRequest, child: &Child, guest: &mut Guest) -> Result<ChildReport> {
        let (number, begun) = (child.number, Instant::now());
        for warning in &child.warnings {
            self.env.progress.note(&format!("child {number}: {warning}"));
        }
        let mut report = ChildReport {
            number,
            id: child.id.clone(),
            pid: child.pid(),
            time: child.time,
            ..ChildReport::default()
        };
        match &request.work {
            ChildWork::None => {
                let (id, time) = (child.id.as_str(), child.time);
                self.narrator.tell(&Event::ChildReady { number, id, time });
            }
            ChildWork::Eval(expression) => {
                let answer = eval(guest, expression, request.time_limit)?;
                report.time += begun.elapsed();
                self.narrator.tell(&Event::ChildAnswered { number, answer: &answer, time: report.time });
                report.answer = Some(answer);
            }
            ChildWork::Program(argv) => {
                self.run_program(argv, request, guest, &mut report)?;
                report.time += begun.elapsed();
                self.narrator.tell(&Event::ChildEnded {
                    number,
                    exit_code: report.exit_code.unwrap_or_default(),
                    timed_out: report.timed_out.unwrap_or_default(),
                    time: report.time,
                });
            }
        }
        Ok(report)
    }

    fn run_program(
        &self,
        argv: &[String],
        request: &ForkRequest,
        guest: &mut Guest,
        report: &mut ChildReport,
    ) -> Result<()> {
        let speaker = Speaker::Child(report.number);
        let hear = |stream, line: &[u8]| self.narrator.hear(speaker, stream, line);
        let lines = Lines::new(&hear);
        let mut kept = KeptOutput::default();
        let mut output = |stream: Stream, bytes: &[u8]| {
            if request.keep_output {
                kept.push(stream, bytes);
            } else {
                lines.push(stream, bytes);
            }
            Ok(())
        };
        let exec = Exec {
            argv: argv.to_vec(),
            limit_ms: request.time_limit.map_or(0, |limit| limit.as_millis() as u64),
            ..Exec::default()
        };
        let exit = guest.exec(&exec, &mut Streams { input: None, output: &mut output, controls: None })?;
        lines.finish();
        report.exit_code = Some(exit.shell_code());
        report.timed_out = Some(exit.timed_out);
        if request.keep_output {
            let [out, err] = kept.texts();
            (report.stdout, report.stderr) = (Some(out), Some(err));
        }
        Ok(())
    }
}
