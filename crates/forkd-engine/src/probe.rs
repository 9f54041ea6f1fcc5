//! Whether KVM runs a guest here. That `/dev/kvm` can be opened says little; a guest that boots says it.

use crate::qemu::{Qemu, open_kvm};
use forkd_core::machine::{Accel, Machine, Network, Runtime};
use forkd_core::{Env, Kind, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A guest under KVM boots in a second or two.
const LIMIT: Duration = Duration::from_secs(15);

/// What was found, kept until the host is booted again or the machine changes.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Finding {
    boot_id: String,
    program: String,
    /// Why KVM does not serve; nothing where it does.
    refusal: Option<String>,
}

impl Qemu {
    /// Boots a guest under KVM, or remembers how that went; says why it did not work where it did not.
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
    ) -> Result<std::result::Result<(), String>> {
        if let Err(error) = open_kvm() {
            return Ok(Err(error.to_string()));
        }
        let boot_id =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let program = self.version().unwrap_or_default();
        let note = cache.join("kvm.json");
        let known: Option<Finding> = fs::read(&note).ok().and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(known) = known.filter(|known| known.boot_id == boot_id && known.program == program) {
            return Ok(known.refusal.map_or(Ok(()), Err));
        }
        env.progress.note("trying whether a guest runs under KVM here (once a boot)");
        let refusal = match self.try_kvm(kernel, initrd, runtime, env) {
            Ok(()) => None,
            Err(error) if error.kind() == Kind::Interrupted => return Err(error),
            Err(error) => Some(error.to_string()),
        };
        let finding = Finding { boot_id, program, refusal };
        if let Ok(text) = serde_json::to_vec(&finding) {
            let _ = fs::create_dir_all(cache).and_then(|()| fs::write(&note, text));
        }
        Ok(finding.refusal.map_or(Ok(()), Err))
    }

    fn try_kvm(&self, kernel: &Path, initrd: &Path, runtime: &Runtime, env: Env<'_>) -> Result<()> {
        let machine = Machine {
            kernel: PathBuf::from(kernel),
            initrd: PathBuf::from(initrd),
            append: "forkd.probe".into(),
            memory: 128 << 20,
            accel: Accel::Kvm,
            network: Network::None,
        };
        let run = runtime.create(self)?;
        let mut vm = self.boot_bare(&machine, run.path())?;
        forkd_core::machine::greet(vm.as_mut(), &run, LIMIT, env).map(drop)
    }
}
