//! What this host can do, and what to install for what it cannot.

use crate::app::App;
use crate::machines::UnnamedFile;
use crate::settings::Settings;
use forkd_core::Result;
use forkd_core::machine::Runtime;
use forkd_engine::{Kernel, Qemu, initramfs, memory_limits, open_kvm};
use forkd_image::Debian;
use serde::Serialize;
use std::path::Path;

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct DoctorReport {
    /// Whether snapshots can be forked here.
    pub can_fork: bool,
    /// All that was looked at.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    pub name: &'static str,
    pub state: FindingState,
    pub found: String,
    pub fix: Option<String>,
}

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingState {
    /// As it should be.
    Good,
    /// forkd does without.
    Missing,
    /// forkd cannot fork.
    Bad,
}

impl Finding {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: FindingState::Good, found: found.into(), fix: None }
    }

    fn not(name: &'static str, state: FindingState, found: impl Into<String>, fix: &str) -> Self {
        Self { name, state, found: found.into(), fix: Some(fix.to_owned()) }
    }
}

impl App<'_> {
    /// Looks at this host: its engine, kernel, folders, disk and programs. A guest is booted once to see whether KVM runs one.
    ///
    /// # Errors
    /// [`forkd_core::Kind::Interrupted`]; else what does not work is a finding.
    pub fn doctor(&self) -> Result<DoctorReport> {
        let (settings, mut findings) = (self.settings, vec![processor()]);
        let qemu = Qemu::find(settings.search_path.as_deref());
        let found = qemu.as_ref().map_err(ToString::to_string).and_then(|qemu| {
            let version = qemu.version().map_err(|e| e.to_string())?;
            qemu.has_machine().map_err(|e| format!("{version}: {e}")).map(|()| version)
        });
        let usable = qemu.as_ref().ok().filter(|_| found.is_ok());
        let fix = "apt-get install qemu-system-x86 (7.2 or later)";
        findings.push(match &found {
            Ok(version) => Finding::good("QEMU", version.clone()),
            Err(why) => Finding::not("QEMU", FindingState::Bad, why.clone(), fix),
        });
        let kernel = settings.cache_dir.as_deref().and_then(Kernel::cached);
        findings.push(kernel_finding(settings, kernel.as_ref()));
        let runtime = Runtime::new(settings.runtime_dir.clone());
        let fix = "set XDG_RUNTIME_DIR to a folder of yours, with a short path";
        findings.push(match runtime.create(&Qemu::unfound()) {
            Ok(_) => Finding::good("runtime folder", settings.shown(runtime.root())),
            Err(e) => Finding::not("runtime folder", FindingState::Bad, e.to_string(), fix),
        });
        findings.push(match (usable, &kernel, &settings.cache_dir) {
            (Some(qemu), Some(kernel), Some(cache)) => {
                let initrd = UnnamedFile::create(&initramfs(kernel)?, &settings.temp_dir)?;
                kvm(
                    qemu.probe_kvm(&kernel.image, &initrd.path, &runtime, cache, self.env)?
                        .map_err(|e| e.reason),
                    "a guest runs on it",
                )
            }
            _ => kvm(
                open_kvm().map_err(|e| e.to_string()),
                "it opens; whether a guest runs is tried once there is a kernel",
            ),
        });
        findings.push(store(settings));
        findings.push(cache(settings));
        let fix = "apt-get update && apt-get install mmdebstrap uidmap; images need neither";
        let debian = Debian::find(settings.search_path.as_deref());
        findings.push(match debian.and_then(|debian| debian.try_users().map(|()| debian)) {
            Ok(debian) => {
                Finding::good("Debian packages", format!("recipes can be baked on {}", debian.release))
            }
            Err(e) => {
                let fix = e.guidance().unwrap_or(fix);
                Finding::not("Debian packages", FindingState::Missing, e.message(), fix)
            }
        });
        let fix = "systemd-run --user --scope -p Delegate=yes forkd …";
        let none = "no control groups can be made (--memory-limit-mib)";
        findings.push(if memory_limits() {
            Finding::good("memory limits", "control groups can be made")
        } else {
            Finding::not("memory limits", FindingState::Missing, none, fix)
        });
        let can_fork = findings.iter().all(|finding| finding.state != FindingState::Bad);
        Ok(DoctorReport { can_fork, findings })
    }
}

fn kvm(tried: std::result::Result<(), String>, good: &str) -> Finding {
    let fix = "be in the group that owns /dev/kvm, and switch virtualisation on in the firmware; TCG does without, slower";
    match tried {
        Ok(()) => Finding::good("KVM", good),
        Err(why) => Finding::not("KVM", FindingState::Missing, why, fix),
    }
}

fn processor() -> Finding {
    match std::env::consts::ARCH {
        arch @ "x86_64" => Finding::good("processor", arch),
        arch => Finding::good("processor", format!("{arch}; x86-64 guests are emulated (untested)")),
    }
}

fn kernel_finding(settings: &Settings, kernel: Option<&Kernel>) -> Finding {
    match (kernel, settings.cache_dir()) {
        (Some(kernel), _) => {
            Finding::good("kernel", format!("{} in the cache", kernel.release.as_deref().unwrap_or("one")))
        }
        (None, Ok(_)) => {
            let fix = "the first `forkd snapshot` fetches Debian's; or give --kernel FILE";
            Finding::not("kernel", FindingState::Missing, "none in the cache", fix)
        }
        (None, Err(e)) => {
            Finding::not("kernel", FindingState::Missing, e.to_string(), "set HOME or XDG_CACHE_HOME")
        }
    }
}

fn store(settings: &Settings) -> Finding {
    let root = settings.store.root();
    let place = settings.shown(root);
    let fix = "set XDG_DATA_HOME to a folder of yours";
    let free = match try_folder(root) {
        Ok(free) => free,
        // Forks too take locks there.
        Err(e) => return Finding::not("store", FindingState::Bad, format!("{place}: {e}"), fix),
    };
    if free < 1 << 30 {
        let fix = "free some, or set XDG_DATA_HOME to a folder on a larger disk";
        return Finding::not(
            "store",
            FindingState::Missing,
            format!("{place}, {} MiB free", free >> 20),
            fix,
        );
    }
    Finding::good("store", format!("{place}, {:.1} GiB free", free as f64 / f64::from(1 << 30)))
}

fn cache(settings: &Settings) -> Finding {
    let fix = "set XDG_CACHE_HOME to a folder of yours; nothing can be baked or fetched from a registry of images without";
    let tried = settings
        .cache_dir()
        .map_err(|e| e.to_string())
        .and_then(|dir| try_folder(dir).map(|_| dir).map_err(|e| format!("{}: {e}", settings.shown(dir))));
    match tried {
        Ok(dir) => Finding::good("cache", settings.shown(dir)),
        Err(why) => Finding::not("cache", FindingState::Missing, why, fix),
    }
}

/// Makes a file where a folder is or would be, and takes it away again; says how many bytes are free there.
fn try_folder(dir: &Path) -> std::io::Result<u64> {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let file = existing.join(format!(".forkd-doctor-{}", std::process::id()));
    std::fs::File::create_new(&file)?;
    std::fs::remove_file(&file)?;
    let fs = rustix::fs::statvfs(existing)?;
    Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
}
