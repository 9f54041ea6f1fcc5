//! The runtime folder: one folder a machine, with its sockets, its console, and what `forkd ls` shows. No daemon looks after it:
//! who comes next clears away what died.

use crate::error::{Error, Kind, Result};
use crate::machine::engine::Engine;
use crate::mount::Mounter;
use forkd_format::Tag;
use forkd_sys::LockKind;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where machines have their folders: short-lived files of one user, with short paths (a socket's path has at most 107 bytes).
#[derive(Debug)]
pub struct Runtime {
    root: PathBuf,
    mounter: Option<Box<dyn Mounter>>,
    /// Once a run is enough.
    swept: AtomicBool,
}

/// A detached machine, as its folder describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DetachedChild {
    /// Its name: eight hexadecimal digits.
    pub id: String,
    /// The snapshot that it was forked from.
    pub tag: Tag,
    pub snapshot: PathBuf,
    pub pid: u32,
    /// When it was forked, seconds since 1970.
    pub created: u64,
    pub network: bool,
    #[serde(skip)]
    pub run: PathBuf,
}

/// The folder of a machine that this process has started.
#[derive(Debug)]
pub struct RunDir {
    pub id: String,
    path: PathBuf,
    keep: bool,
    _owner: File,
}

/// Held by whoever makes a folder, as long as the machine is not detached.
const OWNER: &str = "owner";

/// Held by the machine's process (it inherits the open file), and so free exactly when that has ended.
pub const ALIVE: &str = "alive";

const CHILD: &str = "child.json";

impl RunDir {
    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Describes the machine for `forkd ls`, and leaves the folder behind: the machine lives on.
    ///
    /// # Errors
    /// What the disk says.
    pub fn detach(&mut self, child: &DetachedChild) -> Result<()> {
        let (path, new) = (self.path.join(CHILD), self.path.join("child.new"));
        let text = serde_json::to_vec(child).map_err(|e| Error::new(Kind::General, e.to_string()))?;
        fs::write(&new, text).map_err(Error::io("write", &new))?;
        fs::rename(&new, &path).map_err(Error::io("create", &path))?;
        self.keep = true;
        Ok(())
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl Runtime {
    /// With something that shows machines their files as they are read.
    #[must_use]
    pub fn with_mounter(self, mounter: Box<dyn Mounter>) -> Self {
        Self { mounter: Some(mounter), ..self }
    }

    pub(crate) fn mounter(&self) -> Option<&dyn Mounter> {
        self.mounter.as_deref()
    }

    /// The runtime folder at a path, which need not exist yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root, mounter: None, swept: AtomicBool::new(false) }
    }

    /// Its path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folder of a new machine, and clears away what died.
    ///
    /// # Errors
    /// Where the runtime folder belongs to somebody else, or cannot be made.
    pub fn create(&self, engine: &dyn Engine) -> Result<RunDir> {
        let root = &self.root;
        match fs::DirBuilder::new().mode(0o700).create(root) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create", root)(e));
            }
            _ => {}
        }
        self.check_owner()?;
        // A socket's path, with its final zero, has 108 bytes.
        let longest = root.as_os_str().len() + "/12345678/guest.0".len();
        if longest > 107 {
            let message = format!(
                "{} is too long a path for sockets ({longest} bytes with theirs; at most 107): set XDG_RUNTIME_DIR to a shorter one",
                root.display()
            );
            return Err(Error::new(Kind::General, message));
        }
        if !self.swept.swap(true, Ordering::Relaxed) {
            self.sweep(engine);
        }
        loop {
            let id = hex(&random(4)?);
            let path = root.join(&id);
            match fs::create_dir(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                made => made.map_err(Error::io("create", &path))?,
            }
            let file = path.join(OWNER);
            let owner = File::create_new(&file).map_err(Error::io("create", &file))?;
            forkd_sys::try_lock(&owner, LockKind::Exclusive).map_err(Error::io("lock", &file))?;
            return Ok(RunDir { id, path, keep: false, _owner: owner });
        }
    }

    /// It may lie in a folder where everyone can write: whoever owns it could speak to our machines, and in their place to us.
    fn check_owner(&self) -> Result<()> {
        let root = &self.root;
        let metadata = root.symlink_metadata().map_err(Error::io("read", root))?;
        if metadata.is_dir() && metadata.uid() == forkd_sys::user_id() && metadata.mode() & 0o022 == 0 {
            return Ok(());
        }
        let message = format!("{} is not a folder that only this user writes to", root.display());
        Err(Error::new(Kind::General, message).hint("remove it, or set XDG_RUNTIME_DIR"))
    }

    /// The detached machines that live, oldest first. What died is cleared away.
    ///
    /// # Errors
    /// Where the runtime folder belongs to somebody else.
    pub fn children(&self, engine: &dyn Engine) -> Result<Vec<DetachedChild>> {
        if self.root.symlink_metadata().is_err() {
            return Ok(Vec::new());
        }
        self.check_owner()?;
        self.sweep(engine);
        let mut children: Vec<DetachedChild> = self.folders().filter_map(|path| read(&path)).collect();
        children.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(children)
    }

    /// The machine whose name begins so.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] where several do.
    pub fn child(&self, engine: &dyn Engine, name: &str) -> Result<DetachedChild> {
        let mut found: Vec<DetachedChild> = self
            .children(engine)?
            .into_iter()
            .filter(|child| !name.is_empty() && child.id.starts_with(name))
            .collect();
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => {
                Err(Error::new(Kind::NotFound, format!("no child '{name}' is running"))
                    .hint("see `forkd ls`"))
            }
            n => Err(Error::new(Kind::Usage, format!("'{name}' is the beginning of {n} children's names"))
                .hint("give more of it")),
        }
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
    }

    /// Clears away folders of machines that have ended, and machines that a killed forkd had not detached yet.
    fn sweep(&self, engine: &dyn Engine) {
        for path in self.folders() {
            let age = path.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
            // One that was made just now may not be locked yet.
            let settled = age.is_some_and(|age| age > Duration::from_secs(2));
            let (detached, alive) = (path.join(CHILD).exists(), is_held(&path.join(ALIVE)));
            let orphaned = !is_held(&path.join(OWNER)) && (settled || alive);
            if if detached { !alive } else { orphaned } {
                let _ = engine.kill(&path);
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
}

/// Ends a detached machine and clears its folder away.
///
/// # Errors
/// Where it does not end.
pub fn kill(engine: &dyn Engine, child: &DetachedChild) -> Result<()> {
    engine.kill(&child.run)?;
    match fs::remove_dir_all(&child.run) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &child.run)(e)),
        _ => Ok(()),
    }
}

/// Whether a process holds the lock on a file.
#[must_use]
pub fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| !forkd_sys::try_lock(&file, LockKind::Exclusive).unwrap_or(true))
}

fn read(path: &Path) -> Option<DetachedChild> {
    let mut child: DetachedChild = serde_json::from_slice(&fs::read(path.join(CHILD)).ok()?).ok()?;
    child.run = path.to_owned();
    Some(child)
}

/// Bytes from the host's generator.
pub(crate) fn random(len: usize) -> Result<Vec<u8>> {
    let path = Path::new("/dev/urandom");
    let mut bytes = vec![0; len];
    File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).map_err(Error::io("read", path))?;
    Ok(bytes)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
