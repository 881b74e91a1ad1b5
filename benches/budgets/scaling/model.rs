//! How many requests there are, by arithmetic. Pure: the bench holds it against what it measures, and a
//! test holds docs/SCALING.md against what it says.
//!
//! One **key** is (identity, vault, object). A node asks for a key once for all its pods; nodes share
//! nothing. So of a node's pods only their keys count, and how often a key is asked for again depends
//! on ages: `--mount-max-age` for pods that start, a random part of `--refresh-max-age` for pods that run.

/// What a vault takes in ten seconds: GETs of secrets, of certificates and of 2,048-bit software keys.
pub const LIMIT: u64 = 4000;
/// kubelet looks at a pod again after 60 s and up to half as much more.
pub const RESYNC: (f64, f64) = (60.0, 90.0);
/// Of `--refresh-max-age`, the part that each value is held for: a random one from this to 1.
pub const LEAST_REFRESH: f64 = 0.75;
/// kubelet asks for a new service account token at 80 % of the life of one hour.
pub const NEW_ASSERTION: f64 = 0.8 * 3600.0;

/// The pods of one node, in terms of what they want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub pods: u64,
    /// Shared evenly by the pods.
    pub identities: u64,
    /// Of each pod; the same ones for all.
    pub objects: u64,
    pub evidence: Evidence,
}

/// What a pod shows to Entra.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A service account token of its own.
    Assertion,
    /// The client secret of its identity.
    Secret,
}

/// One Mount of every pod of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// All pods start on a node that knows nothing.
    Start,
    /// All are published again while the values are young enough.
    Held,
    /// All are replaced by new pods; the values are too old for a pod that starts.
    Replaced,
    /// All are published again with new service account tokens; the values are young enough.
    NewTokens,
    /// All are published again; the values are too old.
    Due,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests {
    pub vault: u64,
    pub tokens: u64,
}

impl Round {
    pub const ALL: [Self; 5] =
        [Self::Start, Self::Held, Self::Replaced, Self::NewTokens, Self::Due];

    pub fn title(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Held => "held",
            Self::Replaced => "replaced",
            Self::NewTokens => "new tokens",
            Self::Due => "due",
        }
    }
}

impl Node {
    /// Of akvfs.
    pub fn requests(&self, round: Round) -> Requests {
        let vault = match round {
            Round::Start | Round::Replaced | Round::Due => self.identities * self.objects,
            Round::Held | Round::NewTokens => 0,
        };
        let tokens = match (self.evidence, round) {
            (Evidence::Assertion, Round::Start | Round::Replaced | Round::NewTokens) => self.pods,
            (Evidence::Secret, Round::Start) => self.identities,
            _ => 0,
        };
        Requests { vault, tokens }
    }

    /// Of the Go provider, which keeps nothing: every Mount asks for each object, once more without a
    /// token, and for a token.
    pub fn requests_of_go(&self) -> Requests {
        Requests { vault: self.pods * (self.objects + 1), tokens: self.pods }
    }
}

/// Equal nodes whose pods all use one vault.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    pub nodes: u64,
    /// Apps on each node, each with an identity, and objects, of its own.
    pub apps: u64,
    /// Pods of each app on each node.
    pub pods: u64,
    /// Objects of each app.
    pub objects: u64,
    /// `--refresh-max-age`, seconds.
    pub refresh_max_age: f64,
}

impl Cluster {
    pub fn all_pods(&self) -> u64 {
        self.nodes * self.apps * self.pods
    }

    /// Keys of all nodes together.
    pub fn keys(&self) -> u64 {
        self.nodes * self.apps * self.objects
    }

    /// Pods that run, in ten seconds, on average over a long time: never more than this. A key is asked
    /// for at most once in its age (each time another one, so their mean counts), and at most as often
    /// as kubelet publishes the pods that want it.
    pub fn most_in_ten_seconds(&self) -> f64 {
        let held = self.refresh_max_age * mean_refresh();
        let between = held.max(RESYNC.0 / self.pods as f64);
        self.keys() as f64 * 10.0 / between
    }

    /// The same of the Go provider, on average: every publication is a Mount with all requests.
    pub fn go_in_ten_seconds(&self) -> f64 {
        self.go_at_start() as f64 * 10.0 / mean_resync()
    }

    /// All pods of all nodes start together.
    pub fn at_start(&self) -> u64 {
        self.keys()
    }

    pub fn go_at_start(&self) -> u64 {
        self.all_pods() * (self.objects + 1)
    }

    /// Every node gets so many new pods of one app, within `--mount-max-age` of each other.
    pub fn of_rollout(&self) -> u64 {
        self.nodes * self.objects
    }

    pub fn go_of_rollout(&self) -> u64 {
        self.nodes * self.pods * (self.objects + 1)
    }

    /// The first ten seconds after an outage that was longer than the ages, on average. Each pod that
    /// is published then finds a value that is too old; the first one asks for all.
    pub fn after_outage(&self) -> f64 {
        let published = self.pods as f64 * 10.0 / mean_resync();
        self.keys() as f64 * published.min(1.0)
    }

    /// Token requests in ten seconds, of pods that run, on average.
    pub fn tokens_in_ten_seconds(&self) -> f64 {
        self.all_pods() as f64 * 10.0 / NEW_ASSERTION
    }

    pub fn go_tokens_in_ten_seconds(&self) -> f64 {
        self.all_pods() as f64 * 10.0 / mean_resync()
    }
}

/// Seconds from one publication of a pod to the next, on average.
pub fn mean_resync() -> f64 {
    f64::midpoint(RESYNC.0, RESYNC.1)
}

/// The part of `--refresh-max-age` that a value is held for, on average.
pub fn mean_refresh() -> f64 {
    f64::midpoint(LEAST_REFRESH, 1.0)
}

/// The least time that a vault needs for so many requests, seconds.
pub fn seconds_at_limit(requests: u64) -> f64 {
    requests as f64 * 10.0 / LIMIT as f64
}

/// Most nodes whose pods one vault serves, if each node brings so many requests in ten seconds.
pub fn most_nodes(of_a_node: f64) -> u64 {
    (LIMIT as f64 / of_a_node + 1e-9).floor() as u64
}
