//! The files of an image, as its layers leave them: names, metadata, and where on the disk each file's bytes lie. Nothing of it is ever a
//! path of this host's.

use crate::ext4::{Blocks, Extent};
use forkd_core::Result;
use std::collections::BTreeMap;

/// The limits on what a stranger's image may make us keep in memory.
const MAX_ENTRIES: usize = 300_000;
const MAX_NAMES: usize = 48 << 20;
/// Folders in folders. Links on the way make deeper trees than a path is long, and a tree is gone through by recursion.
const MAX_DEPTH: usize = 1000;
/// As the kernel has it, for links that lead to links.
const MAX_LINKS: usize = 40;

pub(crate) const ROOT: usize = 0;
pub(crate) const S_IFDIR: u32 = 0o040_000;
pub(crate) const S_IFREG: u32 = 0o100_000;
pub(crate) const S_IFLNK: u32 = 0o120_000;
pub(crate) const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;

/// What a file is apart from its name and its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permissions, without the type.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Meta {
    /// Of a folder that no layer describes.
    fn implied() -> Self {
        Self { mode: 0o755, ..Self::default() }
    }
}

#[derive(Debug)]
pub(crate) enum Body {
    Folder(BTreeMap<Box<[u8]>, Entry>),
    File(u64, Vec<Extent>),
    Link(Box<[u8]>),
    Fifo,
    /// With its major and minor number.
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
}

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) node: usize,
    /// The layer that put it there last.
    layer: usize,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) body: Body,
    /// How many names it has.
    pub(crate) links: u32,
}

impl Node {
    /// As `st_mode`.
    pub(crate) fn mode(&self) -> u32 {
        let kind = match self.body {
            Body::Folder(_) => S_IFDIR,
            Body::File(..) => S_IFREG,
            Body::Link(_) => S_IFLNK,
            Body::Fifo => S_IFIFO,
            Body::CharDevice(..) => S_IFCHR,
            Body::BlockDevice(..) => S_IFBLK,
        };
        // The kernel gives every link all permissions, whatever an archive says.
        let permissions = if kind == S_IFLNK { 0o777 } else { self.meta.mode & 0o7777 };
        kind | permissions
    }

    /// What it takes in memory apart from itself.
    fn weight(&self) -> usize {
        let body = match &self.body {
            Body::Link(target) => target.len(),
            Body::File(_, extents) => size_of_val(extents.as_slice()),
            Body::Folder(_) | Body::Fifo | Body::CharDevice(..) | Body::BlockDevice(..) => 0,
        };
        body + self.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 48).sum::<usize>()
    }
}

#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Option<Node>>,
    unused: Vec<usize>,
    /// The layer that is being applied.
    pub(crate) layer: usize,
    names: usize,
}

/// Why something cannot be done to a tree, in words.
pub(crate) type Refusal<T> = std::result::Result<T, String>;

impl Tree {
    pub(crate) fn new() -> Self {
        let root = Node { meta: Meta::implied(), body: Body::Folder(BTreeMap::new()), links: 1 };
        Self { nodes: vec![Some(root)], unused: Vec::new(), layer: 0, names: 0 }
    }

    pub(crate) fn node(&self, at: usize) -> Option<&Node> {
        self.nodes.get(at)?.as_ref()
    }

    pub(crate) fn node_mut(&mut self, at: usize) -> Option<&mut Node> {
        self.nodes.get_mut(at)?.as_mut()
    }

    pub(crate) fn folder(&self, at: usize) -> Option<&BTreeMap<Box<[u8]>, Entry>> {
        match &self.node(at)?.body {
            Body::Folder(entries) => Some(entries),
            _ => None,
        }
    }

    fn folder_mut(&mut self, at: usize) -> Option<&mut BTreeMap<Box<[u8]>, Entry>> {
        match &mut self.nodes.get_mut(at)?.as_mut()?.body {
            Body::Folder(entries) => Some(entries),
            _ => None,
        }
    }

    fn get(&self, folder: usize, name: &[u8]) -> Option<Entry> {
        self.folder(folder)?.get(name).copied()
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - self.unused.len()
    }

    /// The folder that a path's names lead to. Links are followed, within the image. Folders that are missing are made where `make` says so;
    /// else `None`.
    pub(crate) fn walk(&mut self, path: &[&[u8]], make: bool) -> Refusal<Option<usize>> {
        let mut stack = vec![ROOT];
        let mut todo: Vec<Vec<u8>> = path.iter().rev().map(|name| name.to_vec()).collect();
        let mut followed = 0;
        while let Some(name) = todo.pop() {
            let here = stack.last().copied().unwrap_or(ROOT);
            match name.as_slice() {
                b"" | b"." => continue,
                // Above the root is the root.
                b".." => {
                    if stack.len() > 1 {
                        stack.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let next = match self.get(here, &name) {
                Some(entry) => entry.node,
                None if make => self.add(
                    here,
                    &name,
                    Node { meta: Meta::implied(), body: Body::Folder(BTreeMap::new()), links: 1 },
                )?,
                None => return Ok(None),
            };
            match self.node(next).map(|node| &node.body) {
                Some(Body::Folder(_)) if stack.len() > MAX_DEPTH => {
                    return Err(format!("more than {MAX_DEPTH} folders deep"));
                }
                Some(Body::Folder(_)) => stack.push(next),
                Some(Body::Link(target)) => {
                    followed += 1;
                    if followed > MAX_LINKS {
                        return Err(format!("too many links on the way, at '{}'", lossy(&name)));
                    }
                    if target.first() == Some(&b'/') {
                        stack.truncate(1);
                    }
                    todo.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                }
                // A layer that puts something below a file wants a folder there.
                Some(_) if make => {
                    return Err(format!("'{}' on the way is no folder", lossy(&name)));
                }
                _ => return Ok(None),
            }
        }
        Ok(stack.last().copied())
    }

    fn add(&mut self, folder: usize, name: &[u8], node: Node) -> Refusal<usize> {
        self.names += name.len() + node.weight();
        if self.len() >= MAX_ENTRIES || self.names > MAX_NAMES {
            return Err(format!(
                "the image has more than {MAX_ENTRIES} files, or {} MiB of names",
                MAX_NAMES >> 20
            ));
        }
        let at = match self.unused.pop() {
            Some(at) => {
                self.nodes[at] = Some(node);
                at
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        };
        self.name(folder, name, at);
        Ok(at)
    }

    fn name(&mut self, folder: usize, name: &[u8], node: usize) {
        let layer = self.layer;
        if let Some(entries) = self.folder_mut(folder) {
            entries.insert(name.into(), Entry { node, layer });
        }
    }

    /// Puts a new node at a name; what was there goes. A folder over a folder keeps what is in it.
    pub(crate) fn put(
        &mut self,
        folder: usize,
        name: &[u8],
        node: Node,
        blocks: &mut Blocks,
    ) -> Result<Refusal<()>> {
        if let Some(entry) = self.get(folder, name) {
            let merges = matches!(node.body, Body::Folder(_)) && self.folder(entry.node).is_some();
            if merges {
                self.names += node.weight();
                if let Some(old) = self.node_mut(entry.node) {
                    old.meta = node.meta;
                }
                self.name(folder, name, entry.node);
                return Ok(Ok(()));
            }
            self.remove(folder, name, blocks)?;
        }
        Ok(self.add(folder, name, node).map(drop))
    }

    /// Gives a file a second name.
    pub(crate) fn link(
        &mut self,
        folder: usize,
        name: &[u8],
        target: &[&[u8]],
        blocks: &mut Blocks,
    ) -> Result<Refusal<()>> {
        let Some((last, parents)) = target.split_last() else {
            return Ok(Err("it links to the root".into()));
        };
        let found = match self.walk(parents, false) {
            Ok(found) => found.and_then(|parent| self.get(parent, last)),
            Err(why) => return Ok(Err(why)),
        };
        let Some(entry) = found else {
            return Ok(Err(format!("it links to '{}', which is not there", lossy(&target.join(&b'/')))));
        };
        if self.folder(entry.node).is_some() {
            return Ok(Err("it links to a folder".into()));
        }
        // To itself: nothing changes.
        if self.get(folder, name).is_some_and(|old| old.node == entry.node) {
            self.name(folder, name, entry.node);
            return Ok(Ok(()));
        }
        if self.get(folder, name).is_some() {
            self.remove(folder, name, blocks)?;
        }
        if let Some(node) = self.node_mut(entry.node) {
            node.links += 1;
        }
        self.names += name.len();
        self.name(folder, name, entry.node);
        Ok(Ok(()))
    }

    /// Takes a name away, with all below it.
    fn remove(&mut self, folder: usize, name: &[u8], blocks: &mut Blocks) -> Result<()> {
        let Some(entry) = self.folder_mut(folder).and_then(|entries| entries.remove(name)) else {
            return Ok(());
        };
        let mut todo = vec![entry.node];
        while let Some(at) = todo.pop() {
            let Some(node) = self.node_mut(at) else { continue };
            node.links -= 1;
            if node.links > 0 {
                continue;
            }
            match self.nodes[at].take().map(|node| node.body) {
                Some(Body::Folder(entries)) => todo.extend(entries.values().map(|entry| entry.node)),
                Some(Body::File(_, extents)) => {
                    for extent in extents {
                        blocks.give(extent.start, extent.len)?;
                    }
                }
                _ => {}
            }
            self.unused.push(at);
        }
        Ok(())
    }

    /// Hides what lower layers put at a name: what this layer put there, and the folders on the way to it, stay.
    pub(crate) fn hide(&mut self, folder: usize, name: &[u8], blocks: &mut Blocks) -> Result<()> {
        let Some(entry) = self.get(folder, name) else { return Ok(()) };
        if self.folder(entry.node).is_some() {
            self.hide_all(entry.node, blocks)?;
            let empty = self.folder(entry.node).is_some_and(BTreeMap::is_empty);
            if entry.layer < self.layer && empty {
                self.remove(folder, name, blocks)?;
            }
        } else if entry.layer < self.layer {
            self.remove(folder, name, blocks)?;
        }
        Ok(())
    }

    /// The same for all in a folder.
    pub(crate) fn hide_all(&mut self, folder: usize, blocks: &mut Blocks) -> Result<()> {
        let names: Vec<_> =
            self.folder(folder).into_iter().flat_map(|entries| entries.keys().cloned()).collect();
        names.iter().try_for_each(|name| self.hide(folder, name, blocks))
    }
}

pub(crate) fn lossy(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(200).collect();
    text.escape_default().to_string()
}
