//! Commands that a guest's shell runs.

use crate::error::{Error, Kind, Result};
use crate::machine::guest::Guest;
use crate::machine::program::{Stream, Streams};
use forkd_agent::message::Exec;

/// Fails where the guest cannot run commands of the user's.
pub(crate) fn require_shell(guest: &mut Guest) -> Result<()> {
    let mut ignore = |_, _: &[u8]| Ok(());
    let exec = Exec { user: "root".into(), cwd: "/".into(), ..shell(":") };
    match guest.exec(&exec, &mut Streams { input: None, output: &mut ignore, controls: None })?.code {
        0 => Ok(()),
        _ => Err(Error::new(
            Kind::Usage,
            "the guest has no shell (/bin/sh) that runs, so it can be given no commands: bake it without any, or from an image \
             that has one",
        )),
    }
}

pub(crate) fn shell(command: &str) -> Exec {
    let argv = ["/bin/sh", "-c", command].map(str::to_owned).to_vec();
    Exec { argv, ..Exec::default() }
}

/// Runs a command of the user's in the guest, by its shell; it must succeed.
pub(crate) fn run_command(
    guest: &mut Guest,
    what: &str,
    command: &str,
    user: &str,
    output: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
) -> Result<()> {
    run(guest, what, command, &Exec { user: user.to_owned(), ..shell(command) }, output)
}

/// The same as root, in the root folder, whatever the image says.
pub(crate) fn run_as_root(
    guest: &mut Guest,
    what: &str,
    command: &str,
    env: &[String],
    output: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
) -> Result<()> {
    let exec = Exec { user: "root".into(), cwd: "/".into(), env: env.to_vec(), ..shell(command) };
    run(guest, what, command, &exec, output)
}

pub(crate) fn run(
    guest: &mut Guest,
    what: &str,
    command: &str,
    exec: &Exec,
    output: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
) -> Result<()> {
    let exit = guest.exec(exec, &mut Streams { input: None, output, controls: None })?;
    match exit.code {
        0 => Ok(()),
        code => Err(Error::new(
            Kind::General,
            format!("the {what} command ended with exit code {code}: {command}"),
        )),
    }
}
