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
use std::path::Path;
use std::sync::{Arc, Mutex};

const FILES: [NeededFile; 2] = [NeededFile::Memory, NeededFile::Rootfs];

/// A machine's files, shown so that what is read of them is noted.
#[derive(Debug)]
pub(crate) struct Recording {
    log: Arc<ReadLog>,
    mount: Box<dyn Mount>,
}

#[derive(Debug)]
struct ReadLog {
    files: [File; 2],
    pages: Mutex<ReadPages>,
}

#[derive(Debug, Default)]
struct ReadPages {
    seen: HashSet<(NeededFile, u64)>,
    order: Vec<(NeededFile, u64)>,
    over: bool,
}

impl Recording {
    /// Shows memory and root disk.
    pub(crate) fn new(mounter: &dyn Mounter, memory: &Path, rootfs: &Path) -> Result<Self> {
        let open = |path: &Path| {
            let file = File::open(path).map_err(Error::io("open", path))?;
            let size = file.metadata().map_err(Error::io("read", path))?.len();
            Ok::<_, Error>((file, size))
        };
        let ((memory, memory_size), (rootfs, rootfs_size)) = (open(memory)?, open(rootfs)?);
        let shown = vec![
            ShownFile { name: MEMORY.into(), size: memory_size, mapped: true },
            ShownFile { name: ROOTFS.into(), size: rootfs_size, mapped: false },
        ];
        let log = Arc::new(ReadLog { files: [memory, rootfs], pages: Mutex::default() });
        let mount = mounter.mount(shown, Arc::clone(&log) as Arc<dyn PageReader>)?;
        Ok(Self { log, mount })
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
        if read.is_ok() {
            let first = request.offset / PAGE_SIZE as u64;
            let end = (request.offset + request.len as u64).div_ceil(PAGE_SIZE as u64);
            lock(&self.pages).note(FILES[request.file], first..end);
        }
        answer(read.map(|()| &bytes[..]));
    }
}

impl ReadPages {
    fn note(&mut self, file: NeededFile, pages: std::ops::Range<u64>) {
        for page in pages {
            if self.over || self.order.len() as u64 >= WorkingSet::MAX_PAGES {
                return;
            }
            if self.seen.insert((file, page)) {
                self.order.push((file, page));
            }
        }
    }
}
