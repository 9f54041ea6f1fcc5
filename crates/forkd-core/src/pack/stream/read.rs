//! Reads a pack with all cores: frames are decoded in parallel, their content is placed in order, hashed in order and written in
//! order, each by whichever core is free. Nothing of the pack is trusted before it was checked.

use crate::digest::block_sums::BlockSums;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::computed_id::ComputedId;
use crate::pack::stream::content::{FilePart, FrameContent, PartBytes, Placement, Sink};
use crate::pack::stream::zstd_frames::{Chunk, FrameSource, Piece, Pieces, Rest};
use crate::pipeline::buffers::{DECODED_IN_FLIGHT, frames_in_flight};
use crate::pipeline::lanes::{self, LaneKind, Lanes};
use crate::pipeline::mutex::lock;
use forkd_format::manifest::FileEntry;
use forkd_format::reader::{FileId, PackEvent, PackReader};
use forkd_format::{FormatError, Hasher, Manifest};
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use zstd::bulk::Decompressor;

// Hashing is serial within a file. Files take turns in a few lanes, so that the end of one (often zeros) and the beginning of the
// next are hashed at the same time. Writing has one lane: the kernel lets one thread at a time write to a file.
const PLACE: usize = 0;

const HASH: usize = 1;

const HASH_LANES: usize = 4;

const WRITE: usize = HASH + HASH_LANES;

const DECODE: usize = WRITE + 1;

const LANES: [LaneKind; DECODE + 1] = {
    let mut lanes = [LaneKind::Ordered; DECODE + 1];
    lanes[DECODE] = LaneKind::Parallel;
    lanes
};

/// A manifest has one frame, or two; whoever cuts it finer means no good.
const MAX_FRAMES_BEFORE_MANIFEST: usize = 64;

const HOLE_STEP: usize = 64 << 20;

/// A pack whose manifest was read, and nothing behind it.
pub(crate) struct PackStream<R> {
    source: FrameSource<R>,
    reader: PackReader,
    pieces: Pieces,
    pending: Option<Placement>,
    manifest: Manifest,
    name: String,
}

struct PlaceState {
    reader: PackReader,
    /// Jobs that each hash lane was given.
    hash_jobs: [u64; HASH_LANES],
    /// Jobs that the write lane was given.
    write_jobs: u64,
}

/// Per-file state that a lane works on: what it computes, and how many bytes it has seen.
type PerFile<T> = Vec<Vec<Mutex<Option<(T, u64)>>>>;

fn per_file<T>(manifest: &Manifest) -> PerFile<T> {
    manifest.links.iter().map(|link| link.files.iter().map(|_| Mutex::new(None)).collect()).collect()
}

/// Adds bytes to a file's state; gives the state back once the file is complete.
fn add<T: Default>(
    files: &PerFile<T>,
    id: FileId,
    len: u64,
    size: u64,
    update: impl FnOnce(&mut T),
) -> Option<T> {
    let mut slot = lock(&files[id.link][id.file]);
    let (state, received) = slot.get_or_insert_with(|| (T::default(), 0));
    update(state);
    *received += len;
    if *received == size { slot.take().map(|(state, _)| state) } else { None }
}

/// What the jobs of one run share.
struct StreamRead<'e, S> {
    name: &'e str,
    manifest: &'e Manifest,
    sink: &'e S,
    place: Mutex<PlaceState>,
    hashers: PerFile<Hasher>,
    sums: PerFile<BlockSums>,
    decoders: Mutex<Vec<Decompressor<'static>>>,
    /// A frame that was seen to decode to zeros, and to how many: its like need no decoding.
    zero_frame: Mutex<(usize, Vec<u8>)>,
}

impl<R: Read> PackStream<R> {
    /// Reads up to the end of the manifest.
    pub(crate) fn open(input: R, name: &str, env: Env<'_>) -> Result<Self> {
        let mut source = FrameSource::new(input, name);
        let pieces = Pieces::new(frames_in_flight(env.jobs), DECODED_IN_FLIGHT);
        let mut reader = PackReader::default();
        for _ in 0..MAX_FRAMES_BEFORE_MANIFEST {
            let Some(chunk) = source.next(pieces.take(false, env.cancel, || false)?)? else {
                let missing = reader.finish().err();
                let missing = missing.unwrap_or_else(|| FormatError::Manifest("missing".into()));
                return Err(Error::Malformed { file: name.into(), source: missing });
            };
            let (piece, content) = match chunk {
                Chunk::Decoded { piece, content, .. } => (piece, content),
                Chunk::Frame { mut piece, len, content } => {
                    let mut decoder = Decompressor::new().map_err(decode_error(name))?;
                    decode(&mut decoder, &mut piece, len, content).map_err(Error::malformed(name))?;
                    (piece, content)
                }
            };
            let mut at = 0;
            while at < content {
                let (taken, event) = reader.step(&piece.raw[at..content]).map_err(Error::malformed(name))?;
                at += taken;
                if let (Some(PackEvent::Manifest), Some(manifest)) = (event, reader.manifest()) {
                    let content = at..content;
                    let pending = Placement {
                        content: Arc::new(FrameContent::Bytes(piece)),
                        range: content,
                        starts_frame: false,
                    };
                    let manifest = manifest.clone();
                    // A paged pack says in its index how long it is; that is checked by whoever reads it.
                    if !manifest.format().is_paged() {
                        source.expect(manifest.most_streamed());
                    }
                    return Ok(Self {
                        source,
                        reader,
                        pieces,
                        pending: Some(pending),
                        manifest,
                        name: name.into(),
                    });
                }
            }
        }
        let message =
            format!("the manifest does not end within the first {MAX_FRAMES_BEFORE_MANIFEST} frames");
        Err(Error::Malformed { file: name.into(), source: FormatError::Manifest(message) })
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// For version 3: the digest that names the pack, where what follows the manifest begins, and that. The frame that holds the
    /// manifest must hold nothing else.
    pub(crate) fn into_rest(self) -> Result<(Manifest, ComputedId, u64, Rest<R>)> {
        let Self { source, reader, pending, manifest, name, .. } = self;
        let padding =
            pending.as_ref().map_or(&[][..], |placing| &placing.content.bytes()[placing.range.clone()]);
        let (id, len) = ComputedId::of_manifest(&reader);
        if padding.len() != forkd_format::layout::padding(len) || !forkd_sys::is_zero(padding) {
            let source =
                FormatError::Manifest("expected its padding behind it in its frame, and no more".into());
            return Err(Error::Malformed { file: name, source });
        }
        let (at, rest) = source.into_rest();
        Ok((manifest, id, at, rest))
    }

    /// Reads the rest into a sink, to the end of the stream. Returns once every file has its declared digest. The input is
    /// given back for checks of its own.
    pub(crate) fn receive<S: Sink>(self, sink: &S, env: Env<'_>) -> Result<R> {
        let Self { mut source, reader, pieces, mut pending, manifest, name } = self;
        let shared = StreamRead {
            name: &name,
            manifest: &manifest,
            sink,
            place: Mutex::new(PlaceState { reader, hash_jobs: [0; HASH_LANES], write_jobs: 0 }),
            hashers: per_file(&manifest),
            sums: per_file(&manifest),
            decoders: Mutex::default(),
            zero_frame: Mutex::default(),
        };
        lanes::run(env.jobs, &LANES, env.cancel, |lanes| {
            let shared = &shared;
            let mut number = 0;
            if let Some(placing) = pending.take() {
                lanes.submit_ordered(PLACE, number, move |lanes| shared.place(lanes, &placing));
                number += 1;
            }
            loop {
                let Ok(piece) = pieces.take(source.is_streaming(), env.cancel, || lanes.failed()) else {
                    return env.cancel.check();
                };
                match source.next(piece) {
                    Ok(None) => return Ok(()),
                    Ok(Some(Chunk::Frame { piece, len, content })) => {
                        lanes.submit(DECODE, move |lanes| {
                            shared.decode(lanes, number, piece, len, content);
                            Ok(())
                        });
                    }
                    Ok(Some(Chunk::Decoded { piece, content, starts_frame })) => {
                        let content_range = 0..content;
                        let placing = Placement {
                            content: Arc::new(FrameContent::Bytes(piece)),
                            range: content_range,
                            starts_frame,
                        };
                        lanes.submit_ordered(PLACE, number, move |lanes| shared.place(lanes, &placing));
                    }
                    // Told in its turn, so that the message can say where the good part ends.
                    Err(Error::Malformed { source, .. }) => {
                        lanes.submit_ordered(PLACE, number, move |_| Err(shared.damaged(source, None)));
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
                number += 1;
            }
        })?;
        let place = shared.place.into_inner().unwrap_or_else(PoisonError::into_inner);
        place.reader.finish().map_err(Error::malformed(name.clone()))?;
        Ok(source.into_inner())
    }
}

impl<'e, S: Sink> StreamRead<'e, S> {
    fn decode(&'e self, lanes: &Lanes<'e>, number: u64, mut piece: Piece, len: usize, content: usize) {
        let range = 0..content;
        let known_zero = {
            let zero = lock(&self.zero_frame);
            zero.0 == content && content > 0 && zero.1 == piece.compressed[..len]
        };
        let decoded = if known_zero { Ok(()) } else { self.decode_piece(&mut piece, len, content) };
        if let Err(error) = decoded {
            lanes.submit_ordered(PLACE, number, move |_| Err(self.damaged(error, Some(content as u64))));
            return;
        }
        // Zeros compress to next to nothing: only tiny frames are worth a look.
        let zeros = known_zero || (len < 4096 && content > 0 && forkd_sys::is_zero(&piece.raw[..content]));
        if zeros && !known_zero {
            *lock(&self.zero_frame) = (content, piece.compressed[..len].to_vec());
        }
        let content = Arc::new(if zeros { FrameContent::Zeros } else { FrameContent::Bytes(piece) });
        lanes.submit_ordered(PLACE, number, move |lanes| {
            self.place(lanes, &Placement { content, range, starts_frame: true })
        });
    }

    fn decode_piece(
        &self,
        piece: &mut Piece,
        len: usize,
        content: usize,
    ) -> std::result::Result<(), FormatError> {
        let decoder = lock(&self.decoders).pop();
        let mut decoder = match decoder {
            Some(decoder) => decoder,
            None => Decompressor::new().map_err(|e| FormatError::Frame(e.to_string()))?,
        };
        let outcome = decode(&mut decoder, piece, len, content);
        lock(&self.decoders).push(decoder);
        outcome
    }

    /// Walks decoded bytes and hands each part on.
    fn place(&'e self, lanes: &Lanes<'e>, placing: &Placement) -> Result<()> {
        let mut place = lock(&self.place);
        let Range { mut start, end } = placing.range.clone();
        if placing.starts_frame && place.reader.at_end() {
            let message = "a frame follows the end of the archive".to_owned();
            return Err(Error::Malformed { file: self.name.to_owned(), source: FormatError::Frame(message) });
        }
        let bytes = placing.content.bytes();
        let mut batch = Vec::new();
        while start < end {
            let (taken, event) =
                place.reader.step(&bytes[start..end]).map_err(Error::malformed(self.name))?;
            match event {
                Some(PackEvent::Start(file)) => {
                    self.submit(lanes, &mut place, &mut batch);
                    self.sink.start(file)?;
                    if self.entry(file).size == 0 {
                        batch.push(FilePart { file, offset: 0, bytes: PartBytes::Zeros(0) });
                    }
                }
                Some(PackEvent::Data { file, offset, range }) => {
                    let range = start + range.start..start + range.end;
                    let bytes = match *placing.content {
                        FrameContent::Zeros => PartBytes::Zeros(range.len() as u64),
                        FrameContent::Bytes(_) => PartBytes::Of(Arc::clone(&placing.content), range),
                    };
                    batch.push(FilePart { file, offset, bytes });
                }
                Some(PackEvent::Hole { file, offset, len }) => {
                    // In steps, so that a stop is seen between them.
                    for start in (0..len).step_by(HOLE_STEP) {
                        let bytes = PartBytes::Zeros((len - start).min(HOLE_STEP as u64));
                        batch.push(FilePart { file, offset: offset + start, bytes });
                        if len > HOLE_STEP as u64 {
                            self.submit(lanes, &mut place, &mut batch);
                        }
                    }
                }
                Some(PackEvent::Manifest) | None => {}
            }
            start += taken;
        }
        self.submit(lanes, &mut place, &mut batch);
        Ok(())
    }

    /// Has the parts of one file hashed and written, by two lanes at the same time.
    fn submit(&'e self, lanes: &Lanes<'e>, place: &mut PlaceState, batch: &mut Vec<FilePart>) {
        let Some(file) = batch.first().map(|part| part.file) else { return };
        let lane = (file.link + file.file) % HASH_LANES;
        let parts: Arc<[FilePart]> = std::mem::take(batch).into();
        let copy = Arc::clone(&parts);
        lanes.submit_ordered(HASH + lane, place.hash_jobs[lane], move |_| {
            copy.iter().try_for_each(|part| self.hash(part.file, &part.bytes))
        });
        place.hash_jobs[lane] += 1;
        lanes.submit_ordered(WRITE, place.write_jobs, move |_| {
            parts.iter().try_for_each(|part| self.write(part.file, part.offset, &part.bytes))
        });
        place.write_jobs += 1;
    }

    fn hash(&self, file: FileId, bytes: &PartBytes) -> Result<()> {
        let entry = self.entry(file);
        let complete = add(&self.hashers, file, bytes.len(), entry.size, |hasher| match bytes {
            PartBytes::Zeros(len) => hasher.update_zeros(*len),
            PartBytes::Of(content, range) => hasher.update(&content.bytes()[range.clone()]),
        });
        self.sink.advance(bytes.len());
        match complete.map(Hasher::finish) {
            Some(found) if found != entry.sha256 => {
                let member = self.manifest.entry_name(&self.manifest.links[file.link], entry);
                let message = format!(
                    "{}: {member}: sha256 is {found}; the manifest declares {}",
                    self.name, entry.sha256
                );
                Err(Error::new(Kind::Integrity, message))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, file: FileId, offset: u64, bytes: &PartBytes) -> Result<()> {
        let complete = add(&self.sums, file, bytes.len(), self.entry(file).size, |sums| match bytes {
            PartBytes::Zeros(len) => sums.update_zeros(*len),
            PartBytes::Of(content, range) => sums.update(&content.bytes()[range.clone()]),
        });
        if let PartBytes::Of(content, range) = bytes {
            self.sink.write(file, offset, &content.bytes()[range.clone()])?;
        }
        if let Some(sums) = complete {
            self.sink.written(file, sums.finish());
        }
        Ok(())
    }

    fn entry(&self, file: FileId) -> &'e FileEntry {
        &self.manifest.links[file.link].files[file.file]
    }

    /// Names the file and the range that a damaged frame would have filled.
    fn damaged(&self, source: FormatError, content: Option<u64>) -> Error {
        let position = lock(&self.place).reader.position();
        let Some((file, offset)) = position else {
            return Error::Malformed { file: self.name.to_owned(), source };
        };
        let entry = self.entry(file);
        let member = self.manifest.entry_name(&self.manifest.links[file.link], entry);
        let end = content.map_or(entry.size, |content| entry.size.min(offset + content));
        Error::Malformed { file: format!("{}: {member}, bytes {offset}..{end}", self.name), source }
    }
}

fn decode(
    decoder: &mut Decompressor<'_>,
    piece: &mut Piece,
    len: usize,
    content: usize,
) -> std::result::Result<(), FormatError> {
    let made = decoder
        .decompress_to_buffer(&piece.compressed[..len], &mut piece.raw[..content])
        .map_err(|e| FormatError::Frame(e.to_string()))?;
    if made == content {
        Ok(())
    } else {
        Err(FormatError::Frame(format!("it decodes to {made} bytes; its header says {content}")))
    }
}

fn decode_error(name: &str) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |e| Error::Malformed { file: name.into(), source: FormatError::Frame(e.to_string()) }
}
