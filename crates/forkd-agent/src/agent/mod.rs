//! Started as `/init` of the initramfs it mounts the guest's disk and starts itself anew from there, with `serve`; as
//! `eval EXPRESSION` it is a client of the eval endpoint, for scripts in the guest.

mod applet;
mod boot;
mod children;
mod console;
mod eval;
mod exec;
mod file;
mod forked;
mod freezer;
mod image;
mod json;
mod output;
mod port;
mod serve;

use std::process::ExitCode;

/// Where the agent is in a guest; outside of its disk, so that it is the same whatever the disk holds.
const AGENT: &str = "/run/forkd/agent";
/// Where a warm program may listen for expressions.
const EVAL_SOCKET: &str = "/run/forkd/eval.sock";

pub(crate) fn run() -> ExitCode {
    let arguments: Vec<_> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    // The kernel may hand words of its command line to PID 1 as arguments.
    match (std::process::id(), arguments.as_slice()) {
        (1, ["serve"]) => serve::serve(),
        (1, _) => boot::boot(),
        (_, ["eval", expression]) => applet::eval(expression),
        _ => {
            applet::complain("usage: agent eval EXPRESSION");
            ExitCode::from(2)
        }
    }
}
