//! The port to virtual machines: an engine boots, freezes and restores them. What goes on inside the guest is `guest.rs`.

use crate::env::Env;
use crate::error::Result;
use crate::store::stored::StoredSnapshot;
use serde::Serialize;
use serde_json::{Map, Value};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How the guest's processor is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// By the host's own, through KVM.
    Kvm,
    /// By translation (QEMU's TCG): slower, on any host.
    Tcg,
}

impl Accel {
    /// As `snapshot.json` writes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A machine to boot.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The kernel image.
    pub kernel: PathBuf,
    /// The initial RAM filesystem, with the agent in it.
    pub initrd: PathBuf,
    /// Added to the kernel's command line.
    pub append: String,
    /// Guest memory in bytes.
    pub memory: u64,
    /// What runs its processor.
    pub accel: Accel,
    /// What its network card is plugged into.
    pub network: Network,
}

/// What the network card of a machine that is booted is plugged into.
#[derive(Debug, Clone, Default)]
pub enum Network {
    #[default]
    None,
    /// A tap interface of the host's.
    Tap(String),
    /// What this user reaches. A machine so plugged in cannot be restored, so it must not be frozen.
    User,
}

/// The files that a machine runs on.
#[derive(Debug, Clone)]
pub struct Files {
    /// Its memory, as long as the guest's.
    pub memory: PathBuf,
    /// Its root disk.
    pub rootfs: PathBuf,
    pub access: Access,
    /// What its process is to keep open: while one has it, its files are shown.
    pub lease: Option<Arc<UnixStream>>,
}

/// How a machine uses its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It writes to them.
    Shared,
    /// Its writes are its own, and gone with it.
    Private,
    /// The same, and the files are made as they are read ([`crate::mount`]): no more is read than is used.
    Shown,
}

/// What a restored machine may have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// A network, through which it reaches what this user reaches.
    pub network: bool,
    /// So many bytes of the host's memory.
    pub memory: Option<u64>,
    /// Whether it may outlive this process.
    pub detached: bool,
}

/// Runs virtual machines.
pub trait Engine: Send + Sync {
    /// Boots a machine from nothing. `run` is a folder for its sockets and logs. Call from a thread that lives as long as the machine.
    ///
    /// # Errors
    /// Where it does not start.
    fn boot(&self, machine: &Machine, files: &Files, run: &Path, env: Env<'_>) -> Result<Box<dyn Vm>>;

    /// What a restore of a machine that was booted so needs: the fields of `snapshot.json`.
    ///
    /// # Errors
    /// Where the kernel cannot be read.
    fn describe(&self, machine: &Machine) -> Result<Map<String, Value>>;

    /// Says whether this host can restore a snapshot, from its description only.
    ///
    /// # Errors
    /// [`crate::error::Kind::Incompatible`], naming the field, what the snapshot needs and what is here.
    fn check(&self, snapshot: &forkd_format::Snapshot) -> Result<()>;

    /// Starts the process of a machine to be restored; [`Vm::resume`] lets it run. Call from a thread that lives as long as the
    /// machine, if that is not detached.
    ///
    /// # Errors
    /// Where it does not start.
    fn restore(
        &self,
        snapshot: &StoredSnapshot,
        files: &Files,
        limits: Limits,
        run: &Path,
    ) -> Result<Box<dyn Vm>>;

    /// Ends a detached machine, and what is left of one.
    ///
    /// # Errors
    /// Where it cannot be ended.
    fn kill(&self, run: &Path) -> Result<()>;
}

/// A machine. It ends with this value, unless it was detached and [`Vm::release`]d.
pub trait Vm: Send + std::fmt::Debug {
    /// Loads the frozen state, and lets the machine go on from there.
    ///
    /// # Errors
    /// Where the state does not fit the machine.
    fn resume(&mut self, env: Env<'_>) -> Result<()>;

    /// Freezes it into a state file, and ends it.
    ///
    /// # Errors
    /// What the disk says.
    fn freeze(&mut self, vmstate: &Path, env: Env<'_>) -> Result<()>;

    /// Fails, saying why, where the machine has stopped.
    ///
    /// # Errors
    /// [`crate::error::Kind::NoSpace`] where the host's disk is full.
    fn check_alive(&mut self) -> Result<()>;

    /// Its process.
    fn pid(&self) -> u32;

    /// Lets a detached machine live on.
    fn release(self: Box<Self>);
}

/// Connects to a port of a machine's agent: the socket `guest.<port>` of its folder, which its engine has made.
///
/// # Errors
/// As `connect(2)`, which never waits here: `EAGAIN` where too many wait already.
pub fn connect(run: &Path, port: usize) -> std::io::Result<UnixStream> {
    forkd_sys::connect(&run.join(format!("guest.{port}")))
}

/// The ports of the agent: so many conversations a machine can have at the same time.
pub const PORTS: usize = 4;

/// The last lines of a machine's console.
#[must_use]
pub fn console(run: &Path) -> Option<String> {
    tail(&run.join("console"))
}

/// The last lines of a log; `None` where there are none.
#[must_use]
pub fn tail(path: &Path) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = Vec::new();
    let mut file = std::fs::File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(8 << 10))).ok()?;
    file.take(8 << 10).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    let printable = |line: &str| line.chars().filter(|c| !c.is_control()).collect::<String>();
    let lines: Vec<String> = text.lines().map(printable).filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(6)..].join("\n  ");
    (!last.is_empty()).then_some(last)
}
