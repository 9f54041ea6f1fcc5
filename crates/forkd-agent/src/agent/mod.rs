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
mod job;
mod json;
mod mount;
mod paths;
mod port;
mod root_files;
mod send_queue;
mod serve;
#[allow(unsafe_code, reason = "system calls that have no safe wrapper")]
mod sys;

use std::process::ExitCode;

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
