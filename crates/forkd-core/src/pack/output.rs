//! What all pack writers do: append to the pack, and hash files in order while others compress them.

use crate::digest::sparse::read_data;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::pack::input::{InputBody, InputPiece, PackInput};
use crate::pipeline::mutex::lock;
use crate::store::root::Store;
use forkd_format::{Digest, Hasher};
use std::fs::File;
use std::path::Path;
use std::sync::Mutex;

/// The kernel is asked to begin writing to the disk in steps of so many bytes.
const WRITEBACK_STEP: u64 = 8 << 20;

/// The open, empty file that becomes a pack, written by the store's calls.
#[derive(Clone, Copy)]
pub(crate) struct PackTarget<'e> {
    pub(crate) store: &'e Store,
    pub(crate) file: &'e File,
    pub(crate) path: &'e Path,
}

/// How long a pack is, and what stands before the first frame of a paged one.
pub(crate) struct PackSize {
    pub(crate) size: u64,
    pub(crate) header_bytes: Option<u64>,
}

/// The pack, written from its front to its end.
pub(crate) struct PackOutput<'e> {
    target: PackTarget<'e>,
    pub(crate) at: u64,
    /// How far the kernel was asked to begin writing to the disk.
    begun: u64,
}

impl<'e> PackOutput<'e> {
    /// Goes on after so many bytes.
    pub(crate) fn new(target: PackTarget<'e>, at: u64) -> Self {
        Self { target, at, begun: 0 }
    }

    /// Fills the room at the front.
    pub(crate) fn write_front(&self, bytes: &[u8]) -> Result<()> {
        self.write_at(bytes, 0)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> Result<()> {
        let PackTarget { store, file, path } = self.target;
        store.disk().write_at(file, path, bytes, at).map_err(Error::io("write", path))
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        if self.at - self.begun >= WRITEBACK_STEP {
            forkd_sys::start_writeback(self.target.file, self.begun, self.at - self.begun);
            self.begun = self.at;
        }
        Ok(())
    }
}

/// The SHA-256 of each input, as its bytes come in order.
pub(crate) struct Hashes<'e> {
    inputs: &'e [PackInput],
    states: Mutex<Vec<(Hasher, Option<Digest>)>>,
    env: Env<'e>,
}

impl<'e> Hashes<'e> {
    pub(crate) fn new(inputs: &'e [PackInput], env: Env<'e>) -> Self {
        Self { inputs, states: Mutex::new(inputs.iter().map(|_| (Hasher::default(), None)).collect()), env }
    }

    /// Adds a part; `None` for zeros.
    pub(crate) fn add(&self, part: InputPiece, bytes: Option<&[u8]>) -> Result<()> {
        let mut states = lock(&self.states);
        let (hasher, done) = &mut states[part.input];
        match bytes {
            Some(bytes) => hasher.update(bytes),
            None => hasher.update_zeros(part.len as u64),
        }
        if part.offset + part.len as u64 == self.inputs[part.input].size {
            *done = Some(std::mem::take(hasher).finish());
        }
        drop(states);
        self.env.progress.advance(part.len as u64);
        Ok(())
    }

    /// All of them. An empty file has no parts and so was never finished.
    pub(crate) fn finish(self) -> Vec<Digest> {
        let states = self.states.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        states.into_iter().map(|(hasher, done)| done.unwrap_or_else(|| hasher.finish())).collect()
    }
}

impl PackInput {
    /// Reads a part: what is in a hole becomes zero without being read.
    pub(crate) fn read(&self, part: InputPiece, buffer: &mut [u8]) -> Result<()> {
        let buffer = &mut buffer[..part.len];
        match &self.body {
            InputBody::Bytes(bytes) => {
                buffer.copy_from_slice(&bytes[part.offset as usize..part.offset as usize + part.len]);
            }
            InputBody::File(file) => {
                read_data(file, part.offset, buffer).map_err(Error::io("read", &self.path))?;
            }
        }
        Ok(())
    }
}
