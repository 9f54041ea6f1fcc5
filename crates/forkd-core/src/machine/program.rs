//! A program in a guest: its input, its output, what it is told, and how it ends (docs/agent.md).

use crate::error::Result;
use crate::machine::guest::{Guest, TICK, count, malformed, refusal, write};
use forkd_agent::message::{Exec, Exit, INPUT_WINDOW, MessageKind};
use forkd_agent::wire::MAX_PAYLOAD;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Which output of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What a running program is told apart from its input.
#[derive(Debug, Clone, Copy)]
pub enum Control {
    /// A signal, by its number.
    Signal(u8),
    /// Its terminal has another size now: rows, columns.
    Resize(u16, u16),
}

/// Where a program's input comes from and its output goes.
pub struct Streams<'a> {
    /// Its input; it is read by a thread that may outlive the call by one read.
    pub input: Option<Box<dyn Read + Send>>,
    /// Told each piece of output.
    pub output: &'a mut dyn FnMut(Stream, &[u8]) -> Result<()>,
    /// Signals and sizes.
    pub controls: Option<&'a Receiver<Control>>,
}

impl std::fmt::Debug for Streams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Streams")
    }
}

impl Guest {
    /// Runs a program to its end.
    ///
    /// # Errors
    /// What the agent says; where output cannot be handed on, or it is interrupted, the program is ended with the conversation.
    pub fn exec(&mut self, exec: &Exec, streams: &mut Streams<'_>) -> Result<Exit> {
        let input = streams.input.take();
        let exec = Exec { input: input.is_some(), ..exec.clone() };
        let id = self.send(MessageKind::Exec, &exec.encode())?;
        let window = Arc::new(Window::default());
        if let Some(input) = input {
            let (writer, window) = (Arc::clone(&self.writer), Arc::clone(&window));
            std::thread::spawn(move || pump(input, &writer, id, &window));
        }
        let outcome = self.follow(id, &window, streams);
        window.close();
        outcome
    }

    fn follow(&mut self, id: u32, window: &Window, streams: &mut Streams<'_>) -> Result<Exit> {
        loop {
            while let Some(control) = streams.controls.and_then(|controls| controls.try_recv().ok()) {
                match control {
                    Control::Signal(number) => self.write(id, MessageKind::Signal, &[number])?,
                    Control::Resize(rows, columns) => {
                        let size = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
                        self.write(id, MessageKind::Resize, &size)?;
                    }
                }
            }
            let Some(packet) = self.receive(Some(Instant::now() + TICK))? else {
                self.ask_for_life()?;
                continue;
            };
            match MessageKind::from_u8(packet.kind) {
                _ if packet.id != id => {}
                Some(MessageKind::Stdout) => (streams.output)(Stream::Out, &packet.payload)?,
                Some(MessageKind::Stderr) => (streams.output)(Stream::Err, &packet.payload)?,
                Some(MessageKind::Taken) => window.give(count(&packet)? as usize),
                Some(MessageKind::Exit) => return Exit::decode(&packet.payload).map_err(malformed),
                Some(MessageKind::Error) => return Err(refusal(&packet)),
                _ => {}
            }
        }
    }
}

/// Room for input on its way.
#[derive(Default)]
struct Window {
    used: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Window {
    fn give(&self, bytes: usize) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.0 = used.0.saturating_sub(bytes);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.changed.notify_all();
    }

    /// Waits for room; false once the program has ended.
    fn take(&self, bytes: usize) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while used.0 + bytes > INPUT_WINDOW && !used.1 {
            used = self.changed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        used.0 += bytes;
        !used.1
    }
}

/// Sends input until it or the program ends.
fn pump(mut input: Box<dyn Read + Send>, writer: &Mutex<UnixStream>, id: u32, window: &Window) {
    let mut buffer = vec![0; MAX_PAYLOAD / 2];
    loop {
        let read = match input.read(&mut buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            read => read.unwrap_or(0),
        };
        if !window.take(read) || write(writer, id, MessageKind::Input, &buffer[..read]).is_err() || read == 0
        {
            return;
        }
    }
}
