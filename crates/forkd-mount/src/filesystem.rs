//! What the kernel is told of the folder and its files.

use forkd_core::mount::{PageReader, ReadRequest, ShownFile};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request,
};
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// The files never change while they are shown.
const FOREVER: Duration = Duration::from_secs(1 << 20);

/// The first file's number; the folder has 1.
const FIRST: u64 = 2;

pub(crate) struct ShownFolder {
    files: Vec<ShownFile>,
    reader: Arc<dyn PageReader>,
}

impl ShownFolder {
    pub(crate) fn new(files: Vec<ShownFile>, reader: Arc<dyn PageReader>) -> Self {
        Self { files, reader }
    }

    fn file(&self, number: INodeNo) -> Option<(usize, &ShownFile)> {
        let index = usize::try_from(number.0.checked_sub(FIRST)?).ok()?;
        self.files.get(index).map(|file| (index, file))
    }

    fn attributes(&self, number: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match self.file(number) {
            Some((_, file)) => (FileType::RegularFile, 0o600, file.size),
            None if number == INodeNo::ROOT => (FileType::Directory, 0o500, 0),
            None => return None,
        };
        Some(FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            // Whoever mounted it, in whichever user namespace that was: a number that is not known there could not be written to.
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for ShownFolder {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Less than a page: the kernel asks for what is used and for nothing beside it.
        let _ = config.set_max_readahead(1);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.files.iter().position(|file| parent == INodeNo::ROOT && name == file.name.as_str());
        let attributes = found.and_then(|index| self.attributes(INodeNo(index as u64 + FIRST)));
        match attributes {
            Some(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    // QEMU 7.2 opens memory for writing although its writes are private; a write is refused.
    fn open(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = match self.file(number) {
            Some((_, file)) if file.mapped => FopenFlags::FOPEN_KEEP_CACHE,
            Some(_) => FopenFlags::FOPEN_DIRECT_IO,
            None => return reply.error(Errno::ENOENT),
        };
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((file, shown)) = self.file(number) else { return reply.error(Errno::EBADF) };
        let len = shown.size.saturating_sub(offset).min(u64::from(size)) as usize;
        let wanted = ReadRequest { file, offset, len, pid: request.pid() };
        self.reader.read(
            wanted,
            Box::new(move |answer| match answer {
                Ok(bytes) => reply.data(bytes),
                Err(error) => reply.error(error.into()),
            }),
        );
    }

    fn readdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for (index, file) in self.files.iter().enumerate().skip(offset as usize) {
            let number = INodeNo(index as u64 + FIRST);
            if reply.add(number, index as u64 + 1, FileType::RegularFile, &file.name) {
                break;
            }
        }
        reply.ok();
    }
}
