//! Versions 1 and 2: a tar stream in zstd frames.

use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::draft::{complete, manifest_entry};
use crate::pack::input::{InputPiece, InputPieces, PackInput};
use crate::pack::output::{Hashes, PackOutput, PackTarget};
use crate::pack::stream::zstd_frames::{COMPRESSED_LEN, Piece, Pieces};
use crate::pipeline::buffers::frames_in_flight;
use crate::pipeline::lanes::{self, LaneKind, Lanes};
use crate::pipeline::mutex::lock;
use forkd_format::layout::{END_OF_ARCHIVE, entry_header};
use forkd_format::{Manifest, PIECE_SIZE};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

const HASH: usize = 0;

const WRITE: usize = 1;

const COMPRESS: usize = 2;

const LANES: [LaneKind; 3] = [LaneKind::Ordered, LaneKind::Ordered, LaneKind::Parallel];

/// What the jobs of one run share.
struct StreamWrite<'e> {
    level: i32,
    inputs: &'e [PackInput],
    hashes: Hashes<'e>,
    output: Mutex<PackOutput<'e>>,
    compressors: Mutex<Vec<Compressor<'static>>>,
    /// Frames of zeros, by their length: most of a memory image.
    zero_frames: Mutex<HashMap<usize, Arc<Vec<u8>>>>,
}

/// Writes a pack; gives its size.
pub(crate) fn write(
    manifest: &mut Manifest,
    inputs: &[PackInput],
    level: i32,
    target: PackTarget<'_>,
    env: Env<'_>,
) -> Result<u64> {
    // The manifest comes first but is known last: room is kept for its frame, and a skippable frame fills what it leaves.
    let room = zstd::zstd_safe::compress_bound(manifest_entry(manifest)?.len()) + 8;
    let shared = StreamWrite {
        level,
        inputs,
        hashes: Hashes::new(inputs, env),
        output: Mutex::new(PackOutput::new(target, room as u64)),
        compressors: Mutex::default(),
        zero_frames: Mutex::default(),
    };
    // High levels need tens of MiB a thread.
    let jobs = if level > 12 { env.jobs.min(2) } else { env.jobs };
    let pieces = Pieces::new(frames_in_flight(jobs), frames_in_flight(jobs));
    lanes::run(jobs, &LANES, env.cancel, |lanes| {
        let shared = &shared;
        let (mut frames, mut hashes) = (0, 0);
        let literal = |bytes: Vec<u8>, frames: &mut u64| {
            let number = *frames;
            *frames += 1;
            lanes.submit(COMPRESS, move |lanes| {
                let mut frame = vec![0; zstd::zstd_safe::compress_bound(bytes.len())];
                let len = shared.compress(&bytes, &mut frame)?;
                lanes.submit_ordered(WRITE, number, move |_| lock(&shared.output).append(&frame[..len]));
                Ok(())
            });
        };
        for (i, input) in inputs.iter().enumerate() {
            let link = &manifest.links[input.link];
            let name = manifest.entry_name(link, &link.files[input.index]);
            let header = entry_header(&name, input.size)
                .map_err(Error::malformed(target.path.display().to_string()))?;
            literal(header.to_vec(), &mut frames);
            let mut parts = InputPieces::new(i, input, PIECE_SIZE);
            while let Some(part) = parts.next().map_err(Error::io("read", &input.path))? {
                let Ok(piece) = pieces.take(false, env.cancel, || lanes.failed()) else {
                    return env.cancel.check();
                };
                let (frame, hash) = (frames, hashes);
                lanes.submit(COMPRESS, move |lanes| shared.part(lanes, part, piece, frame, hash));
                frames += 1;
                hashes += 1;
            }
        }
        literal(END_OF_ARCHIVE.to_vec(), &mut frames);
        Ok(())
    })?;
    complete(manifest, inputs, shared.hashes.finish())?;
    let entry = manifest_entry(manifest)?;
    let mut front = vec![0; room];
    let len = compress(&mut compressor(level)?, &entry, &mut front)?;
    let rest = room - len - 8;
    front[len..len + 4].copy_from_slice(&0x184D_2A50_u32.to_le_bytes());
    front[len + 4..len + 8].copy_from_slice(&(rest as u32).to_le_bytes());
    let output = shared.output.into_inner().unwrap_or_else(PoisonError::into_inner);
    output.write_front(&front)?;
    Ok(output.at)
}

impl StreamWrite<'_> {
    /// Reads a part, hands it to be hashed, compresses it and hands that to be written.
    fn part<'s>(
        &'s self,
        lanes: &Lanes<'s>,
        part: InputPiece,
        mut piece: Piece,
        frame: u64,
        hash: u64,
    ) -> Result<()> {
        let whole = part.len + part.pad;
        let zero = part.hole || {
            self.inputs[part.input].read(part, &mut piece.raw)?;
            forkd_sys::is_zero(&piece.raw[..part.len])
        };
        if zero {
            drop(piece);
            lanes.submit_ordered(HASH, hash, move |_| self.hashes.add(part, None));
            let compressed = self.zero_frame(whole)?;
            lanes.submit_ordered(WRITE, frame, move |_| lock(&self.output).append(&compressed));
            return Ok(());
        }
        piece.raw[part.len..whole].fill(0);
        let Piece { mut compressed, raw } = piece;
        let raw = Arc::new(raw);
        let shared_raw = Arc::clone(&raw);
        lanes.submit_ordered(HASH, hash, move |_| self.hashes.add(part, Some(&shared_raw[..part.len])));
        let len = self.compress(&raw[..whole], &mut compressed[..COMPRESSED_LEN])?;
        drop(raw);
        lanes.submit_ordered(WRITE, frame, move |_| lock(&self.output).append(&compressed[..len]));
        Ok(())
    }

    fn zero_frame(&self, len: usize) -> Result<Arc<Vec<u8>>> {
        if let Some(frame) = lock(&self.zero_frames).get(&len) {
            return Ok(Arc::clone(frame));
        }
        let mut frame = vec![0; 64 << 10];
        let made = self.compress(&vec![0; len], &mut frame)?;
        frame.truncate(made);
        let frame = Arc::new(frame);
        lock(&self.zero_frames).insert(len, Arc::clone(&frame));
        Ok(frame)
    }

    fn compress(&self, bytes: &[u8], out: &mut [u8]) -> Result<usize> {
        let idle = lock(&self.compressors).pop();
        let mut compressor = idle.map_or_else(|| compressor(self.level), Ok)?;
        let len = compress(&mut compressor, bytes, out);
        lock(&self.compressors).push(compressor);
        len
    }
}

/// A compressor whose frames say how long their content is and end with its checksum, so that they can be decoded in parallel and
/// damage be found where it is.
pub(crate) fn compressor(level: i32) -> Result<Compressor<'static>> {
    let set = |mut compressor: Compressor<'static>| {
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
        Ok(compressor)
    };
    Compressor::new(level).and_then(set).map_err(|e| Error::new(Kind::General, format!("zstd: {e}")))
}

pub(crate) fn compress(compressor: &mut Compressor<'_>, bytes: &[u8], out: &mut [u8]) -> Result<usize> {
    compressor.compress_to_buffer(bytes, out).map_err(|e| Error::new(Kind::General, format!("zstd: {e}")))
}
