//! The eval endpoint of a guest (`docs/agent.md`).

use forkd_core::machine::Guest;
use forkd_core::{Error, Kind, Result};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

/// Asks a guest's eval endpoint for an expression's value.
///
/// # Errors
/// [`Kind::General`] where the guest says that it is wrong, or says nothing that an endpoint may.
pub fn eval(guest: &mut Guest, expression: &str, limit: Option<Duration>) -> Result<String> {
    read_answer(&guest.eval(&Value::from(expression).to_string(), limit)?)
}

fn read_answer(answer: &str) -> Result<String> {
    match serde_json::from_str(answer) {
        Ok(Answer { ok: Some(text), error: None }) => Ok(text),
        Ok(Answer { ok: None, error: Some(text) }) => {
            Err(Error::new(Kind::General, format!("in the guest: {}", beginning(&text))))
        }
        _ => {
            let beginning = beginning(answer);
            let message = format!("the eval endpoint's answer is not as docs/agent.md says: {beginning}");
            Err(Error::new(Kind::General, message))
        }
    }
}

/// An endpoint's line. A guest may send whatever it likes, so nothing else of it is kept.
#[derive(Deserialize)]
struct Answer {
    ok: Option<String>,
    error: Option<String>,
}

/// What of a guest's text goes into a message of ours, in characters.
const MAX_QUOTED: usize = 4096;

fn beginning(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_QUOTED).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_value_or_an_error_and_nothing_else() {
        assert_eq!(read_answer(r#"{"ok":"4","more":[[0,0],{}]}"#).unwrap(), "4");
        assert_eq!(read_answer(r#"{"error":"no"}"#).unwrap_err().to_string(), "in the guest: no");
        let junk = format!("[{}0]", "0,".repeat(1 << 20));
        for wrong in ["", "4", "{}", r#"{"ok":4}"#, r#"{"ok":"a","error":"b"}"#, &junk] {
            let error = read_answer(wrong).unwrap_err().to_string();
            assert!(error.contains("not as docs/agent.md says") && error.len() < 5000, "{error}");
        }
    }
}
