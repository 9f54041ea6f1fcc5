//! What every operation is given.

use crate::narrator::Narrator;
use crate::settings::Settings;
use forkd_core::Env;

/// Every operation, with what it is given.
#[derive(Clone, Copy)]
pub struct App<'a> {
    /// What it knows of this host and its user.
    pub settings: &'a Settings,
    /// How it is stopped, and where it tells how far it is.
    pub env: Env<'a>,
    /// Who hears how the work goes.
    pub narrator: &'a dyn Narrator,
}
