//! The files to be packed, cut into aligned pieces with their holes.

use crate::error::{Error, Result};
use crate::store::stored::StoredSnapshot;
use forkd_format::layout::padding;
use forkd_format::manifest::SNAPSHOT_JSON;
use std::fs::File;
use std::path::PathBuf;

/// One file to be packed.
pub(crate) struct PackInput {
    pub(crate) link: usize,
    pub(crate) index: usize,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) body: InputBody,
}

pub(crate) enum InputBody {
    Bytes(Vec<u8>),
    File(File),
}

pub(crate) fn open_inputs(chain: &[StoredSnapshot]) -> Result<Vec<PackInput>> {
    let mut inputs = Vec::new();
    for (link, stored) in chain.iter().enumerate() {
        inputs.extend(open_link_inputs(stored, link)?);
    }
    Ok(inputs)
}

/// Those of one link.
pub(crate) fn open_link_inputs(stored: &StoredSnapshot, link: usize) -> Result<Vec<PackInput>> {
    let portable = stored.snapshot.relocated("", None).to_bytes();
    let path = stored.dir.join(SNAPSHOT_JSON);
    let (size, body) = (portable.len() as u64, InputBody::Bytes(portable));
    let mut inputs = vec![PackInput { link, index: 0, path, size, body }];
    for (i, (_, path)) in stored.bodies().into_iter().enumerate() {
        let file = stored.open(&path)?;
        let size = file.metadata().map_err(Error::io("read", &path))?.len();
        inputs.push(PackInput { link, index: i + 1, path, size, body: InputBody::File(file) });
    }
    Ok(inputs)
}

/// A part of one file: which bytes, how much padding follows, and whether it is known to be a hole.
#[derive(Clone, Copy)]
pub(crate) struct InputPiece {
    pub(crate) input: usize,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    pub(crate) pad: usize,
    pub(crate) hole: bool,
}

/// The aligned pieces of a file, of `step` bytes each, with its holes.
pub(crate) struct InputPieces<'a> {
    pub(crate) index: usize,
    pub(crate) input: &'a PackInput,
    at: u64,
    /// The first byte at or after `at` that is not in a hole.
    data: u64,
    step: usize,
}

impl<'a> InputPieces<'a> {
    pub(crate) fn new(index: usize, input: &'a PackInput, step: usize) -> Self {
        Self { index, input, at: 0, data: 0, step }
    }

    pub(crate) fn next(&mut self) -> std::io::Result<Option<InputPiece>> {
        let left = self.input.size - self.at;
        if left == 0 {
            return Ok(None);
        }
        let len = left.min(self.step as u64) as usize;
        let end = self.at + len as u64;
        if let InputBody::File(file) = &self.input.body
            && self.data <= self.at
        {
            self.data = forkd_sys::next_data(file, self.at)?.unwrap_or(self.input.size);
        }
        let pad = if end == self.input.size { padding(self.input.size) } else { 0 };
        let part = InputPiece { input: self.index, offset: self.at, len, pad, hole: self.data >= end };
        self.at = end;
        Ok(Some(part))
    }
}
