//! What stands before the frames of a pack.

use crate::error::{Error, Kind, Result};
use crate::pack::computed_id::ComputedId;
use crate::pack::paged::header_parts::{BaseBody, HeaderBase, HeaderFile, HeaderParts, SourceMap};
use crate::pack::paged::set_places::SetPlaces;
use crate::pack::stream::read::PackStream;
use crate::pack::stream::zstd_frames::{Rest, read_error};
use forkd_format::manifest::{FileEntry, SNAPSHOT_JSON};
use forkd_format::paged::{
    FRAME_PAGES, FileFrames, FileRoot, Index, Plan, SKIPPABLE_HEADER, StoredFrame, frame_len,
    parse_index_frame_header,
};
use forkd_format::{Digest, FormatError, Manifest};
use std::collections::BTreeSet;
use std::io::Read;

/// Bytes of padding that may follow an index.
const MAX_PADDING: u64 = 1 << 20;

/// The most that may follow the frames: the end of the archive, in a zstd frame of its own.
const MAX_TRAILER: u64 = 1 << 10;

/// The manifest and the index of a pack, or of a release, checked.
///
/// Files are numbered: those of the links in the manifest's order, then the working set, then bases. Stored frames are numbered over all of them in
/// the order in which files stand, each behind what it refers to.
pub(crate) struct PagedHeader {
    pub(crate) manifest: Manifest,
    /// What names the pack or the release.
    pub(crate) id: ComputedId,
    /// Bytes before the first frame of a pack.
    pub(crate) header_len: u64,
    /// Bytes of all frames.
    pub(crate) data_len: u64,
    /// The frames of the links' files.
    pub(crate) files: Vec<FileFrames>,
    set_frames: FileFrames,
    /// Where the pages of the working set stand in the files.
    pub(crate) set: SetPlaces,
    /// Files that are there only for frames to refer to.
    pub(crate) bases: Vec<HeaderBase>,
    /// Of each file: its place in the order; what it refers to lies before it.
    ranks: Vec<usize>,
    /// Of each file: the global numbers of what its frames call sources; `None` where they use these numbers themselves.
    sources: Vec<Option<SourceMap>>,
    /// Whether frames need those of the working set without naming them.
    set_is_implied: bool,
    /// Of each file: its stored frames.
    ids: Vec<std::ops::Range<usize>>,
    /// Where each stored frame is: file and number in the file.
    places: Vec<(u32, u32)>,
    stored: Vec<StoredFrame>,
}

impl PagedHeader {
    /// Reads on from a manifest of version 3. The rest begins with the first frame.
    pub(crate) fn read<R: Read>(incoming: PackStream<R>, name: &str) -> Result<(Self, Rest<R>)> {
        let (manifest, id, at, mut rest) = incoming.into_rest()?;
        let malformed = |source: FormatError| Error::Malformed { file: name.to_owned(), source };
        let wrong = |message: String| malformed(FormatError::Index(message));
        let Some(declared) = &manifest.index else { return Err(wrong("the manifest declares none".into())) };
        let mut header = [0; SKIPPABLE_HEADER];
        read_exact(&mut rest, &mut header, name)?;
        let room = u64::from(parse_index_frame_header(&header).map_err(malformed)?);
        let files: Vec<(u64, FileRoot)> = manifest
            .files()
            .map(|(_, file)| (file.size, file.root.unwrap_or_else(|| FileRoot::from_bytes([0; 32]))))
            .collect();
        let sizes: Vec<u64> = files.iter().map(|(size, _)| *size).collect();
        let most = Index::max_len(&sizes);
        if declared.size > most.min(room) || room - declared.size > MAX_PADDING.max(most) {
            return Err(wrong(format!(
                "{} bytes in a place of {room}; at most {most} are needed for these files",
                declared.size
            )));
        }
        let mut bytes = Vec::new();
        (&mut rest).take(room).read_to_end(&mut bytes).map_err(|e| read_error(name, e))?;
        if bytes.len() as u64 != room {
            return Err(wrong("the file ends inside it: it was cut off".into()));
        }
        let (bytes, padding) = bytes.split_at(declared.size as usize);
        let found = Digest::of(bytes);
        if found != declared.sha256 {
            return Err(wrong(format!("sha256 is {found}; the manifest declares {}", declared.sha256)));
        }
        if !forkd_sys::is_zero(padding) {
            return Err(wrong("something that is not zero follows it".into()));
        }
        let index = Index::parse(bytes, &files).map_err(malformed)?;
        let header_len = at + SKIPPABLE_HEADER as u64 + room;
        if index.header_len != header_len {
            return Err(wrong(format!("the first frame is at {header_len}; it says {}", index.header_len)));
        }
        let set_pages: Vec<(usize, u64)> = index.set.pages().collect();
        let is_text = |(_, file): (_, &FileEntry)| file.path == SNAPSHOT_JSON;
        let texts: Vec<bool> = manifest.files().map(is_text).collect();
        if set_pages.iter().any(|(file, _)| texts[*file]) {
            return Err(wrong("its working set has a page of a description".into()));
        }
        let own = |frames: FileFrames| HeaderFile { frames, sources: None };
        let none = |size: u64| own(FileFrames { size, frames: Vec::new() });
        let bases = manifest.bases.iter().map(|base| (BaseBody::File(base.clone()), none(base.size)));
        let parts = HeaderParts {
            bases: bases.collect(),
            header_len: index.header_len,
            set: own(index.set.frames),
            set_pages,
            order: std::iter::once(index.files.len()).chain(0..index.files.len()).collect(),
            files: index.files.into_iter().map(own).collect(),
            set_is_implied: true,
            manifest,
            id,
        };
        Ok((Self::new(parts), rest))
    }

    /// Puts together what was checked.
    pub(crate) fn new(parts: HeaderParts) -> Self {
        let HeaderParts { manifest, id, header_len, files, set, set_pages, bases, order, set_is_implied } =
            parts;
        let count = files.len() + 1 + bases.len();
        let (files, mut sources): (Vec<FileFrames>, Vec<Option<SourceMap>>) =
            files.into_iter().map(|file| (file.frames, file.sources)).unzip();
        sources.push(set.sources);
        let mut base_list = Vec::with_capacity(bases.len());
        for (body, file) in bases {
            base_list.push(HeaderBase { body, frames: file.frames });
            sources.push(file.sources);
        }
        let mut header = Self {
            manifest,
            id,
            header_len,
            data_len: 0,
            files,
            set_frames: set.frames,
            set: SetPlaces::new(set_pages),
            bases: base_list,
            ranks: vec![0; count],
            sources,
            set_is_implied,
            ids: vec![0..0; count],
            places: Vec::new(),
            stored: Vec::new(),
        };
        for (rank, file) in order.into_iter().enumerate() {
            header.ranks[file] = rank + 1;
            let begin = header.stored.len();
            let frames = header.frames_of(file).frames.iter().enumerate();
            let frames: Vec<(usize, StoredFrame)> =
                frames.filter_map(|(number, frame)| Some((number, frame.clone()?))).collect();
            for (number, frame) in frames {
                header.places.push((file as u32, number as u32));
                header.data_len += u64::from(frame.len);
                header.stored.push(frame);
            }
            header.ids[file] = begin..header.stored.len();
        }
        header
    }

    /// The frames of a file, the working set and bases included.
    pub(crate) fn frames_of(&self, file: usize) -> &FileFrames {
        match file.checked_sub(self.files.len()) {
            None => &self.files[file],
            Some(0) => &self.set_frames,
            Some(base) => &self.bases[base - 1].frames,
        }
    }

    /// The file that a source is.
    fn file_of_source(&self, source: usize) -> usize {
        match source.checked_sub(self.bases.len()) {
            Some(file) => file,
            None => self.base_file(source),
        }
    }

    /// The number that a base has among the files.
    pub(crate) fn base_file(&self, base: usize) -> usize {
        self.set_file() + 1 + base
    }

    /// The base that a file is.
    pub(crate) fn base_of(&self, file: usize) -> Option<usize> {
        file.checked_sub(self.set_file() + 1)
    }

    /// The stored frames of a file.
    pub(crate) fn ids_of(&self, file: usize) -> std::ops::Range<usize> {
        self.ids[file].clone()
    }

    /// What a frame calls a source, by its global number.
    pub(crate) fn source(&self, id: usize, named: usize) -> Option<usize> {
        match &self.sources[self.place(id).0] {
            Some(map) => map.get(named).copied().flatten(),
            None => Some(named),
        }
    }

    /// The frames that must come where some are here: those of links and of the working set, and what they need.
    pub(crate) fn wanted(&self, here: impl Fn(usize) -> bool) -> BTreeSet<usize> {
        let own = (0..self.frames()).filter(|id| self.place(*id).0 <= self.set_file()).collect();
        self.closure(&own, here)
    }

    /// How many frames are stored.
    pub(crate) fn frames(&self) -> usize {
        self.places.len()
    }

    /// All stored frames, in their order.
    pub(crate) fn all_stored(&self) -> &[StoredFrame] {
        &self.stored
    }

    /// A stored frame, by its place in the pack.
    pub(crate) fn stored(&self, id: usize) -> &StoredFrame {
        &self.stored[id]
    }

    /// The file and the number in it of a stored frame, by its place in the pack.
    pub(crate) fn place(&self, id: usize) -> (usize, usize) {
        let (file, number) = self.places[id];
        (file as usize, number as usize)
    }

    /// The place in the pack of a file's frame; `None` where it is all zero.
    pub(crate) fn id(&self, file: usize, number: usize) -> Option<usize> {
        let ids = self.ids[file].clone();
        let found = self.places[ids.clone()].binary_search_by_key(&(number as u32), |(_, number)| *number);
        found.ok().map(|at| ids.start + at)
    }

    /// The number that the working set has among the files: it counts as the one behind the last.
    pub(crate) fn set_file(&self) -> usize {
        self.files.len()
    }

    /// The places in the pack of the working set's frames.
    pub(crate) fn set_ids(&self) -> std::ops::Range<usize> {
        self.ids[self.set_file()].clone()
    }

    /// The frames of the working set that hold pages of a frame of a file.
    pub(crate) fn set_needs(&self, file: usize, number: usize) -> impl Iterator<Item = usize> + '_ {
        let pages = self.set.in_frame(file, number);
        pages.filter_map(|(_, page)| self.id(self.set_file(), page as usize / FRAME_PAGES))
    }

    /// Some frames and all that they need, but for those that are here.
    pub(crate) fn closure(&self, frames: &BTreeSet<usize>, here: impl Fn(usize) -> bool) -> BTreeSet<usize> {
        let mut all = BTreeSet::new();
        let mut left: Vec<usize> = frames.iter().copied().collect();
        while let Some(id) = left.pop() {
            if !here(id) && all.insert(id) {
                left.extend(self.stored[id].needs.iter().map(|need| *need as usize));
            }
        }
        all
    }

    /// The pages of which a working set is made, the pack's own or a base.
    pub(crate) fn set_pages(&self, file: usize) -> Option<&[(usize, u64)]> {
        match self.base_of(file).map(|base| &self.bases[base].body) {
            Some(BaseBody::Set(pages)) => Some(pages),
            None if file == self.set_file() => Some(self.set.pages()),
            _ => None,
        }
    }

    /// The frames of all working sets.
    pub(crate) fn all_set_ids(&self) -> Vec<usize> {
        let files = (self.set_file()..self.ids.len()).filter(|file| self.set_pages(*file).is_some());
        files.flat_map(|file| self.ids_of(file)).collect()
    }

    /// Whether each page of a frame of a working set stands in one of some frames of files.
    pub(crate) fn pages_are_in(&self, id: usize, frames: impl Fn(usize) -> bool) -> bool {
        let (file, number) = self.place(id);
        let mut pages =
            self.set_pages(file).unwrap_or(&[]).iter().skip(number * FRAME_PAGES).take(FRAME_PAGES);
        pages.all(|(file, page)| self.id(*file, *page as usize / FRAME_PAGES).is_some_and(&frames))
    }

    /// Whether all pages of a base that is a working set stand in frames that are here.
    pub(crate) fn base_set_is_in(&self, base: usize, here: impl Fn(usize) -> bool) -> bool {
        let mut ids = self.ids_of(self.base_file(base));
        matches!(self.bases[base].body, BaseBody::Set(_)) && ids.all(|id| self.pages_are_in(id, &here))
    }

    /// Bytes that a stored frame covers.
    pub(crate) fn len(&self, id: usize) -> usize {
        let (file, number) = self.place(id);
        frame_len(self.frames_of(file).size, number)
    }

    /// Of the whole pages that a source has, those that a frame may refer to: earlier ones. `None` where it may refer to none.
    pub(crate) fn pages_before(&self, id: usize, source: usize, known: u64) -> Option<u64> {
        let (file, number) = self.place(id);
        let other = self.file_of_source(source);
        match self.ranks.get(other)?.cmp(&self.ranks[file]) {
            std::cmp::Ordering::Less => Some(known),
            std::cmp::Ordering::Equal if other == file => Some(known.min((number * FRAME_PAGES) as u64)),
            _ => None,
        }
    }

    /// The frames of the pack that must be there before a frame can be decoded, the working set's included.
    ///
    /// # Errors
    /// Where its plan refers to frames that the index does not name for it.
    pub(crate) fn needs(&self, id: usize, plan: &Plan) -> std::result::Result<Vec<usize>, FormatError> {
        let (file, number) = self.place(id);
        let declared = &self.stored[id].needs;
        let mut needs: Vec<usize> =
            if file == self.set_file() { Vec::new() } else { self.set_needs(file, number).collect() };
        for (run, _) in plan.references() {
            let other = self.file_of_source(run.source);
            let implied = self.set_is_implied && other == self.set_file();
            let frames = [run.page, run.page + run.count as u64 - 1].map(|page| page as usize / FRAME_PAGES);
            for id in (frames[0]..=frames[1]).filter_map(|number| self.id(other, number)) {
                if !implied && declared.binary_search(&(id as u32)).is_err() {
                    let message = "its plan refers to a frame that the index does not name for it";
                    return Err(FormatError::Frame(message.into()));
                }
                needs.push(id);
            }
        }
        needs.sort_unstable();
        needs.dedup();
        Ok(needs)
    }

    /// The name of a file, as messages have it.
    pub(crate) fn member(&self, file: usize) -> String {
        let found = self.manifest.files().nth(file);
        match (found, self.base_of(file)) {
            (Some((link, file)), _) => self.manifest.entry_name(link, file),
            (None, Some(base)) => self.bases[base].label(),
            (None, None) => "the working set".to_owned(),
        }
    }

    /// Where the frames end.
    pub(crate) fn data_end(&self) -> u64 {
        self.header_len + self.data_len
    }

    /// Holds the size of the whole pack against the index.
    pub(crate) fn check_size(&self, size: u64, name: &str) -> Result<()> {
        let end = self.data_end();
        if (end..=end + MAX_TRAILER).contains(&size) {
            return Ok(());
        }
        let message = format!("{name}: {size} bytes; by its index the pack's frames end at {end}");
        Err(Error::new(Kind::Integrity, message))
    }
}

/// Reads exactly so much of a pack.
pub(crate) fn read_exact(input: &mut impl Read, buffer: &mut [u8], name: &str) -> Result<()> {
    input.read_exact(buffer).map_err(|e| {
        if e.kind() == std::io::ErrorKind::UnexpectedEof && e.get_ref().is_none_or(|e| !e.is::<Error>()) {
            let source = FormatError::Frame("the file ends inside a frame: it was cut off".into());
            return Error::Malformed { file: name.to_owned(), source };
        }
        read_error(name, e)
    })
}
