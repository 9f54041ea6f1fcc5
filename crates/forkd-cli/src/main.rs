//! The `forkd` command: arguments, printing, progress and exit codes. What it does is in the libraries.
#![forbid(unsafe_code)]
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags, reason = "the help texts of arguments")]

mod commands;
mod config;
mod context;
mod narrator;
mod output;
mod place;
mod progress;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use forkd_core::{Cancel, Kind};
use output::{Failure, Format, Printer};
use std::process::ExitCode;

/// A hub for warm microVM snapshots: bake once, publish anywhere, fork in moments.
#[derive(Debug, Parser)]
#[command(name = "forkd", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// How to print results [default: text]; the format of a pack [default: 1, of a chain 2]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    format: Vec<Format>,
    /// The same as --format json
    #[arg(long, global = true)]
    json: bool,
    /// Threads for hashing, compressing and decoding [default: one a core], and connections of a pull or a push [default: 8, and 12 to pull from far away]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: Option<u16>,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 general, 2 usage, 3 not found, 4 not authorised, 5 transient (try again), \
6 integrity, 7 no space, 8 incompatible host, 11 locked, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Command {
    Pack(commands::pack::PackArgs),
    Unpack(commands::unpack::UnpackArgs),
    Push(commands::push::PushArgs),
    Pull(commands::pull::PullArgs),
    Images(commands::images::ImagesArgs),
    Inspect(commands::inspect::InspectArgs),
    Verify(commands::verify::VerifyArgs),
    Rmi(commands::rmi::RmiArgs),
    Tags(commands::tags::TagsArgs),
    Mirror(commands::mirror::MirrorArgs),
    Hub(commands::hub::HubArgs),
    Login(commands::login::LoginArgs),
    Logout(commands::logout::LogoutArgs),
    Tag(commands::tag::TagArgs),
    Gc(commands::gc::GcArgs),
    Df(commands::df::DfArgs),
    Store(commands::store::StoreArgs),
    Snapshot(commands::snapshot::SnapshotArgs),
    FromImage(commands::from_image::FromImageArgs),
    Bake(commands::bake::BakeArgs),
    SnapshotInfo(commands::snapshot_info::SnapshotInfoArgs),
    SnapshotCompact(commands::snapshot_compact::SnapshotCompactArgs),
    SnapshotDiff(commands::snapshot_diff::SnapshotDiffArgs),
    Record(commands::record::RecordArgs),
    Fork(commands::fork::ForkArgs),
    Ls(commands::ls::LsArgs),
    Exec(commands::exec::ExecArgs),
    Eval(commands::eval::EvalArgs),
    Ping(commands::ping::PingArgs),
    Logs(commands::logs::LogsArgs),
    Cp(commands::cp::CpArgs),
    Kill(commands::kill::KillArgs),
    Doctor(commands::doctor::DoctorArgs),
    Quickstart(commands::quickstart::QuickstartArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
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
        (Command::Pack(_) | Command::Push(_), _) | (_, None) => run(&cli.command, &context),
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

/// Does what a command says.
fn run(command: &Command, context: &context::Context<'_>) -> anyhow::Result<()> {
    match command {
        Command::Pack(args) => commands::pack::run(args, context),
        Command::Unpack(args) => commands::unpack::run(args, context),
        Command::Push(args) => commands::push::run(args, context),
        Command::Pull(args) => commands::pull::run(args, context),
        Command::Images(args) => commands::images::run(args, context),
        Command::Inspect(args) => commands::inspect::run(args, context),
        Command::Verify(args) => commands::verify::run(args, context),
        Command::Rmi(args) => commands::rmi::run(args, context),
        Command::Tags(args) => commands::tags::run(args, context),
        Command::Mirror(args) => commands::mirror::run(args, context),
        Command::Hub(args) => commands::hub::run(args, context),
        Command::Login(args) => commands::login::run(args, context),
        Command::Logout(args) => commands::logout::run(args, context),
        Command::Tag(args) => commands::tag::run(args, context),
        Command::Gc(args) => commands::gc::run(args, context),
        Command::FromImage(args) => commands::from_image::run(args, context),
        Command::Bake(args) => commands::bake::run(args, context),
        Command::Snapshot(args) => commands::snapshot::run(args, context),
        Command::SnapshotInfo(args) => commands::snapshot_info::run(args, context),
        Command::SnapshotCompact(args) => commands::snapshot_compact::run(args, context),
        Command::SnapshotDiff(args) => commands::snapshot_diff::run(args, context),
        Command::Record(args) => commands::record::run(args, context),
        Command::Fork(args) => commands::fork::run(args, context),
        Command::Ls(args) => commands::ls::run(args, context),
        Command::Exec(args) => commands::exec::run(args, context),
        Command::Eval(args) => commands::eval::run(args, context),
        Command::Ping(args) => commands::ping::run(args, context),
        Command::Logs(args) => commands::logs::run(args, context),
        Command::Cp(args) => commands::cp::run(args, context),
        Command::Kill(args) => commands::kill::run(args, context),
        Command::Store(args) => commands::store::run(args, context),
        Command::Df(args) => commands::df::run(args, context),
        Command::Quickstart(args) => commands::quickstart::run(args, context),
        Command::Doctor(args) => commands::doctor::run(args, context),
    }
}

/// Does what a command line says, as if it were typed.
fn run_line(words: &[&str], context: &context::Context<'_>) -> anyhow::Result<()> {
    let cli = Cli::try_parse_from([&["forkd"], words].concat())?;
    let mut context = context.printing_to(context.output);
    context.pack_format = cli.format.iter().find_map(|format| format.pack());
    run(&cli.command, &context)
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_has_an_example() {
        let mut cli = super::Cli::command();
        cli.build();
        for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example"), "{}", command.get_name());
        }
        cli.debug_assert();
    }
}
