//! The files to be packed, cut into aligned pieces with their holes.

use crate::store::Stored;
use crate::{Error, Result};
use forkd_format::layout::padding;
use forkd_format::manifest::SNAPSHOT_JSON;
use std::fs::File;
use std::path::PathBuf;

/// One file to be packed.
pub(super) struct Input {
    pub(super) link: usize,
    pub(super) index: usize,
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) body: Body,
}

pub(super) enum Body {
    Bytes(Vec<u8>),
    File(File),
}

pub(super) fn open_inputs(chain: &[Stored]) -> Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for (link, stored) in chain.iter().enumerate() {
        let portable = stored.snapshot.relocated("", None).to_bytes();
        let path = stored.dir.join(SNAPSHOT_JSON);
        inputs.push(Input { link, index: 0, path, size: portable.len() as u64, body: Body::Bytes(portable) });
        for (i, (_, path)) in stored.bodies().into_iter().enumerate() {
            let file = stored.open(&path)?;
            let metadata = file.metadata().map_err(Error::io("read", &path))?;
            inputs.push(Input { link, index: i + 1, path, size: metadata.len(), body: Body::File(file) });
        }
    }
    Ok(inputs)
}

/// A part of one file: which bytes, how much padding follows, and whether it is known to be a hole.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) input: usize,
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) pad: usize,
    pub(super) hole: bool,
}

/// The aligned pieces of a file, of `step` bytes each, with its holes.
pub(super) struct Parts<'a> {
    pub(super) index: usize,
    pub(super) input: &'a Input,
    at: u64,
    /// The first byte at or after `at` that is not in a hole.
    data: u64,
    step: usize,
}

impl<'a> Parts<'a> {
    pub(super) fn new(index: usize, input: &'a Input, step: usize) -> Self {
        Self { index, input, at: 0, data: 0, step }
    }

    pub(super) fn next(&mut self) -> std::io::Result<Option<Part>> {
        let left = self.input.size - self.at;
        if left == 0 {
            return Ok(None);
        }
        let len = left.min(self.step as u64) as usize;
        let end = self.at + len as u64;
        if let Body::File(file) = &self.input.body
            && self.data <= self.at
        {
            self.data = forkd_sys::next_data(file, self.at)?.unwrap_or(self.input.size);
        }
        let pad = if end == self.input.size { padding(self.input.size) } else { 0 };
        let part = Part { input: self.index, offset: self.at, len, pad, hole: self.data >= end };
        self.at = end;
        Ok(Some(part))
    }
}
