//! From layers to a root disk (docs/format/rootfs.md). Nothing is extracted: each file's bytes go from the layer's stream to their blocks, names
//! are kept in memory, so no name in a layer is ever a path of this host's, and owners need no privileges.

use crate::ext4::{BLOCK, Blocks, Content, Extent, FIRST_INODE, Inode, LOST_AND_FOUND, Layout, directory};
use crate::layer::Applying;
use crate::layer_source::LayerSource;
use crate::stream;
use crate::tree::{Body, Meta, Node, ROOT, S_IFDIR, Tree};
use forkd_core::{Env, Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

/// A file that is put on a disk, as root's, after all layers.
#[derive(Debug, Clone)]
pub struct ExtraFile {
    /// Its absolute path; links on the way are followed, folders made.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    pub contents: Vec<u8>,
}

/// How a disk is made.
#[derive(Debug, Clone, Default)]
pub struct DiskOptions {
    /// Its size in bytes; where absent, what is on it, a quarter more, and 1 GiB.
    pub size: Option<u64>,
    /// Made on it where no layer has them; their paths may lead through links. A path that leads through a file is passed over.
    pub folders: Vec<String>,
    /// Put on it last.
    pub extra: Vec<ExtraFile>,
}

/// What was made.
#[derive(Debug, Clone, Copy)]
pub struct DiskReport {
    /// Its size in bytes.
    pub size: u64,
    /// Of these, those that hold something.
    pub used: u64,
    /// Files, folders and links on it.
    pub files: u64,
}

/// The most that files of an image without a given size may hold, in bytes.
const MAX_BYTES: u64 = 64 << 30;
const SPARE: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Makes an ext4 filesystem of layers, lowest first, in an empty file. The same layers make the same bytes.
///
/// # Errors
/// [`forkd_core::Kind::Integrity`] where a layer is not what it was declared to be or breaks a rule of docs/format/rootfs.md,
/// [`forkd_core::Kind::Usage`] where the disk is too small. What is in the file then is worth nothing.
pub fn build_disk(
    layers: &[LayerSource],
    file: &File,
    options: &DiskOptions,
    env: Env<'_>,
) -> Result<DiskReport> {
    let path = Path::new("the root disk");
    let file = file.try_clone().map_err(Error::io("open", path))?;
    let (most, limit) = match options.size {
        Some(size) => (size, Layout::block_count(size)?),
        // Until it is known: more than everything that may come.
        None => (MAX_BYTES, Layout::block_count(2 * MAX_BYTES)?),
    };
    let largest = options.size.unwrap_or(MAX_BYTES / 4 * 5 + 2 * SPARE);
    let reserved = Layout::reserved(largest)?;
    let mut blocks = Blocks::new(file, path.to_owned(), reserved, limit);
    let mut tree = Tree::new();
    let mut applying = Applying::new(&mut tree, &mut blocks, most, env);
    env.progress.start("unpacking layers", None);
    let applied = stream::each(layers, env, &mut |number, layer, input| {
        applying.tree.layer = number;
        applying.layer(input, &layer.name)
    });
    env.progress.finish();
    applied?;
    applying.tree.layer = layers.len();
    options.folders.iter().for_each(|folder| applying.folder(folder));
    for extra in &options.extra {
        applying.file(&extra.path, extra.mode, &extra.contents)?;
    }
    lost_and_found(&mut tree, &mut blocks)?;
    finish(&tree, blocks, options.size, reserved)
}

/// The folder that e2fsck wants, if the image has none.
fn lost_and_found(tree: &mut Tree, blocks: &mut Blocks) -> Result<()> {
    const NAME: &[u8] = b"lost+found";
    if tree.folder(ROOT).and_then(|root| root.get(NAME)).is_none_or(|entry| tree.folder(entry.node).is_none())
    {
        let meta = Meta { mode: 0o700, ..Meta::default() };
        let node = Node { meta, body: Body::Folder(BTreeMap::new()), links: 1 };
        tree.put(ROOT, NAME, node, blocks)?.map_err(|why| Error::new(forkd_core::Kind::Integrity, why))?;
    }
    Ok(())
}

/// The nodes of a tree in the order of their inodes.
struct Numbered {
    /// Folders before what is in them; each with its parent.
    order: Vec<(usize, usize)>,
    inodes: HashMap<usize, u32>,
}

fn number(tree: &Tree) -> Numbered {
    let mut found =
        Numbered { order: vec![(ROOT, ROOT)], inodes: HashMap::from([(ROOT, crate::ext4::ROOT)]) };
    let lost = tree.folder(ROOT).and_then(|root| root.get(b"lost+found".as_slice())).map(|entry| entry.node);
    found.inodes.extend(lost.map(|node| (node, LOST_AND_FOUND)));
    let (mut next, mut at) = (FIRST_INODE, 0);
    while let Some(&(folder, _)) = found.order.get(at) {
        at += 1;
        for entry in tree.folder(folder).into_iter().flat_map(BTreeMap::values) {
            if Some(entry.node) == lost {
                found.order.push((entry.node, folder));
            } else if let std::collections::hash_map::Entry::Vacant(free) = found.inodes.entry(entry.node) {
                free.insert(next);
                next += 1;
                found.order.push((entry.node, folder));
            }
        }
    }
    found
}

/// Writes what is not the bytes of files.
fn finish(tree: &Tree, mut blocks: Blocks, size: Option<u64>, reserved: u32) -> Result<DiskReport> {
    let Numbered { order, inodes } = number(tree);
    let mut table = vec![[0; 256]; FIRST_INODE as usize - 1 + order.len().saturating_sub(2)];
    for (at, parent) in &order {
        let (Some(node), Some(inode)) = (tree.node(*at), inodes.get(at)) else { continue };
        let inode_of = |node: &usize| inodes.get(node).copied().unwrap_or_default();
        let folder;
        let content = match &node.body {
            Body::Folder(entries) => {
                let own = [(b".".as_slice(), *inode, S_IFDIR), (b"..".as_slice(), inode_of(parent), S_IFDIR)];
                let named = entries.iter().map(|(name, entry)| {
                    (&**name, inode_of(&entry.node), tree.node(entry.node).map_or(0, Node::mode))
                });
                let bytes = directory(own.into_iter().chain(named));
                folder = write_folder(&bytes, &mut blocks)?;
                Content::Extents(bytes.len() as u64, &folder)
            }
            Body::File(size, extents) => Content::Extents(*size, extents),
            Body::Link(target) => Content::Link(target),
            Body::Fifo => Content::Nothing,
            Body::CharDevice(major, minor) | Body::BlockDevice(major, minor) => {
                Content::Device(*major, *minor)
            }
        };
        let links = match &node.body {
            Body::Folder(entries) => {
                let below = entries.values().filter(|entry| tree.folder(entry.node).is_some()).count();
                2 + below as u32
            }
            _ => node.links,
        };
        let written = Inode {
            mode: node.mode(),
            uid: node.meta.uid,
            gid: node.meta.gid,
            mtime: node.meta.mtime,
            links,
            xattrs: &node.meta.xattrs,
            content,
        };
        if let Some(place) = table.get_mut(*inode as usize - 1) {
            *place = written.encode(&mut blocks, &|| format!("a file of the image (inode {inode})"))?;
        }
    }
    let used = u64::from(blocks.end()) * BLOCK as u64;
    // The tables of inodes want a 64th part.
    let size = size.unwrap_or_else(|| (used / 4 * 5 + used / 32 + SPARE).next_multiple_of(MIB));
    blocks.set_limit(Layout::block_count(size)?);
    Layout::new(size, table.len() as u32)?.write(&table, &mut blocks, reserved)?;
    Ok(DiskReport { size, used, files: order.len() as u64 })
}

fn write_folder(bytes: &[u8], blocks: &mut Blocks) -> Result<Vec<Extent>> {
    let mut extents: Vec<Extent> = Vec::new();
    for (logical, chunk) in (0..).zip(bytes.chunks(BLOCK)) {
        let start = blocks.take()?;
        blocks.write(start, chunk)?;
        match extents.last_mut() {
            Some(last) if last.start + last.len == start => last.len += 1,
            _ => extents.push(Extent { logical, start, len: 1 }),
        }
    }
    Ok(extents)
}
