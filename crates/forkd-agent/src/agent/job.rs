//! What a request begins that takes time.

use super::children::{Children, Wake};
use super::send_queue::SendQueue;
use rustix::event::PollFd;
use std::sync::Arc;
use std::time::Instant;

/// Something that a request has begun and that takes time.
pub(super) trait PortJob {
    /// What to poll; `room` is whether output may be made now.
    fn interest<'a>(&'a self, room: bool, fds: &mut Vec<PollFd<'a>>);

    /// When to take a step at the latest, even if nothing polled is ready.
    fn deadline(&self, room: bool) -> Option<Instant>;

    /// Does what can be done without waiting; true once all is done.
    fn step(&mut self, queue: &mut SendQueue, scratch: &mut [u8]) -> bool;

    /// Takes input; true where that ends the job.
    fn input(&mut self, _bytes: Vec<u8>, _queue: &mut SendQueue) -> bool {
        false
    }

    /// Takes a signal for the program.
    fn signal(&mut self, _number: u8) {}

    /// Takes a new size of the terminal.
    fn resize(&mut self, _rows: u16, _columns: u16) {}
}

/// A request, and what is needed to answer it.
pub(super) struct PortRequest<'a> {
    pub(super) id: u32,
    pub(super) payload: &'a [u8],
    pub(super) port: &'static str,
    pub(super) children: &'a Arc<Children>,
    pub(super) wake: &'a Arc<Wake>,
}
