//! Changing a disk by a machine of its own: a guest with a network runs commands as root and is switched off.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::machine::engine::{Access, Engine, Files, Machine, Network};
use crate::machine::guest::Guest;
use crate::machine::program::Stream;
use crate::machine::run_dir::Runtime;
use crate::machine::session::{explain, greet};
use crate::machine::shell::{require_shell, run_as_root};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the guest may take to end its programs and write out its disk.
const HALT_LIMIT: Duration = Duration::from_secs(120);

/// Where the guest finds the certificates that this host trusts; in its memory, so they do not stay on the disk.
const CERTIFICATES: &str = "/run/forkd/ca-certificates.crt";

/// What programs take the path of certificates from.
const CERTIFICATE_VARIABLES: [&str; 6] = [
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "npm_config_cafile",
];

/// What to change.
#[derive(Debug, Clone)]
pub struct SetUpOptions {
    /// The machine; it gets a network whatever this says.
    pub machine: Machine,
    /// The disk, which is changed in place.
    pub disk: PathBuf,
    /// For the guest's shell, one after another.
    pub commands: Vec<String>,
    /// `NAME=VALUE`, for each command.
    pub env: Vec<String>,
    /// Certificates of those whom the guest may trust while it is set up.
    pub certificates: Option<PathBuf>,
    /// How long the guest may take to boot.
    pub boot_wait: Duration,
}

/// Boots a machine on a disk, with a network, and runs commands in it. The disk is as unmounted afterwards.
///
/// # Errors
/// [`crate::error::Kind::General`] where a command fails; the disk is then worth nothing.
pub fn set_up(
    engine: &dyn Engine,
    runtime: &Runtime,
    options: &SetUpOptions,
    env: Env<'_>,
    output: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
) -> Result<()> {
    let machine = Machine { network: Network::User, ..options.machine.clone() };
    // Beside the disk, where there is room, and without a name, so that nothing of it is left however this ends.
    let dir = options.disk.parent().unwrap_or(Path::new("/"));
    let memory = tempfile::tempfile_in(dir).map_err(Error::io("create a file in", dir))?;
    memory.set_len(machine.memory).map_err(Error::io("make room in", dir))?;
    let files = Files {
        memory: format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd()).into(),
        rootfs: options.disk.clone(),
        access: Access::Shared,
        lease: None,
    };
    let run = runtime.create(engine)?;
    let mut vm = engine.boot(&machine, &files, run.path(), env)?;
    let mut guest = greet(vm.as_mut(), &run, options.boot_wait, env)?;
    work(&mut guest, options, output)
        .and_then(|()| guest.halt(HALT_LIMIT))
        .map_err(|e| explain(e, vm.as_mut(), &run))
}

fn work(
    guest: &mut Guest,
    options: &SetUpOptions,
    output: &mut dyn FnMut(Stream, &[u8]) -> Result<()>,
) -> Result<()> {
    crate::machine::session::seed(guest, true)?;
    let mut variables = options.env.clone();
    if let Some(path) = &options.certificates {
        let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
        guest.put(CERTIFICATES, 0o644, &mut file.take(16 << 20), path)?;
        variables.extend(CERTIFICATE_VARIABLES.map(|name| format!("{name}={CERTIFICATES}")));
    }
    require_shell(guest)?;
    options.commands.iter().try_for_each(|command| run_as_root(guest, "setup", command, &variables, output))
}
