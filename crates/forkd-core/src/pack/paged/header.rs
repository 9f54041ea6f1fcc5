//! What stands before the frames of a pack.

use crate::error::{Error, Kind, Result};
use crate::pack::computed_id::ComputedId;
use crate::pack::stream::read::PackStream;
use crate::pack::stream::zstd_frames::{Rest, read_error};
use forkd_format::paged::{
    FRAME_PAGES, FileRoot, Index, SKIPPABLE_HEADER, StoredFrame, parse_index_frame_header,
};
use forkd_format::{Digest, FormatError, Manifest};
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
    /// The first stored frame of each file, counted over the pack.
    first: Vec<u32>,
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
        let mut first = Vec::with_capacity(files.len());
        let mut places = Vec::new();
        for (file, table) in index.files.iter().enumerate() {
            first.push(places.len() as u32);
            let stored = table.frames.iter().enumerate().filter(|(_, frame)| frame.is_some());
            places.extend(stored.map(|(number, _)| (file as u32, number as u32)));
        }
        let stored = index.stored().map(|(_, _, frame)| *frame).collect();
        Ok((Self { manifest, id, index, first, places, stored }, rest))
    }

    /// How many frames are stored.
    pub(crate) fn frames(&self) -> usize {
        self.places.len()
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
        self.index.files[file].frames.get(number)?.as_ref()?;
        let begin = self.first[file] as usize;
        let end = self.first.get(file + 1).map_or(self.places.len(), |first| *first as usize);
        let found = self.places[begin..end].binary_search_by_key(&(number as u32), |(_, number)| *number);
        found.ok().map(|at| begin + at)
    }

    /// Of the whole pages that a source has, those that a frame, told by its file and its number in it, may refer to: earlier
    /// ones. `None` where it may refer to none.
    pub(crate) fn pages_before(
        &self,
        (file, number): (usize, usize),
        source: usize,
        known: u64,
    ) -> Option<u64> {
        match source.checked_sub(self.manifest.bases.len()) {
            Some(same) if same == file => Some(known.min((number * FRAME_PAGES) as u64)),
            Some(later) if later > file => None,
            _ => Some(known),
        }
    }

    /// The name of a file, as messages have it.
    pub(crate) fn member(&self, file: usize) -> String {
        let found = self.manifest.files().nth(file);
        found.map_or_else(String::new, |(link, file)| self.manifest.entry_name(link, file))
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
