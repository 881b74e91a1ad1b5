//! How a request is asked: for whom, how urgently, and for how long it is worth going on.

use std::sync::Arc;
use std::time::Instant;

use crate::patience::Patience;

/// What a request is for. Refreshes never take more than half of what a vault allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Urgency {
    /// Somebody waits for a value that he has not seen yet.
    First,
    /// Somebody has a value and looks for a newer one.
    Refresh,
}

/// For whom and how long.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What it is for.
    pub urgency: Urgency,
    /// Who takes turns with whom: a pod's namespace; blank outside of Kubernetes.
    pub group: Arc<str>,
    /// How long.
    pub patience: Arc<Patience>,
}

impl Ask {
    /// For one caller who waits for a value, outside of Kubernetes.
    pub fn first(deadline: Instant) -> Self {
        Self {
            urgency: Urgency::First,
            group: Arc::from(""),
            patience: Arc::new(Patience::new(deadline)),
        }
    }
}
