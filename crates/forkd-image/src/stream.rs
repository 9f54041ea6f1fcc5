//! Layers as tar streams: decompressed and hashed by a thread of their own, while another reads them.

use crate::layer_source::LayerSource;
use flate2::bufread::MultiGzDecoder;
use forkd_core::{Env, Error, Kind, Result};
use forkd_format::{Digest, Hasher};
use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const PIECE: usize = 256 << 10;
/// How many pieces may wait to be read.
const AHEAD: usize = 16;
/// zstd frames that need more memory to decode are refused.
const MAX_WINDOW_LOG: u32 = 25;

enum Piece {
    Bytes(Vec<u8>),
    /// The end of a layer: the digest of all its bytes.
    End(Digest),
    Failed(Error),
}

/// Hands the tar stream of each layer to `apply`, in their order. Each is read to its end, and must be what it was declared to be.
pub(crate) fn each(
    layers: &[LayerSource],
    env: Env<'_>,
    apply: &mut dyn FnMut(usize, &LayerSource, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let (sender, receiver) = sync_channel(AHEAD);
    std::thread::scope(|scope| {
        // It ends when nobody listens any more.
        scope.spawn(move || {
            for layer in layers {
                let piece = match decompress(layer, &sender) {
                    Ok(Some(digest)) => Piece::End(digest),
                    Ok(None) => return,
                    Err(error) => Piece::Failed(error),
                };
                if sender.send(piece).is_err() {
                    return;
                }
            }
        });
        let mut pieces = Pieces { receiver, current: Vec::new(), at: 0, end: None, env };
        for (number, layer) in layers.iter().enumerate() {
            pieces.end = None;
            apply(number, layer, &mut pieces)?;
            // What is behind the end of the archive counts for the digest too.
            let rest = std::io::copy(&mut pieces, &mut std::io::sink());
            rest.map_err(|e| passed_on(e, layer))?;
            if let (Some(found), Some(declared)) = (pieces.end, layer.diff_id)
                && found != declared
            {
                let message = format!(
                    "layer {}: its contents have sha256 {found}, the image's configuration says {declared}",
                    layer.name
                );
                return Err(Error::new(Kind::Integrity, message));
            }
        }
        Ok(())
    })
}

fn passed_on(error: std::io::Error, layer: &LayerSource) -> Error {
    match error.downcast::<Error>() {
        Ok(inner) if inner.kind() == Kind::Interrupted => Error::Interrupted,
        Ok(inner) => Error::new(inner.kind(), format!("layer {}: {inner}", layer.name)),
        Err(error) => Error::new(Kind::Integrity, format!("layer {}: {error}", layer.name)),
    }
}

/// Sends what a layer decompresses to; `None` where nobody wants it any more.
fn decompress(layer: &LayerSource, sender: &SyncSender<Piece>) -> Result<Option<Digest>> {
    let mut input = BufReader::with_capacity(PIECE, (layer.open)()?);
    let magic = input.fill_buf().map_err(|e| passed_on(e, layer))?;
    let mut input: Box<dyn Read> = match magic {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(input)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(input).map_err(|e| passed_on(e, layer))?;
            decoder.window_log_max(MAX_WINDOW_LOG).map_err(|e| passed_on(e, layer))?;
            Box::new(decoder)
        }
        _ => Box::new(input),
    };
    let mut hasher = Hasher::default();
    loop {
        let mut bytes = vec![0; PIECE];
        let mut len = 0;
        while len < PIECE {
            match input.read(&mut bytes[len..]) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => {
                    let why = passed_on(e, layer);
                    return Err(why);
                }
            }
        }
        if len == 0 {
            return Ok(Some(hasher.finish()));
        }
        bytes.truncate(len);
        hasher.update(&bytes);
        if sender.send(Piece::Bytes(bytes)).is_err() {
            return Ok(None);
        }
    }
}

struct Pieces<'a> {
    receiver: Receiver<Piece>,
    current: Vec<u8>,
    at: usize,
    end: Option<Digest>,
    env: Env<'a>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.at == self.current.len() {
            if self.end.is_some() {
                return Ok(0);
            }
            self.env.cancel.check().map_err(std::io::Error::other)?;
            match self.receiver.recv() {
                Ok(Piece::Bytes(bytes)) => {
                    self.env.progress.advance(bytes.len() as u64);
                    (self.current, self.at) = (bytes, 0);
                }
                Ok(Piece::End(digest)) => self.end = Some(digest),
                Ok(Piece::Failed(error)) => return Err(std::io::Error::other(error)),
                Err(_) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let len = buffer.len().min(self.current.len() - self.at);
        buffer[..len].copy_from_slice(&self.current[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}
