//! Logs and health: what the process says about itself, and never what it holds.
//!
//! Log lines go to stderr, as text or JSON. Targets of other crates never go below INFO, whatever
//! verbosity is asked for: their debug output is not written with secrets in mind. A panic prints
//! its place only, since its message may quote whatever was being handled.

pub mod health;
pub mod metrics;
pub mod web;

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Installs the log output of the process and its panic hook. Later calls change nothing.
///
/// `verbosity` follows klog's habit: 0 is what an operator should see, 2 adds what each mount wants,
/// 5 adds each request. -1 is for commands that end: warnings only.
pub fn init(verbosity: i32, json: bool) {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let (ours, others) = match verbosity {
            // A command that prints its own error once needs nobody else's account of it.
            ..=-1 => (LevelFilter::WARN, LevelFilter::OFF),
            0..=1 => (LevelFilter::INFO, LevelFilter::WARN),
            2..=4 => (LevelFilter::DEBUG, LevelFilter::WARN),
            5.. => (LevelFilter::TRACE, LevelFilter::INFO),
        };
        let filter = Targets::new().with_default(others).with_target("akvfs", ours);
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        let layer = if json { layer.json().boxed() } else { layer.boxed() };
        // Another subscriber (a test's) may be installed already; it then gets our lines.
        let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map_or_else(
                || "an unknown place".to_owned(),
                |place| format!("{}:{}", place.file(), place.line()),
            );
            tracing::error!(place, "a task of akvfs panicked; this is a bug");
        }));
    });
}
