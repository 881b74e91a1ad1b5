//! `expires_on`: seconds since the epoch, as a number or as a numeric string.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

/// The services send a string; their doubles and successors a number.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Expiry {
    Number(u64),
    Text(String),
}

impl Expiry {
    /// The time, or nothing when it is none.
    pub(super) fn time(&self) -> Option<SystemTime> {
        let seconds = match self {
            Expiry::Number(seconds) => *seconds,
            Expiry::Text(text) => text.trim().parse().ok()?,
        };
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }
}
