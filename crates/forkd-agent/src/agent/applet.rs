//! `agent eval EXPRESSION`: the same as the host's, for scripts inside the guest.

use super::json;
use super::paths::EVAL_SOCKET;
use forkd_agent::message::MAX_ANSWER;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);

pub(super) fn eval(expression: &str) -> ExitCode {
    match ask(expression, LIMIT) {
        Ok(answer) => match std::io::stdout().write_all(format!("{answer}\n").as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

pub(super) fn complain(message: &str) {
    let _ = std::io::stderr().write_all(format!("{message}\n").as_bytes());
}

/// Asks the endpoint for an expression's value.
pub(super) fn ask(expression: &str, limit: Duration) -> Result<String, String> {
    let failed = |e: std::io::Error| format!("{EVAL_SOCKET}: {e}");
    let mut endpoint = UnixStream::connect(EVAL_SOCKET).map_err(failed)?;
    endpoint
        .set_read_timeout(Some(limit))
        .and_then(|()| endpoint.set_write_timeout(Some(limit)))
        .map_err(failed)?;
    endpoint.write_all(format!("{}\n", json::escape(expression)).as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(endpoint).take(MAX_ANSWER as u64).read_line(&mut line).map_err(failed)?;
    let fields = json::object(&line).unwrap_or_default();
    let field = |wanted| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    match (field("ok"), field("error")) {
        (Some(text), None) => Ok(text),
        (None, Some(message)) => Err(message),
        _ => Err(format!("{EVAL_SOCKET}: the answer is neither {{\"ok\":…}} nor {{\"error\":…}}")),
    }
}
