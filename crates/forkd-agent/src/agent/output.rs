//! Frames on their way to the host.

use forkd_agent::message::Kind;
use forkd_agent::wire;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;

/// While so much waits, no more is read from programs and files.
const PLENTY: usize = 64 << 10;
/// While so much waits, the host's requests wait too: it does not read the answers.
const TOO_MUCH: usize = 512 << 10;

#[derive(Default)]
pub(super) struct Output {
    frames: VecDeque<Vec<u8>>,
    /// So many bytes of the first frame are sent.
    sent: usize,
    len: usize,
}

impl Output {
    pub(super) fn push(&mut self, id: u32, kind: Kind, payload: &[u8]) {
        // Longer ones are cut into several by those who may have them.
        let frame = wire::encode(id, kind as u8, payload.get(..wire::MAX_PAYLOAD).unwrap_or(payload));
        self.len += frame.len();
        self.frames.push_back(frame);
    }

    pub(super) fn error(&mut self, id: u32, message: &str) {
        self.push(id, Kind::Error, message.as_bytes());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.len < PLENTY
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.len >= TOO_MUCH
    }

    /// Writes as much as the host takes now.
    pub(super) fn flush(&mut self, port: &File) {
        while let Some(frame) = self.frames.front() {
            match rustix::io::write(port, frame.get(self.sent..).unwrap_or_default()) {
                Ok(written) => {
                    self.sent += written;
                    if self.sent >= frame.len() {
                        self.len = self.len.saturating_sub(frame.len());
                        self.sent = 0;
                        self.frames.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                // Full, or hung up; poll tells which.
                Err(Errno::AGAIN) => return,
                Err(_) => self.clear(),
            }
        }
    }

    /// A new conversation begins, on what may be the same connection: a frame that has begun must be ended, or the host would take the
    /// next one for its rest.
    pub(super) fn forget_unsent(&mut self) {
        self.frames.truncate(usize::from(self.sent > 0));
        self.len = self.frames.front().map_or(0, Vec::len);
    }

    /// The host has hung up.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
