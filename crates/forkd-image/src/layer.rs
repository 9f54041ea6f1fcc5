//! Applying a layer (OCI image specification, layer.md) to a tree.

use crate::ext4::{BLOCK, Blocks, Extent, MAX_XATTRS, name_index};
use crate::tar::{Header, MAX_OVERHEAD, Tar, Type};
use crate::tree::{Body, Meta, Node, ROOT, Tree, lossy};
use forkd_core::{Env, Error, Kind, Result};
use std::collections::BTreeMap;
use std::io::Read;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names that begin so are the business of whoever wrote the layer.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;
const CHUNK: usize = 1 << 20;
/// What the kernel has bits for.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// Applies layers to a tree, and writes the bytes of files as they come.
pub(crate) struct Applying<'a> {
    pub(crate) tree: &'a mut Tree,
    pub(crate) blocks: &'a mut Blocks,
    /// Bytes that files may still have, in all.
    pub(crate) left: u64,
    /// Bytes that are no file's and may still come, in all.
    overhead: u64,
    pub(crate) buffer: Vec<u8>,
    pub(crate) env: Env<'a>,
}

impl<'a> Applying<'a> {
    pub(crate) fn new(tree: &'a mut Tree, blocks: &'a mut Blocks, left: u64, env: Env<'a>) -> Self {
        Self { tree, blocks, left, overhead: MAX_OVERHEAD, buffer: vec![0; CHUNK], env }
    }

    /// Applies the tar stream of a layer.
    pub(crate) fn layer(&mut self, input: &mut dyn Read, name: &str) -> Result<()> {
        let mut tar = Tar::new(input, name, self.overhead);
        while let Some(header) = tar.next()? {
            self.overhead = tar.overhead;
            self.env.cancel.check()?;
            let refuse = |why: String| {
                Error::new(Kind::Integrity, format!("layer {name}, '{}': {why}", lossy(&header.path)))
            };
            let path = split(&header.path).map_err(refuse)?;
            self.entry(&header, &path, &mut tar)?.map_err(refuse)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        path: &[&[u8]],
        tar: &mut Tar<'_>,
    ) -> Result<std::result::Result<(), String>> {
        let Some((last, parents)) = path.split_last() else {
            // The root itself.
            if header.kind == Type::Folder
                && let Some(root) = self.tree.node_mut(ROOT)
            {
                root.meta = match meta(header) {
                    Ok(meta) => meta,
                    Err(why) => return Ok(Err(why)),
                };
            }
            return Ok(Ok(()));
        };
        let whiteout = last.strip_prefix(WHITEOUT);
        let parent = match self.tree.walk(parents, whiteout.is_none()) {
            Ok(Some(parent)) => parent,
            // There is nothing that could be hidden.
            Ok(None) => return Ok(Ok(())),
            Err(why) => return Ok(Err(why)),
        };
        if let Some(hidden) = whiteout {
            if *last == OPAQUE {
                self.tree.hide_all(parent, self.blocks)?;
            } else if !last.starts_with(WHITEOUT_META) {
                if matches!(hidden, b"" | b"." | b"..") {
                    return Ok(Err("a whiteout without a name".into()));
                }
                self.tree.hide(parent, hidden, self.blocks)?;
            }
            return Ok(Ok(()));
        }
        let meta = match meta(header) {
            Ok(meta) => meta,
            Err(why) => return Ok(Err(why)),
        };
        let body = match header.kind {
            Type::Folder => Body::Folder(BTreeMap::new()),
            Type::Fifo => Body::Fifo,
            Type::Link
                if header.link.is_empty() || header.link.len() >= BLOCK || header.link.contains(&0) =>
            {
                return Ok(Err("its target is empty, too long, or has a zero byte".into()));
            }
            Type::Link => Body::Link(header.link.clone().into()),
            Type::HardLink => {
                let target = match split(&header.link) {
                    Ok(target) => target,
                    Err(why) => return Ok(Err(format!("it links to '{}': {why}", lossy(&header.link)))),
                };
                return self.tree.link(parent, last, &target, self.blocks);
            }
            Type::File => {
                if header.size > self.left {
                    let message = format!(
                        "'{}': {} bytes, where {} more are allowed in all",
                        lossy(&header.path),
                        header.size,
                        self.left
                    );
                    return Err(Error::new(Kind::Usage, message).hint("give it a larger disk (--size-mib)"));
                }
                self.left -= header.size;
                let extents = self.contents(tar)?;
                Body::File(header.size, extents)
            }
            Type::CharDevice(major, minor) | Type::BlockDevice(major, minor)
                if major > MAX_MAJOR || minor > MAX_MINOR =>
            {
                return Ok(Err(format!("a device {major}:{minor}, which no kernel has")));
            }
            // They are the guest's business.
            Type::CharDevice(major, minor) => Body::CharDevice(major, minor),
            Type::BlockDevice(major, minor) => Body::BlockDevice(major, minor),
            Type::Other(letter) => {
                return Ok(Err(format!("entries of type '{}' are refused", letter.escape_ascii())));
            }
        };
        self.tree.put(parent, last, Node { meta, body, links: 1 }, self.blocks)
    }

    /// Makes a folder, and those above it, where they can be.
    pub(crate) fn folder(&mut self, path: &str) {
        if let Ok(names) = split(path.trim_start_matches('/').as_bytes()) {
            let _ = self.tree.walk(&names, true);
        }
    }

    /// Puts a file of the host's making at a path.
    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        let refuse = |why: String| Error::new(Kind::Usage, format!("cannot put '{path}' on the disk: {why}"));
        let names = split(path.trim_start_matches('/').as_bytes()).map_err(refuse)?;
        let Some((last, parents)) = names.split_last() else { return Err(refuse("it names no file".into())) };
        let parent = self.tree.walk(parents, true).map_err(refuse)?.unwrap_or(ROOT);
        let mut rest = contents;
        let extents = self.contents(&mut rest)?;
        let body = Body::File(contents.len() as u64, extents);
        let node = Node { meta: Meta { mode, ..Meta::default() }, body, links: 1 };
        self.tree.put(parent, last, node, self.blocks)?.map_err(refuse)
    }

    /// Writes a file's bytes to blocks; zero blocks are left out, and holes passed over.
    fn contents(&mut self, input: &mut dyn FileBytes) -> Result<Vec<Extent>> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut logical = 0u32;
        loop {
            self.env.cancel.check()?;
            logical += u32::try_from(input.skip_hole(BLOCK as u64) / BLOCK as u64)
                .map_err(|_| Error::new(Kind::Integrity, "a file that is larger than a disk can be"))?;
            let len = fill(&mut self.buffer, input)?;
            if len == 0 {
                return Ok(extents);
            }
            let whole = len.next_multiple_of(BLOCK);
            self.buffer[len..whole].fill(0);
            // Blocks that follow each other here and on the disk are written together.
            let mut run: Option<(u32, usize, usize)> = None;
            for (at, block) in (0..).step_by(BLOCK).zip(self.buffer[..whole].chunks(BLOCK)) {
                if !forkd_sys::is_zero(block) {
                    let taken = self.blocks.take()?;
                    match extents.last_mut() {
                        Some(last)
                            if last.logical + last.len == logical && last.start + last.len == taken =>
                        {
                            last.len += 1
                        }
                        _ => extents.push(Extent { logical, start: taken, len: 1 }),
                    }
                    run = match run {
                        Some((start, from, to))
                            if to == at && start + ((to - from) / BLOCK) as u32 == taken =>
                        {
                            Some((start, from, to + BLOCK))
                        }
                        before => {
                            if let Some((start, from, to)) = before {
                                self.blocks.write(start, &self.buffer[from..to])?;
                            }
                            Some((taken, at, at + BLOCK))
                        }
                    };
                }
                logical += 1;
            }
            if let Some((start, from, to)) = run {
                self.blocks.write(start, &self.buffer[from..to])?;
            }
        }
    }
}

/// The bytes of a file.
trait FileBytes {
    /// As many as there are and fit; none at the end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize>;

    /// Passes over as much of a hole as is here, in whole units; says how many bytes.
    fn skip_hole(&mut self, unit: u64) -> u64;
}

impl FileBytes for Tar<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        Tar::read(self, buffer)
    }

    fn skip_hole(&mut self, unit: u64) -> u64 {
        Tar::skip_hole(self, unit)
    }
}

impl FileBytes for &[u8] {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        Ok(Read::read(self, buffer).unwrap_or(0))
    }

    fn skip_hole(&mut self, _unit: u64) -> u64 {
        0
    }
}

fn fill(buffer: &mut [u8], input: &mut dyn FileBytes) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..])? {
            0 => break,
            len => filled += len,
        }
    }
    Ok(filled)
}

/// The names of a path inside an image, whose root is `/`.
fn split(path: &[u8]) -> std::result::Result<Vec<&[u8]>, String> {
    if path.len() > MAX_PATH {
        return Err(format!("its path has {} bytes; at most {MAX_PATH}", path.len()));
    }
    if path.contains(&0) {
        return Err("its path has a zero byte".into());
    }
    let names: Vec<_> =
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    if names.contains(&b"..".as_slice()) {
        return Err("its path leads out of the image ('..')".into());
    }
    match names.iter().find(|name| name.len() > MAX_NAME) {
        Some(name) => Err(format!("a name of {} bytes; at most {MAX_NAME}", name.len())),
        None => Ok(names),
    }
}

fn meta(header: &Header) -> std::result::Result<Meta, String> {
    // What ext4 has no place for means nothing in a guest.
    let xattrs: Vec<_> =
        header.xattrs.iter().filter(|(name, _)| name_index(name).is_some()).cloned().collect();
    let bytes: usize = xattrs.iter().map(|(name, value)| 24 + name.len() + value.len()).sum();
    if bytes > MAX_XATTRS {
        return Err(format!("its extended attributes take {bytes} bytes; at most {MAX_XATTRS}"));
    }
    Ok(Meta { mode: header.mode, uid: header.uid, gid: header.gid, mtime: header.mtime, xattrs })
}
