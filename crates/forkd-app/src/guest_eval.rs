//! The eval endpoint of a guest (`docs/agent.md`).

use forkd_core::machine::Guest;
use forkd_core::{Error, Kind, Result};
use serde_json::Value;
use std::time::Duration;

/// Asks a guest's eval endpoint for an expression's value.
///
/// # Errors
/// [`Kind::General`] where the guest says that it is wrong, or says nothing that an endpoint may.
pub fn eval(guest: &mut Guest, expression: &str, limit: Option<Duration>) -> Result<String> {
    let answer = guest.eval(&Value::from(expression).to_string(), limit)?;
    let wrong = || {
        let message = format!("the eval endpoint's answer is not as docs/agent.md says: {answer}");
        Error::new(Kind::General, message)
    };
    let value: Value = serde_json::from_str(&answer).map_err(|_| wrong())?;
    match (value.get("ok"), value.get("error")) {
        (Some(Value::String(text)), None) => Ok(text.clone()),
        (None, Some(Value::String(text))) => Err(Error::new(Kind::General, format!("in the guest: {text}"))),
        _ => Err(wrong()),
    }
}
