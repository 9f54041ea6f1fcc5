//! Whether KVM runs a guest here. That `/dev/kvm` can be opened says little; a guest that boots says it.

use crate::platform::open_kvm;
use crate::qemu::Qemu;
use forkd_core::machine::{Accel, Machine, Network, Runtime};
use forkd_core::{Env, Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, fs};

/// A guest under KVM boots in a second or two.
const LIMIT: Duration = Duration::from_secs(15);

/// Why KVM runs no guest here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmRefusal {
    /// One line: the last that QEMU printed, for those before it are warnings, or what else went wrong.
    pub reason: String,
    /// All that was seen, in lines: what QEMU printed, and the end of the guest's console.
    pub details: String,
}

impl fmt::Display for KvmRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.details)
    }
}

impl KvmRefusal {
    /// A refusal of which the last line of an error tells the reason.
    fn last_line(error: &Error) -> Self {
        let details = error.to_string();
        Self { reason: details.lines().last().unwrap_or_default().trim().to_owned(), details }
    }
}

/// What was found, kept until the host is booted again or the machine changes.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ProbeNote {
    boot_id: String,
    program: String,
    /// Nothing where KVM serves.
    refusal: Option<KvmRefusal>,
}

impl Qemu {
    /// Boots a guest under KVM, or remembers how that went (in `kvm.json` in the cache); says why it did not work where it did not.
    ///
    /// # Errors
    /// [`Kind::Interrupted`].
    pub fn probe_kvm(
        &self,
        kernel: &Path,
        initrd: &Path,
        runtime: &Runtime,
        cache: &Path,
        env: Env<'_>,
    ) -> Result<std::result::Result<(), KvmRefusal>> {
        if let Err(error) = open_kvm() {
            return Ok(Err(KvmRefusal::last_line(&error)));
        }
        let boot_id =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let program = self.version().unwrap_or_default();
        let path = cache.join("kvm.json");
        let note: Option<ProbeNote> =
            fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(note) = note.filter(|note| note.boot_id == boot_id && note.program == program) {
            return Ok(note.refusal.map_or(Ok(()), Err));
        }
        env.progress.note("trying whether a guest runs under KVM here (once a boot)");
        let refusal = self.try_kvm(kernel, initrd, runtime, env)?;
        let note = ProbeNote { boot_id, program, refusal };
        if let Ok(text) = serde_json::to_vec(&note) {
            let _ = forkd_sys::create_private_dirs(cache).and_then(|()| fs::write(&path, text));
        }
        Ok(note.refusal.map_or(Ok(()), Err))
    }

    fn try_kvm(
        &self,
        kernel: &Path,
        initrd: &Path,
        runtime: &Runtime,
        env: Env<'_>,
    ) -> Result<Option<KvmRefusal>> {
        let machine = Machine {
            kernel: PathBuf::from(kernel),
            initrd: PathBuf::from(initrd),
            append: "forkd.probe".into(),
            memory: 128 << 20,
            accel: Accel::Kvm,
            network: Network::None,
        };
        let refused = |error: Error| Ok(Some(KvmRefusal::last_line(&error)));
        let run = match runtime.create(self) {
            Ok(run) => run,
            Err(error) => return refused(error),
        };
        let mut vm = match self.boot_bare(&machine, run.path()) {
            Ok(vm) => vm,
            Err(error) => return refused(error),
        };
        let begun = Instant::now();
        let error = match forkd_core::machine::greet(vm.as_mut(), &run, LIMIT, env) {
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == Kind::Interrupted => return Err(error),
            Err(error) => error,
        };
        let reason = match vm.check_alive() {
            Err(ended) => KvmRefusal::last_line(&ended).reason,
            Ok(()) if begun.elapsed() >= LIMIT => {
                format!("the guest does not answer after {} s", LIMIT.as_secs())
            }
            Ok(()) => "the guest does not answer as it should".into(),
        };
        Ok(Some(KvmRefusal { reason, details: error.to_string() }))
    }
}
