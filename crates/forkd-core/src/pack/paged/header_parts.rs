//! What a header is put together from.

use crate::pack::computed_id::ComputedId;
use forkd_format::Manifest;
use forkd_format::manifest::Base;
use forkd_format::paged::FileFrames;

/// The global number of each source that frames of a file may name.
pub(crate) type SourceMap = Vec<Option<usize>>;

/// A file that frames refer to and that is no file of a link.
pub(crate) struct HeaderBase {
    pub(crate) body: BaseBody,
    /// Its frames, where it can be fetched.
    pub(crate) frames: FileFrames,
}

/// What a base is.
pub(crate) enum BaseBody {
    File(Base),
    /// Another snapshot's working set: file and page of each of its pages.
    Set(Vec<(usize, u64)>),
}

/// A file of a header.
pub(crate) struct HeaderFile {
    pub(crate) frames: FileFrames,
    pub(crate) sources: Option<SourceMap>,
}

/// What a header is made of.
pub(crate) struct HeaderParts {
    pub(crate) manifest: Manifest,
    pub(crate) id: ComputedId,
    pub(crate) header_len: u64,
    /// Of the links, in the manifest's order.
    pub(crate) files: Vec<HeaderFile>,
    pub(crate) set: HeaderFile,
    /// File and page of each page of the working set.
    pub(crate) set_pages: Vec<(usize, u64)>,
    pub(crate) bases: Vec<(BaseBody, HeaderFile)>,
    /// The numbers of all files that have frames, each behind those that it refers to.
    pub(crate) order: Vec<usize>,
    pub(crate) set_is_implied: bool,
}

impl HeaderBase {
    /// What messages call it.
    pub(crate) fn label(&self) -> String {
        match &self.body {
            BaseBody::File(base) => format!("{} of '{}'", base.path, base.name),
            BaseBody::Set(_) => "a working set".to_owned(),
        }
    }
}
