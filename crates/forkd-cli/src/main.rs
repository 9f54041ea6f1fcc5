//! The `forkd` command: arguments, printing, progress and exit codes. What it does is in the libraries.
#![forbid(unsafe_code)]
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "the help texts of arguments")]

mod command_line;
mod commands;
mod complete;
mod config;
mod context;
mod hub_names;
mod lockfile;
mod narrator;
mod output;
mod place;
mod progress;
mod user_config;

use clap::FromArgMatches;
use clap::error::ErrorKind;
use command_line::{Cli, Command};
use forkd_core::{Cancel, Kind};
use output::{Failure, Format, Printer};
use std::process::ExitCode;

fn main() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(command_line::command).complete();
    let matches = command_line::command().try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let cancel = Cancel::default();
    // The first signal asks for a clean stop; a second one ends the process there and then.
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, cancel.flag());
        let _ = signal_hook::flag::register(signal, cancel.flag());
    }
    let json = cli.json || cli.format.contains(&Format::Json);
    let output = Printer::new(if json { Format::Json } else { Format::Text }, cli.quiet, &cancel);
    let jobs =
        cli.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let mut context = context::Context::new(&output, &cancel, jobs, run_line);
    context.connections = cli.jobs.map(usize::from);
    context.pack_format = cli.format.iter().find_map(|format| format.pack());
    let outcome = match (&cli.command, context.pack_format) {
        (Command::Pack(_) | Command::Push(_), _) | (_, None) => cli.command.run(&context),
        (_, Some(format)) => {
            let message = format!("--format {format} is for pack and push; here it is text or json");
            Err(forkd_core::Error::new(Kind::Usage, message).into())
        }
    };
    match outcome {
        Ok(()) if output.failed() => ExitCode::FAILURE,
        Ok(()) => ExitCode::from(output.exit()),
        // As a program of this host that a pipe's end stops: SIGPIPE.
        Err(_) if output.is_reader_gone() => ExitCode::from(141),
        Err(error) => {
            let failure = failure(&error);
            output.error(&failure);
            ExitCode::from(failure.exit_code)
        }
    }
}

/// Does what a command line says, as if it were typed.
fn run_line(words: &[&str], context: &context::Context<'_>) -> anyhow::Result<()> {
    let matches = command_line::command().try_get_matches_from([&["forkd"], words].concat())?;
    let cli = Cli::from_arg_matches(&matches)?;
    let mut context = context.printing_to(context.output);
    context.pack_format = cli.format.iter().find_map(|format| format.pack());
    cli.command.run(&context)
}

/// A command line that makes no sense, told as every other error. Help and versions are no errors.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    let words: Vec<String> = std::env::args().skip(1).take_while(|word| word != "--").collect();
    let json = words.iter().any(|word| word == "--json" || word == "--format=json")
        || words.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json");
    let text = without_queries(&error.render().to_string());
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
    let (message, hint) = match text.split_once("\n\n") {
        Some((message, hint)) => (message.to_owned(), Some(hint.to_owned())),
        None => (text.clone(), None),
    };
    let failure = Failure { text, kind: Kind::Usage.name(), message, hint, exit_code: 2 };
    Printer::new(if json { Format::Json } else { Format::Text }, false, &Cancel::default()).error(&failure);
    ExitCode::from(failure.exit_code)
}

/// URLs without what may be a secret.
fn without_queries(text: &str) -> String {
    let mut words = text.split_inclusive(|c: char| c.is_whitespace() || c == '\'');
    let cut = |word: &str| match (word.find("://"), word.find('?')) {
        (Some(scheme), Some(query)) if scheme < query => {
            let end = word.find(|c: char| c.is_whitespace() || c == '\'').unwrap_or(word.len());
            format!("{}?…{}", &word[..query], &word[end..])
        }
        _ => word.to_owned(),
    };
    words.by_ref().map(cut).collect()
}

fn failure(error: &anyhow::Error) -> Failure<'static> {
    let known = error.downcast_ref::<forkd_core::Error>();
    Failure {
        text: error.to_string(),
        kind: known.map_or(Kind::General, forkd_core::Error::kind).name(),
        message: known.map_or_else(|| error.to_string(), forkd_core::Error::message),
        hint: known.and_then(forkd_core::Error::guidance).map(str::to_owned),
        exit_code: exit_code(error),
    }
}

/// The exit code of an error, from its kind.
fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<forkd_core::Error>().map(forkd_core::Error::kind) {
        Some(Kind::General) | None => 1,
        Some(Kind::Usage) => 2,
        Some(Kind::NotFound) => 3,
        Some(Kind::Unauthorised) => 4,
        Some(Kind::Transient) => 5,
        Some(Kind::Integrity) => 6,
        Some(Kind::NoSpace) => 7,
        Some(Kind::Incompatible) => 8,
        Some(Kind::Locked) => 11,
        Some(Kind::Interrupted) => 130,
    }
}
