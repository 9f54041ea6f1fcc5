//! Which pages a child reads, in which order: it is given files that note what is read of them. The kernel's own notes do not tell: a
//! page that is read brings fifteen neighbours that are in memory, and nothing tells in which order (docs/engine.md).

use crate::error::{Error, Result};
use crate::machine::engine::{Access, Files};
use crate::mount::{Mount, Mounter, PageReader, ReadAnswer, ReadRequest, ShownFile};
use crate::pipeline::mutex::lock;
use forkd_format::manifest::{MEMORY, ROOTFS};
use forkd_format::paged::WorkingSet;
use forkd_format::{NeededFile, NeededRun, PAGE_SIZE};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How late a page is that has to come from a hub far away.
const LATE: Duration = Duration::from_millis(50);

/// So many pages are late in one rehearsal; the others come at once, that it ends.
const LATE_PAGES: u32 = 60;

const FILES: [NeededFile; 2] = [NeededFile::Memory, NeededFile::Rootfs];

/// A machine's files, shown so that what is read of them is noted.
#[derive(Debug)]
pub(crate) struct Recording<'a> {
    mounter: &'a dyn Mounter,
    shown: Vec<ShownFile>,
    log: Arc<ReadLog>,
    is_rehearsal: bool,
    mount: Box<dyn Mount>,
}

#[derive(Debug)]
struct ReadLog {
    files: Arc<[File; 2]>,
    pages: Arc<Mutex<ReadPages>>,
    /// How many pages that nobody has read yet are to come late.
    late: AtomicU32,
}

#[derive(Debug, Default)]
struct ReadPages {
    seen: HashSet<(NeededFile, u64)>,
    order: Vec<(NeededFile, u64)>,
    over: bool,
}

impl<'a> Recording<'a> {
    /// Shows memory and root disk.
    pub(crate) fn new(mounter: &'a dyn Mounter, files: &Files) -> Result<Self> {
        let open = |path: &std::path::Path| {
            let file = File::open(path).map_err(Error::io("open", path))?;
            let size = file.metadata().map_err(Error::io("read", path))?.len();
            Ok::<_, Error>((file, size))
        };
        let ((memory, memory_size), (rootfs, rootfs_size)) = (open(&files.memory)?, open(&files.rootfs)?);
        let shown = vec![
            ShownFile { name: MEMORY.into(), size: memory_size, mapped: true },
            ShownFile { name: ROOTFS.into(), size: rootfs_size, mapped: false },
        ];
        let (files, pages) = (Arc::new([memory, rootfs]), Arc::default());
        Self::mounted(mounter, shown, ReadLog { files, pages, late: AtomicU32::new(0) })
    }

    fn mounted(mounter: &'a dyn Mounter, shown: Vec<ShownFile>, log: ReadLog) -> Result<Self> {
        let is_rehearsal = log.late.load(Ordering::Relaxed) > 0;
        let log = Arc::new(log);
        let mount = mounter.mount(shown.clone(), Arc::clone(&log) as Arc<dyn PageReader>)?;
        Ok(Self { mounter, shown, log, is_rehearsal, mount })
    }

    /// The files once more, for another child: what was read so far comes at once, and what is new comes late, as it would from a hub. A
    /// child that waits goes other ways, by a few pages.
    pub(crate) fn rehearsal(&self) -> Result<Self> {
        lock(&self.log.pages).over = false;
        let (files, pages) = (Arc::clone(&self.log.files), Arc::clone(&self.log.pages));
        let log = ReadLog { files, pages, late: AtomicU32::new(LATE_PAGES) };
        Self::mounted(self.mounter, self.shown.clone(), log)
    }

    pub(crate) fn is_rehearsal(&self) -> bool {
        self.is_rehearsal
    }

    /// How many pages were read.
    pub(crate) fn pages(&self) -> usize {
        lock(&self.log.pages).order.len()
    }

    /// What a machine is given.
    pub(crate) fn files(&self) -> Files {
        let dir = self.mount.dir();
        Files { memory: dir.join(MEMORY), rootfs: dir.join(ROOTFS), access: Access::Shown, lease: None }
    }

    /// What is read from now on is not noted any more.
    pub(crate) fn stop(&self) {
        lock(&self.log.pages).over = true;
    }

    /// What was read, in its order.
    pub(crate) fn runs(&self) -> Vec<NeededRun> {
        let mut runs: Vec<NeededRun> = Vec::new();
        for (file, page) in &lock(&self.log.pages).order {
            match runs.last_mut() {
                Some(run) if run.file == *file && run.first + run.count == *page => run.count += 1,
                _ => runs.push(NeededRun { file: *file, first: *page, count: 1 }),
            }
        }
        runs
    }
}

impl PageReader for ReadLog {
    fn read(&self, request: ReadRequest, answer: ReadAnswer) {
        let mut bytes = vec![0; request.len];
        let read = match self.files.get(request.file) {
            Some(file) => file.read_exact_at(&mut bytes, request.offset),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        if let Err(error) = read {
            return answer(Err(error));
        }
        let first = request.offset / PAGE_SIZE as u64;
        let end = (request.offset + request.len as u64).div_ceil(PAGE_SIZE as u64);
        let is_new = lock(&self.pages).note(FILES[request.file], first..end);
        let is_late = is_new
            && self
                .late
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok();
        if !is_late {
            return answer(Ok(&bytes));
        }
        std::thread::spawn(move || {
            std::thread::sleep(LATE);
            answer(Ok(&bytes));
        });
    }
}

impl ReadPages {
    /// Whether any of them had not been read before.
    fn note(&mut self, file: NeededFile, pages: std::ops::Range<u64>) -> bool {
        let known = self.order.len();
        for page in pages {
            if self.over || self.order.len() as u64 >= WorkingSet::MAX_PAGES {
                break;
            }
            if self.seen.insert((file, page)) {
                self.order.push((file, page));
            }
        }
        self.order.len() > known
    }
}
