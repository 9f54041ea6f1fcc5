//! Packets on their way to the host.

use forkd_agent::message::MessageKind;
use forkd_agent::wire;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fs::File;

/// While so much waits, no more is read from programs and files.
const PLENTY: usize = 64 << 10;
/// While so much waits, the host's requests wait too: it does not read the answers.
const TOO_MUCH: usize = 512 << 10;

#[derive(Default)]
pub(super) struct SendQueue {
    packets: VecDeque<Vec<u8>>,
    /// So many bytes of the first packet are sent.
    sent: usize,
    len: usize,
}

impl SendQueue {
    pub(super) fn push(&mut self, id: u32, kind: MessageKind, payload: &[u8]) {
        // Longer ones are cut into several by those who may have them.
        let packet = wire::encode(id, kind as u8, payload.get(..wire::MAX_PAYLOAD).unwrap_or(payload));
        self.len += packet.len();
        self.packets.push_back(packet);
    }

    pub(super) fn error(&mut self, id: u32, message: &str) {
        self.push(id, MessageKind::Error, message.as_bytes());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.len < PLENTY
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.len >= TOO_MUCH
    }

    /// Writes as much as the host takes now.
    pub(super) fn flush(&mut self, port: &File) {
        while let Some(packet) = self.packets.front() {
            match rustix::io::write(port, packet.get(self.sent..).unwrap_or_default()) {
                Ok(written) => {
                    self.sent += written;
                    if self.sent >= packet.len() {
                        self.len = self.len.saturating_sub(packet.len());
                        self.sent = 0;
                        self.packets.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                // Full, or hung up; poll tells which.
                Err(Errno::AGAIN) => return,
                Err(_) => self.clear(),
            }
        }
    }

    /// A new conversation begins, on what may be the same connection: a packet that has begun must be ended, or the host would take the
    /// next one for its rest.
    pub(super) fn forget_unsent(&mut self) {
        self.packets.truncate(usize::from(self.sent > 0));
        self.len = self.packets.front().map_or(0, Vec::len);
    }

    /// The host has hung up.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
