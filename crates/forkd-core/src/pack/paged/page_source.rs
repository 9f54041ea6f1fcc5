//! Files that frames refer to.

use crate::error::{Error, Result};
use forkd_format::PAGE_SIZE;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A file whose pages frames may refer to: a base, a file of the pack itself, or its working set.
#[derive(Debug)]
pub(crate) struct PageSource {
    body: PageBody,
    pub(crate) path: PathBuf,
    size: u64,
}

#[derive(Debug)]
enum PageBody {
    /// Nothing can be referred to.
    None,
    File(File),
    Set(SetPages),
}

/// The pages of a working set, each where it stands in its file.
#[derive(Debug)]
pub(crate) struct SetPages {
    /// The pack's files; `None` for those that no page may be of.
    pub(crate) files: Vec<Option<File>>,
    /// The file and the page in it.
    pub(crate) pages: Vec<(usize, u64)>,
}

impl PageSource {
    pub(crate) fn file(file: File, path: PathBuf, size: u64) -> Self {
        Self { body: PageBody::File(file), path, size }
    }

    /// One that nothing can refer to.
    pub(crate) fn none(path: impl Into<PathBuf>) -> Self {
        Self { body: PageBody::None, path: path.into(), size: 0 }
    }

    /// The working set whose pages stand in these files.
    pub(crate) fn set<'s>(
        files: impl IntoIterator<Item = &'s Self>,
        pages: Vec<(usize, u64)>,
    ) -> Result<Self> {
        let clone = |source: &Self| {
            let file = source.as_file().map(|file| file.try_clone().map_err(Error::io("open", &source.path)));
            file.transpose()
        };
        let files = files.into_iter().map(clone).collect::<Result<_>>()?;
        let size = (pages.len() * PAGE_SIZE) as u64;
        Ok(Self { body: PageBody::Set(SetPages { files, pages }), path: "working set".into(), size })
    }

    /// The same once more.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let again = |file: &File| file.try_clone().map_err(Error::io("open", &self.path));
        let body = match &self.body {
            PageBody::None => PageBody::None,
            PageBody::File(file) => PageBody::File(again(file)?),
            PageBody::Set(set) => PageBody::Set(SetPages {
                files: set
                    .files
                    .iter()
                    .map(|file| file.as_ref().map(again).transpose())
                    .collect::<Result<_>>()?,
                pages: set.pages.clone(),
            }),
        };
        Ok(Self { body, path: self.path.clone(), size: self.size })
    }

    /// The file, where it is one.
    pub(crate) fn as_file(&self) -> Option<&File> {
        match &self.body {
            PageBody::File(file) => Some(file),
            _ => None,
        }
    }

    /// Its bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whole pages; a short one at the end cannot be referred to.
    pub(crate) fn pages(&self) -> u64 {
        self.size / PAGE_SIZE as u64
    }

    /// Reads whole pages.
    pub(crate) fn read(&self, page: u64, buffer: &mut [u8]) -> Result<()> {
        match &self.body {
            PageBody::File(file) => file.read_exact_at(buffer, page * PAGE_SIZE as u64),
            PageBody::Set(set) => set.read(page, buffer),
            PageBody::None => Err(std::io::ErrorKind::UnexpectedEof.into()),
        }
        .map_err(Error::io("read", &self.path))
    }
}

impl SetPages {
    fn read(&self, first: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        for (number, bytes) in (first..).zip(buffer.chunks_exact_mut(PAGE_SIZE)) {
            let place = usize::try_from(number).ok().and_then(|number| self.pages.get(number));
            let Some((Some(file), page)) = place.map(|(file, page)| (self.files[*file].as_ref(), page))
            else {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            };
            file.read_exact_at(bytes, page * PAGE_SIZE as u64)?;
        }
        Ok(())
    }
}
