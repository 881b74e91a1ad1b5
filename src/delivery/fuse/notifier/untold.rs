//! Announcements that the names thread has yet to take. While somebody holds a directory it takes none, for
//! as long as he likes; so they become one, of names only, and no larger than the tree has names.

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use crate::view::{Announcement, NodeId};

/// What becomes of a generation's name once the next one is there: nobody looks for it any more.
const OF_GENERATIONS: &str = "..2";

/// One that waits.
pub(super) enum Untold {
    /// As the view has made it.
    Whole(Announcement),
    /// Several: too late for watchers.
    Merged(Merged),
}

/// What is left of several announcements.
pub(super) struct Merged {
    /// Of the youngest generation.
    pub(super) birth: u32,
    /// Every name that leads elsewhere.
    pub(super) names: BTreeSet<(NodeId, String)>,
    /// Refreshes that wait.
    pub(super) shown: Vec<oneshot::Sender<()>>,
}

impl Untold {
    /// This one and a younger one.
    pub(super) fn and(self, next: Announcement) -> Self {
        let mut all = match self {
            Self::Whole(one) => Merged {
                birth: one.birth,
                names: one.names.into_iter().collect(),
                shown: vec![one.shown],
            },
            Self::Merged(all) => all,
        };
        all.birth = all.birth.max(next.birth);
        all.names.retain(|(_, name)| !name.starts_with(OF_GENERATIONS));
        all.names.extend(next.names);
        // Who has waited long enough does not wait any more.
        all.shown.retain(|shown| !shown.is_closed());
        all.shown.push(next.shown);
        Self::Merged(all)
    }
}
