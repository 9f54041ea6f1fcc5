use crate::config;
use crate::context::Context;
use crate::machines::unnamed;
use anyhow::Result;
use forkd_core::machine::Runtime;
use forkd_engine::{Kernel, Qemu, initramfs, memory_limits};
use serde_json::json;

/// Say what this host can do, and what to install for what it cannot
#[derive(Debug, clap::Args)]
#[command(after_help = "The exit code is 8 where this host cannot fork at all.\n\nExample:\n  forkd doctor")]
pub(crate) struct DoctorArgs {}

/// One thing that was looked at.
struct Finding {
    name: &'static str,
    state: State,
    found: String,
    fix: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// forkd does without.
    Missing,
    /// forkd cannot fork.
    Bad,
}

impl Finding {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Good, found: found.into(), fix: None }
    }

    fn not(name: &'static str, state: State, found: impl Into<String>, fix: &str) -> Self {
        Self { name, state, found: found.into(), fix: Some(fix.to_owned()) }
    }
}

pub(crate) fn run(_args: &DoctorArgs, context: &Context<'_>) -> Result<()> {
    let findings = findings(context)?;
    for finding in &findings {
        let mark = match finding.state {
            State::Good => "✓",
            State::Missing => "-",
            State::Bad => "✗",
        };
        context.output.answer(&format!("{mark} {:<16} {}", finding.name, finding.found));
        if let Some(fix) = &finding.fix {
            context.output.answer(&format!("    fix: {fix}"));
        }
    }
    let fit = findings.iter().all(|finding| finding.state != State::Bad);
    context.output.answer(if fit {
        "this host bakes and forks"
    } else {
        "this host cannot fork; packing, moving and verifying work"
    });
    context.output.exit_with(if fit { 0 } else { 8 });
    let list = findings.iter().map(|finding| {
        let state = match finding.state {
            State::Good => "good",
            State::Missing => "missing",
            State::Bad => "bad",
        };
        json!({ "name": finding.name, "state": state, "found": finding.found, "fix": finding.fix })
    });
    context.output.json(&json!({ "can_fork": fit, "findings": list.collect::<Vec<_>>() }));
    Ok(())
}

fn findings(context: &Context<'_>) -> Result<Vec<Finding>> {
    let mut list = Vec::new();
    let arch = std::env::consts::ARCH;
    list.push(match arch {
        "x86_64" => Finding::good("processor", arch),
        _ => Finding::good("processor", format!("{arch}; x86-64 guests are emulated (untested)")),
    });
    let qemu = Qemu::find(std::env::var_os("PATH").as_deref());
    let fix = "apt-get install qemu-system-x86 (7.2 or later)";
    let found = qemu.as_ref().map_err(ToString::to_string).and_then(|qemu| {
        let version = qemu.version().map_err(|e| e.to_string())?;
        qemu.has_machine().map_err(|e| format!("{version}: {e}")).map(|()| version)
    });
    let usable = qemu.as_ref().ok().filter(|_| found.is_ok());
    list.push(match &found {
        Ok(version) => Finding::good("QEMU", version.clone()),
        Err(why) => Finding::not("QEMU", State::Bad, why.clone(), fix),
    });
    let cache = config::cache_dir();
    let kernel = cache.as_ref().ok().and_then(|cache| Kernel::cached(cache));
    list.push(match (&kernel, &cache) {
        (Some(kernel), _) => {
            Finding::good("kernel", format!("{} in the cache", kernel.release.as_deref().unwrap_or("one")))
        }
        (None, Ok(_)) => {
            let fix = "the first `forkd snapshot` fetches Debian's; or give --kernel FILE";
            Finding::not("kernel", State::Missing, "none in the cache", fix)
        }
        (None, Err(e)) => Finding::not("kernel", State::Missing, e.to_string(), "set HOME or XDG_CACHE_HOME"),
    });
    let runtime = Runtime::new(config::runtime_dir());
    let fix = "set XDG_RUNTIME_DIR to a folder of yours, with a short path";
    list.push(match runtime.create(&Qemu::unfound()) {
        Ok(_) => Finding::good("runtime folder", config::display(runtime.root())),
        Err(e) => Finding::not("runtime folder", State::Bad, e.to_string(), fix),
    });
    if let (Some(qemu), Some(kernel), Ok(cache)) = (usable, &kernel, &cache) {
        let (_initrd, initrd) = unnamed(&initramfs(kernel)?)?;
        list.push(match qemu.probe_kvm(&kernel.image, &initrd, &runtime, cache, context.env())? {
            Ok(()) => Finding::good("KVM", "a guest runs on it"),
            Err(why) => {
                let fix = "be in the group that owns /dev/kvm, and switch virtualisation on in the firmware; TCG does without, slower";
                Finding::not("KVM", State::Missing, why.reason, fix)
            }
        });
    }
    let store = config::store()?;
    let existing = store.root().ancestors().find(|dir| dir.is_dir());
    let free = existing.and_then(|dir| rustix::fs::statvfs(dir).ok()).map(|fs| fs.f_bavail * fs.f_frsize);
    let place = config::display(store.root());
    let fix = "free some, or set XDG_DATA_HOME to a folder on a larger disk";
    list.push(match free {
        Some(free) if free < 1 << 30 => {
            Finding::not("store", State::Missing, format!("{place}, {} MiB free", free >> 20), fix)
        }
        Some(free) => {
            Finding::good("store", format!("{place}, {:.1} GiB free", free as f64 / f64::from(1 << 30)))
        }
        None => Finding::not("store", State::Missing, format!("{place}: no such disk"), fix),
    });
    list.push(match forkd_image::Debian::find(std::env::var_os("PATH").as_deref()) {
        Ok(debian) => Finding::good("Debian packages", format!("recipes can be baked on {}", debian.release)),
        Err(e) => {
            let fix = "apt-get update && apt-get install mmdebstrap uidmap; images need neither";
            Finding::not("Debian packages", State::Missing, e.to_string(), fix)
        }
    });
    list.push(if memory_limits() {
        Finding::good("memory limits", "control groups can be made")
    } else {
        let fix = "systemd-run --user --scope -p Delegate=yes forkd …";
        Finding::not(
            "memory limits",
            State::Missing,
            "no control groups can be made (--memory-limit-mib)",
            fix,
        )
    });
    Ok(list)
}
