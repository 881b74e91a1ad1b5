//! Logs, health and metrics: what the process says about itself, and never what it holds.
//!
//! Log lines go to stderr: the provider's as klog writes them, a command's warnings as plain lines; or
//! those go to a file.
//! Targets of other crates never go below INFO, whatever verbosity is asked for: their debug output is
//! not written with secrets in mind. A panic prints its place only, since its message may quote
//! whatever was being handled.

pub mod health;
mod klog;
mod lines;
pub mod metrics;
pub mod web;

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Once, OnceLock};

use tracing_subscriber::Registry;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;
use tracing_subscriber::reload;

pub use klog::Format;
pub(crate) use lines::flush;

use crate::error::Result;
use lines::Lines;

/// Verbosities that differ from the next lower one.
const STEPS: [i32; 3] = [0, 2, 5];

static DONE: Once = Once::new();
static VERBOSITY: AtomicI32 = AtomicI32::new(-1);
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Installs the log output of the provider and its panic hook. Later calls change nothing.
///
/// `verbosity` follows klog's habit: 0 is what an operator should see, 2 adds what each mount wants,
/// 5 adds each request.
pub fn init(verbosity: i32, format: Format) {
    let layer = tracing_subscriber::fmt::layer().event_format(format).with_writer(std::io::stderr);
    install(verbosity.max(0), layer.boxed());
}

/// The same for commands that end: warnings only.
pub fn init_command() {
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    install(-1, layer.boxed());
}

/// The same for commands that stay: nobody in them waits for whoever reads stderr. They call [`flush`] at
/// their end.
///
/// # Errors
/// A thread cannot be started.
pub(crate) fn init_staying() -> Result<()> {
    let lines = Lines::start(|line| {
        // There is no other place to say so.
        let _ = std::io::stderr().write_all(line);
    })?;
    lines.install();
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(move || lines.clone());
    install(-1, layer.boxed());
    Ok(())
}

/// The same to a file, with klog's header: for commands that stay when their terminal has gone.
///
/// # Errors
/// The file cannot be written to.
#[cfg(unix)]
pub(crate) fn init_staying_file(path: &std::path::Path) -> Result<()> {
    let mut file = crate::appended::Appended::open(path)?;
    let lines = Lines::start(move |line| {
        // There is no other place to say so.
        let _ = file.add(line);
    })?;
    lines.install();
    let layer = tracing_subscriber::fmt::layer()
        .event_format(Format::Text)
        .with_ansi(false)
        .with_writer(move || lines.clone());
    install(-1, layer.boxed());
    Ok(())
}

fn install(verbosity: i32, layer: Box<dyn tracing_subscriber::Layer<Registry> + Send + Sync>) {
    DONE.call_once(|| {
        let (filter, handle) = reload::Layer::new(filter(verbosity));
        // Another subscriber (a test's) may be installed already; it then gets our lines.
        if tracing_subscriber::registry().with(layer.with_filter(filter)).try_init().is_ok() {
            VERBOSITY.store(verbosity, Ordering::Relaxed);
            let _ = FILTER.set(handle);
        }
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map_or_else(
                || "an unknown place".to_owned(),
                |place| format!("{}:{}", place.file(), place.line()),
            );
            tracing::error!(place, "a task of akvfs panicked; this is a bug");
        }));
    });
}

fn filter(verbosity: i32) -> Targets {
    let (ours, others) = match verbosity {
        // A command that prints its own error once needs nobody else's account of it.
        ..=-1 => (LevelFilter::WARN, LevelFilter::OFF),
        0..=1 => (LevelFilter::INFO, LevelFilter::WARN),
        2..=4 => (LevelFilter::DEBUG, LevelFilter::WARN),
        5.. => (LevelFilter::TRACE, LevelFilter::INFO),
    };
    Targets::new().with_default(others).with_target("akvfs", ours)
}

/// Makes the log one step louder or quieter, and says so.
pub(crate) fn adjust(louder: bool) {
    let now = VERBOSITY.load(Ordering::Relaxed);
    let next = step(now, louder);
    let reloaded = FILTER.get().is_some_and(|handle| handle.reload(filter(next)).is_ok());
    if reloaded {
        VERBOSITY.store(next, Ordering::Relaxed);
        tracing::info!(verbosity = next, "log verbosity");
    }
}

fn step(now: i32, louder: bool) -> i32 {
    match louder {
        true => STEPS.into_iter().find(|step| *step > now).unwrap_or(now),
        false => STEPS.into_iter().rev().find(|step| *step < now).unwrap_or(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbosity_goes_up_and_down_in_steps() {
        for (now, louder, next) in
            [(0, true, 2), (1, true, 2), (4, true, 5), (9, true, 9), (9, false, 5), (3, false, 2)]
        {
            assert_eq!(step(now, louder), next, "{now} {louder}");
        }
        assert_eq!((step(2, false), step(0, false)), (0, 0));
    }
}
