use crate::chain::link::earliest;
use crate::chain::pieces::{self, extents};
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::description::memory_digest;
use crate::store::stored::{StoredSnapshot, check_file};
use forkd_format::manifest::MEMORY;
use forkd_format::{Digest, PAGE_SIZE, Tag};
use forkd_sys::{DiskIo, is_zero};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A chain's memory: that of its root and what each link changes.
pub(crate) struct Layers {
    layers: Vec<Layer>,
    size: u64,
}

struct Layer {
    tag: Tag,
    file: File,
    path: PathBuf,
    /// Runs of pages that are zero from here on.
    zeros: Vec<(u64, u64)>,
}

impl Layers {
    /// Opens the memories of a chain, root first, after a look at whether they are what was stored and belong together.
    ///
    /// # Errors
    /// [`Kind::Integrity`] where they are or do not.
    pub(crate) fn open(chain: &[StoredSnapshot], size: u64, env: Env<'_>) -> Result<Self> {
        let mut layers: Vec<Layer> = Vec::with_capacity(chain.len());
        for (i, stored) in chain.iter().enumerate() {
            env.cancel.check()?;
            let path = stored.dir.join(MEMORY);
            let wrong = |what: String| Error::new(Kind::Integrity, format!("{}: {what}", path.display()));
            let file = stored.open(&path)?;
            check_file(stored, MEMORY, &path)?;
            let found = file.metadata().map_err(Error::io("read", &path))?.len();
            if found != size {
                return Err(wrong(format!("{found} bytes; the chain's memory has {size}")));
            }
            let malformed = || Error::malformed(stored.dir.display().to_string());
            let zeros = stored.snapshot.zero_pages().map_err(malformed())?;
            let pages = size.div_ceil(PAGE_SIZE as u64);
            if let Some((first, count)) = zeros.last().filter(|(first, count)| first + count > pages) {
                return Err(wrong(format!("zero_pages has [{first},{count}]; there are {pages} pages")));
            }
            let parent = stored.snapshot.parent().map_err(malformed())?;
            match (parent, i.checked_sub(1).map(|above| &chain[above])) {
                (None, None) => {}
                (Some(edge), Some(parent)) if edge.tag == parent.tag => {
                    let found = memory_digest(parent)?;
                    if let Some(expected) = edge.content_hash.filter(|expected| *expected != found) {
                        let message = format!(
                            "'{}': parent_content_hash is {expected}, but '{}' has {found}",
                            stored.tag, parent.tag
                        );
                        return Err(Error::new(Kind::Integrity, message));
                    }
                }
                _ => {
                    let message = format!("'{}' is not chained to what comes before it", stored.tag);
                    return Err(Error::new(Kind::Integrity, message));
                }
            }
            layers.push(Layer { tag: stored.tag.clone(), file, path, zeros });
        }
        Ok(Self { layers, size })
    }

    /// Writes the head's whole memory into an empty file; gives its digest. Zero pages stay holes.
    pub(crate) fn assemble(&self, disk: &DiskIo, out: &File, path: &Path, env: Env<'_>) -> Result<Digest> {
        disk.set_len(out, path, self.size).map_err(Error::io("write", path))?;
        let make = |piece: &mut [u8], spare: &mut [u8], at: u64| {
            let mut layers = self.layers.iter();
            if let Some(root) = layers.next() {
                pieces::read(&root.file, piece, at).map_err(Error::io("read", &root.path))?;
            }
            layers.try_for_each(|link| link.lay_over(piece, spare, at))?;
            pieces::write_pages((disk, out, path), piece, at, &mut |_, page| !is_zero(page))
                .map_err(Error::io("write", path))
        };
        let files: Vec<&File> = self.layers.iter().map(|layer| &layer.file).collect();
        let next = |at| earliest(&files, at).map_err(Error::io("read", path));
        env.progress.start("assembling", Some(self.size));
        let digest = pieces::run(self.size, &next, &make, env);
        env.progress.finish();
        digest
    }
}

impl Layer {
    fn lay_over(&self, piece: &mut [u8], spare: &mut [u8], at: u64) -> Result<()> {
        let failed = || Error::io("read", &self.path);
        let end = at + piece.len() as u64;
        let zeros = self.zeros_in(at / PAGE_SIZE as u64, end.div_ceil(PAGE_SIZE as u64));
        for extent in extents(&self.file, at, end).map_err(failed())? {
            let range = (extent.start - at) as usize..(extent.end - at) as usize;
            self.file.read_exact_at(&mut spare[range.clone()], extent.start).map_err(failed())?;
            let pages = spare[range.clone()].chunks(PAGE_SIZE).zip(piece[range].chunks_mut(PAGE_SIZE));
            for (i, (new, old)) in pages.enumerate().filter(|(_, (new, _))| !is_zero(new)) {
                let page = extent.start / PAGE_SIZE as u64 + i as u64;
                if zeros.iter().any(|(first, count)| (*first..first + count).contains(&page)) {
                    let message =
                        format!("'{}': zero_pages lists page {page}, which memory.bin holds", self.tag);
                    return Err(Error::new(Kind::Integrity, message));
                }
                old.copy_from_slice(new);
            }
        }
        for (first, count) in zeros {
            let from = (first * PAGE_SIZE as u64).max(at);
            let to = ((first + count) * PAGE_SIZE as u64).min(end);
            piece[(from - at) as usize..(to - at) as usize].fill(0);
        }
        Ok(())
    }

    /// The runs that reach into some pages.
    fn zeros_in(&self, from: u64, to: u64) -> &[(u64, u64)] {
        let start = self.zeros.partition_point(|(first, count)| first + count <= from);
        let end = self.zeros.partition_point(|(first, _)| *first < to);
        &self.zeros[start..end.max(start)]
    }
}
