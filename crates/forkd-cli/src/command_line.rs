//! The command line: all commands, by what people do with them.

use crate::commands;
use crate::context::Context;
use crate::output::Format;
use clap::{CommandFactory, Parser, Subcommand};
use std::fmt::Write;

/// A hub for warm microVM snapshots: bake once, publish anywhere, fork in moments.
#[derive(Debug, Parser)]
#[command(name = "forkd", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print errors only
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// How to print results [default: text]; the format of a pack [default: 1, of a chain 2]
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) format: Vec<Format>,
    /// The same as --format json
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Threads for hashing, compressing and decoding [default: one a core], and connections of a pull or a push [default: 8, and 12 to pull from far away]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: Option<u16>,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 general, 2 usage, 3 not found, 4 not authorised, 5 transient (try again), \
6 integrity, 7 no space, 8 incompatible host, 11 locked, 130 interrupted.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Pack(commands::pack::PackArgs),
    Unpack(commands::unpack::UnpackArgs),
    Search(commands::search::SearchArgs),
    Show(commands::show::ShowArgs),
    Update(commands::update::UpdateArgs),
    Lock(commands::lock::LockArgs),
    Publish(commands::publish::PublishArgs),
    Unpublish(commands::unpublish::UnpublishArgs),
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
    Run(commands::run::RunArgs),
    Completions(commands::completions::CompletionsArgs),
    Man(commands::man::ManArgs),
}

/// What people do, and with which commands; in help in this order.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Begin here", &["quickstart", "doctor"]),
    ("Find and fetch snapshots", &["search", "show", "pull", "update", "lock", "unpack"]),
    (
        "Fork them and work in the children",
        &["run", "fork", "ls", "exec", "eval", "cp", "logs", "ping", "kill"],
    ),
    ("Keep them", &["images", "inspect", "verify", "tag", "rmi", "gc", "df", "store"]),
    (
        "Make them",
        &[
            "bake",
            "from-image",
            "snapshot",
            "snapshot-diff",
            "snapshot-info",
            "snapshot-compact",
            "record",
            "pack",
        ],
    ),
    (
        "Publish them and look after hubs",
        &["publish", "unpublish", "push", "tags", "mirror", "hub", "login", "logout"],
    ),
    ("Set up this shell", &["completions", "man"]),
];

/// The command line as it is parsed, completed and explained.
pub(crate) fn command() -> clap::Command {
    let command = Cli::command();
    let mut groups = String::new();
    for (heading, names) in GROUPS {
        let _ = writeln!(groups, "{heading}:");
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(groups, "  {name:<17} {about}");
        }
        groups.push('\n');
    }
    let template =
        format!("{{about}}\n\n{{usage-heading}} {{usage}}\n\n{groups}Options:\n{{options}}{{after-help}}");
    command.help_template(template)
}

impl Command {
    /// Does what it says.
    pub(crate) fn run(&self, context: &Context<'_>) -> anyhow::Result<()> {
        match self {
            Self::Pack(args) => commands::pack::run(args, context),
            Self::Unpack(args) => commands::unpack::run(args, context),
            Self::Search(args) => commands::search::run(args, context),
            Self::Show(args) => commands::show::run(args, context),
            Self::Lock(args) => commands::lock::run(args, context),
            Self::Update(args) => commands::update::run(args, context),
            Self::Publish(args) => commands::publish::run(args, context),
            Self::Unpublish(args) => commands::unpublish::run(args, context),
            Self::Push(args) => commands::push::run(args, context),
            Self::Pull(args) => commands::pull::run(args, context),
            Self::Images(args) => commands::images::run(args, context),
            Self::Inspect(args) => commands::inspect::run(args, context),
            Self::Verify(args) => commands::verify::run(args, context),
            Self::Rmi(args) => commands::rmi::run(args, context),
            Self::Tags(args) => commands::tags::run(args, context),
            Self::Mirror(args) => commands::mirror::run(args, context),
            Self::Hub(args) => commands::hub::run(args, context),
            Self::Login(args) => commands::login::run(args, context),
            Self::Logout(args) => commands::logout::run(args, context),
            Self::Tag(args) => commands::tag::run(args, context),
            Self::Gc(args) => commands::gc::run(args, context),
            Self::FromImage(args) => commands::from_image::run(args, context),
            Self::Bake(args) => commands::bake::run(args, context),
            Self::Snapshot(args) => commands::snapshot::run(args, context),
            Self::SnapshotInfo(args) => commands::snapshot_info::run(args, context),
            Self::SnapshotCompact(args) => commands::snapshot_compact::run(args, context),
            Self::SnapshotDiff(args) => commands::snapshot_diff::run(args, context),
            Self::Record(args) => commands::record::run(args, context),
            Self::Fork(args) => commands::fork::run(args, context),
            Self::Ls(args) => commands::ls::run(args, context),
            Self::Exec(args) => commands::exec::run(args, context),
            Self::Eval(args) => commands::eval::run(args, context),
            Self::Ping(args) => commands::ping::run(args, context),
            Self::Logs(args) => commands::logs::run(args, context),
            Self::Cp(args) => commands::cp::run(args, context),
            Self::Kill(args) => commands::kill::run(args, context),
            Self::Store(args) => commands::store::run(args, context),
            Self::Df(args) => commands::df::run(args, context),
            Self::Quickstart(args) => commands::quickstart::run(args, context),
            Self::Doctor(args) => commands::doctor::run(args, context),
            Self::Run(args) => commands::run::run(args, context),
            Self::Completions(args) => commands::completions::run(args, context),
            Self::Man(args) => commands::man::run(args, context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_an_example() {
        let mut cli = command();
        cli.build();
        for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("Example"), "{}", command.get_name());
        }
        cli.debug_assert();
    }

    #[test]
    fn every_command_is_in_one_group() {
        let command = Cli::command();
        let mut named: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut all: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        named.sort_unstable();
        all.sort_unstable();
        assert_eq!(named, all);
    }
}
