//! The QEMU Machine Protocol: one JSON object a line, in both directions (QEMU's docs/interop/qmp-spec).

use forkd_core::{Cancel, Error, Kind, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const ANSWER_LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Greets the monitor behind a connected socket.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        Self::new_within(stream, ANSWER_LIMIT)
    }

    /// The same, with a limit for each answer.
    pub(crate) fn new_within(stream: UnixStream, limit: Duration) -> Result<Self> {
        let setup = |e| Error::new(Kind::General, format!("QEMU's monitor: {e}"));
        stream.set_read_timeout(Some(limit)).map_err(setup)?;
        let writer = stream.try_clone().map_err(setup)?;
        let mut qmp = Self { reader: BufReader::new(stream), writer };
        qmp.read()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and gives back what it returns.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        let broken = |e| Error::new(Kind::General, format!("QEMU's monitor, {command}: {e}"));
        // In one piece: the monitor looks at each that comes.
        self.writer.write_all(format!("{request}\n").as_bytes()).map_err(broken)?;
        loop {
            let mut answer = self.read()?;
            if let Some(error) = answer.get("error") {
                let words = error.get("desc").and_then(Value::as_str).unwrap_or("no reason given");
                return Err(Error::new(Kind::General, format!("QEMU refuses {command}: {words}")));
            }
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            // Anything else is an event.
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        let broken = |what: String| Error::new(Kind::General, format!("QEMU's monitor: {what}"));
        match self.reader.read_line(&mut line) {
            Ok(0) => Err(broken("closed; QEMU has ended".into())),
            Ok(_) => serde_json::from_str(&line).map_err(|e| broken(e.to_string())),
            Err(e) => Err(broken(e.to_string())),
        }
    }

    /// Lets a migration write or read guest memory in place: only device state goes through the stream.
    pub(crate) fn ignore_shared(&mut self) -> Result<()> {
        let capabilities = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": true }] });
        self.execute("migrate-set-capabilities", &capabilities).map(drop)
    }

    /// Waits until a migration that was begun is complete.
    pub(crate) fn wait_migrated(&mut self, limit: Duration, cancel: &Cancel) -> Result<()> {
        let begun = Instant::now();
        loop {
            cancel.check()?;
            let state = self.execute("query-migrate", &json!({}))?;
            match state.get("status").and_then(Value::as_str) {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => {
                    let reason = state.get("error-desc").and_then(Value::as_str).unwrap_or("no reason given");
                    return Err(Error::new(
                        Kind::General,
                        format!("QEMU cannot move the machine's state: {reason}"),
                    ));
                }
                _ if begun.elapsed() > limit => {
                    return Err(Error::new(Kind::General, "QEMU does not finish moving the machine's state"));
                }
                _ => std::thread::sleep(Duration::from_millis(3)),
            }
        }
    }
}
