//! What averages hide: nodes that start together ask together. A simulation of many nodes, always the
//! same one: its random numbers are its own.
//!
//! Each node has some pods of one app. They start at the node's start; kubelet publishes each again
//! after 60 to 90 s, for ever; the driver skips what comes in its first `--rotation-poll-interval`
//! (afterwards nothing changes, so it skips no more); a publication fetches each value that is older than
//! its own random part of `--refresh-max-age`. Counted is how many keys are fetched in each ten seconds.

use super::model::{LEAST_REFRESH, RESYNC};

/// Nodes: enough that one node in a hundred shows.
const NODES: usize = 2000;
/// Objects of the app.
const OBJECTS: usize = 10;
/// How long is looked at, seconds.
const TIME: f64 = 3600.0;
/// One window, seconds: what vaults count in.
const WINDOW: f64 = 10.0;
/// The driver's `--rotation-poll-interval`, seconds.
const GATE: f64 = 120.0;

/// What differs.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub pods: usize,
    /// `--refresh-max-age`, seconds.
    pub refresh_max_age: f64,
    /// The nodes start evenly over so many seconds.
    pub spread: f64,
}

/// Parts of all keys that are fetched in one window.
#[derive(Clone, Copy, Debug)]
pub struct Waves {
    /// In the fullest window of the first fetches.
    pub start: f64,
    /// In the fullest window after those.
    pub echo: f64,
    /// In the last half hour, on average.
    pub mean: f64,
    /// In the last half hour, in the fullest window.
    pub late: f64,
}

pub fn simulate(setting: Setting) -> Waves {
    let mut random = Random(0x5EED);
    let windows = (TIME / WINDOW) as usize;
    let (mut first, mut later) = (vec![0_u32; windows], vec![0_u32; windows]);
    let count = |counts: &mut Vec<u32>, at: f64| {
        if let Some(count) = counts.get_mut((at / WINDOW) as usize) {
            *count += 1;
        }
    };
    for node in 0..NODES {
        let start = setting.spread * node as f64 / NODES as f64;
        let held = |random: &mut Random| {
            setting.refresh_max_age * (LEAST_REFRESH + (1.0 - LEAST_REFRESH) * random.next())
        };
        let mut due = [start; OBJECTS];
        for due in &mut due {
            count(&mut first, start);
            *due += held(&mut random);
        }
        for at in publications(&mut random, setting.pods, start) {
            for due in due.iter_mut().filter(|due| at >= **due) {
                count(&mut later, at);
                *due = at + held(&mut random);
            }
        }
    }
    let part = |count: u32| f64::from(count) / (NODES * OBJECTS) as f64;
    let most = |counts: &[u32]| part(counts.iter().copied().max().unwrap_or(0));
    let late = &later[windows / 2..];
    Waves {
        start: most(&first),
        echo: most(&later),
        mean: part(late.iter().sum()) / late.len() as f64,
        late: most(late),
    }
}

/// When the driver asks for any of these pods, in order.
fn publications(random: &mut Random, pods: usize, start: f64) -> Vec<f64> {
    let mut times = Vec::new();
    for _ in 0..pods {
        let mut at = start;
        while at < TIME {
            at += RESYNC.0 + (RESYNC.1 - RESYNC.0) * random.next();
            if at >= start + GATE {
                times.push(at);
            }
        }
    }
    times.sort_by(f64::total_cmp);
    times
}

/// splitmix64, from 0 to 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}
