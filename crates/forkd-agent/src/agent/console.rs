//! Words for people: the guest's console, which the host shows when something fails.

use rustix::system::{RebootCommand, reboot};
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

/// Prints a line on the console. Where there is none, nobody reads it.
pub(super) fn say(message: impl Display) -> Option<File> {
    let mut console = File::options().write(true).open("/dev/console").ok()?;
    // One write, so that lines of several threads do not mix.
    console.write_all(format!("forkd-agent: {message}\n").as_bytes()).ok()?;
    Some(console)
}

/// Says why the guest cannot go on, and ends it: a restart ends a QEMU that was started with `-no-reboot`.
pub(super) fn give_up(message: impl Display) -> ! {
    if let Some(console) = say(message) {
        // A restart does not wait for the serial line.
        let _ = rustix::termios::tcdrain(&console);
    }
    rustix::fs::sync();
    let _ = reboot(RebootCommand::Restart);
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// A panic of PID 1 is one of the kernel: at least say which.
pub(super) fn announce_panics() {
    std::panic::set_hook(Box::new(|panic| {
        if let Some(console) = say(format_args!("a bug: {panic}")) {
            let _ = rustix::termios::tcdrain(&console);
        }
    }));
}
