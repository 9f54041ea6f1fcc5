//! What stands before the frames of a pack.

use crate::error::{Error, Kind, Result};
use crate::pack::computed_id::ComputedId;
use crate::pack::paged::set_places::SetPlaces;
use crate::pack::stream::read::PackStream;
use crate::pack::stream::zstd_frames::{Rest, read_error};
use forkd_format::manifest::{FileEntry, SNAPSHOT_JSON};
use forkd_format::paged::{
    FRAME_PAGES, FileRoot, Index, Plan, SKIPPABLE_HEADER, StoredFrame, frame_len, parse_index_frame_header,
};
use forkd_format::{Digest, FormatError, Manifest};
use std::collections::BTreeSet;
use std::io::Read;

/// Bytes of padding that may follow an index.
const MAX_PADDING: u64 = 1 << 20;

/// The most that may follow the frames: the end of the archive, in a zstd frame of its own.
const MAX_TRAILER: u64 = 1 << 10;

/// The manifest and the index of a pack, checked.
pub(crate) struct PagedHeader {
    pub(crate) manifest: Manifest,
    /// The manifest names the index, which names all the rest, and so the pack.
    pub(crate) id: ComputedId,
    pub(crate) index: Index,
    /// Where the pages of the working set stand in the files.
    pub(crate) set: SetPlaces,
    /// The stored frames of each file, and behind them of the working set, counted over the pack.
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
        let set = SetPlaces::new(index.set.pages().collect());
        let is_text = |(_, file): (_, &FileEntry)| file.path == SNAPSHOT_JSON;
        let texts: Vec<bool> = manifest.files().map(is_text).collect();
        if set.pages().iter().any(|(file, _)| texts[*file]) {
            return Err(wrong("its working set has a page of a description".into()));
        }
        let mut ids = vec![0..0; files.len() + 1];
        let (mut places, mut stored) = (Vec::new(), Vec::new());
        for (id, (file, number, frame)) in index.stored().enumerate() {
            if ids[file].is_empty() {
                ids[file] = id..id;
            }
            ids[file].end = id + 1;
            places.push((file as u32, number as u32));
            stored.push(frame.clone());
        }
        Ok((Self { manifest, id, index, set, ids, places, stored }, rest))
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
        self.index.files.len()
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

    /// Whether each page of a frame of the working set stands in one of some frames of files.
    pub(crate) fn pages_are_in(&self, id: usize, frames: impl Fn(usize) -> bool) -> bool {
        let (_, number) = self.place(id);
        let mut pages = self.set.pages().iter().skip(number * FRAME_PAGES).take(FRAME_PAGES);
        pages.all(|(file, page)| self.id(*file, *page as usize / FRAME_PAGES).is_some_and(&frames))
    }

    /// Bytes that a stored frame covers.
    pub(crate) fn len(&self, id: usize) -> usize {
        let (file, number) = self.place(id);
        let size = self.index.files.get(file).unwrap_or(&self.index.set.frames).size;
        frame_len(size, number)
    }

    /// Of the whole pages that a source has, those that a frame may refer to: earlier ones. `None` where it may refer to none.
    pub(crate) fn pages_before(&self, id: usize, source: usize, known: u64) -> Option<u64> {
        let (file, number) = self.place(id);
        let before = known.min((number * FRAME_PAGES) as u64);
        let Some(other) = source.checked_sub(self.manifest.bases.len()) else { return Some(known) };
        match (file == self.set_file(), other == self.set_file()) {
            (true, true) => Some(before),
            (false, true) => Some(known),
            (true, false) => None,
            (false, false) => match other.cmp(&file) {
                std::cmp::Ordering::Less => Some(known),
                std::cmp::Ordering::Equal => Some(before),
                std::cmp::Ordering::Greater => None,
            },
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
            let Some(other) = run.source.checked_sub(self.manifest.bases.len()) else { continue };
            let frames = [run.page, run.page + run.count as u64 - 1].map(|page| page as usize / FRAME_PAGES);
            for id in (frames[0]..=frames[1]).filter_map(|number| self.id(other, number)) {
                if other != self.set_file() && declared.binary_search(&(id as u32)).is_err() {
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
        found
            .map_or_else(|| "the working set".to_owned(), |(link, file)| self.manifest.entry_name(link, file))
    }

    /// Where the frames end.
    pub(crate) fn data_end(&self) -> u64 {
        self.index.header_len + self.index.data_len
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
