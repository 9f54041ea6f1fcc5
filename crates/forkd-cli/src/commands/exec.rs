use crate::config;
use crate::context::Context;
use crate::narrator::pass_on;
use anyhow::Result;
use forkd_app::Machines;
use forkd_core::machine::{Control, Exec, Exit, Guest, Stream, Streams};
use forkd_core::{Error, Kind};
use rustix::termios::{self, OptionalActions, Termios};
use serde::Serialize;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

/// Run a program in a child
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Its exit code is ours: 126 and 127 where it cannot be run or found, 128 and the signal's number where one ended \
                  it, 124 at --timeout-secs.\n\nExamples:\n  forkd exec 3fa1c9e2 -- python3 -c 'print(6 * 7)'\n  forkd exec -it 3fa1c9e2 -- sh"
)]
pub(crate) struct ExecArgs {
    /// The child: its name, or the beginning of it
    id: String,
    /// Hand our standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Its working folder [default: the image's, else /]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Who runs it: a name or number, and a group's after a colon [default: the image's user, else root]
    #[arg(short, long, value_name = "USER", default_value = "", hide_default_value = true)]
    user: String,
    /// Kill it after so long
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u32).range(1..))]
    timeout_secs: Option<u32>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

#[derive(Serialize)]
struct ExecAnswer<'a> {
    id: &'a str,
    exit_code: u8,
    timed_out: bool,
}

pub(crate) fn run(args: &ExecArgs, context: &Context<'_>) -> Result<()> {
    if let Some(wrong) = args.env.iter().find(|text| !text.contains('=')) {
        return Err(Error::new(Kind::Usage, format!("--env: '{wrong}' is not NAME=VALUE")).into());
    }
    let size = termios::tcgetwinsize(std::io::stdout()).or_else(|_| termios::tcgetwinsize(std::io::stdin()));
    let exec = Exec {
        argv: args.command.clone(),
        env: args.env.clone(),
        cwd: args.workdir.clone().unwrap_or_default(),
        user: args.user.clone(),
        terminal: args.tty.then(|| size.map_or((24, 80), |size| (size.ws_row, size.ws_col))),
        limit_ms: args.timeout_secs.map_or(0, |secs| u64::from(secs) * 1000),
        input: args.interactive,
    };
    let machines = Machines::running(&config::runtime_dir());
    let child = machines.child(&args.id)?;
    let mut guest = machines.talk(&child, context.env())?;
    let raw = (args.tty && args.interactive).then(Raw::enter).flatten();
    let exit = converse(&mut guest, &exec, args, context);
    drop(raw);
    let exit = exit.map_err(|e| Machines::explain(&child, e))?;
    context.output.exit_with(exit.shell_code());
    if exit.timed_out {
        context.env().progress.note("killed at its time limit");
    }
    context.output.json(&ExecAnswer {
        id: &args.id,
        exit_code: exit.shell_code(),
        timed_out: exit.timed_out,
    });
    Ok(())
}

fn converse(
    guest: &mut Guest,
    exec: &Exec,
    args: &ExecArgs,
    context: &Context<'_>,
) -> forkd_core::Result<Exit> {
    let (sender, controls) = mpsc::channel();
    if args.tty {
        let resized = Arc::new(AtomicBool::new(false));
        let _ = signal_hook::flag::register(signal_hook::consts::SIGWINCH, Arc::clone(&resized));
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(std::time::Duration::from_millis(100));
                if resized.swap(false, Ordering::Relaxed)
                    && let Ok(size) = termios::tcgetwinsize(std::io::stdout())
                    && sender.send(Control::Resize(size.ws_row, size.ws_col)).is_err()
                {
                    return;
                }
            }
        });
    }
    let input: Option<Box<dyn Read + Send>> =
        if args.interactive { Some(Box::new(std::io::stdin())) } else { None };
    // The program's output is not a JSON document's: with --json it goes to standard error.
    let json = context.output.is_json();
    let mut output = |stream, bytes: &[u8]| {
        let stream = if json { Stream::Err } else { stream };
        match pass_on(stream, bytes) {
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => {
                context.output.reader_has_gone();
                Ok(())
            }
            Err(e) => Err(Error::new(Kind::General, format!("cannot print: {e}"))),
            Ok(()) => Ok(()),
        }
    };
    guest.exec(exec, &mut Streams { input, output: &mut output, controls: Some(&controls) })
}

/// Our terminal, handing on every key; as it was before when this ends.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Self> {
        let before = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
