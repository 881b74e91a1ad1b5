//! `--audit`, `--audit-required`, `--log-file`: what is written about a mount while it lives.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args as ClapArgs;

use crate::control::{AuditReport, wire};
use crate::delivery::fuse::Mounted;
use crate::delivery::fuse::audit::{Options, Sink, refuse_below};
use crate::error::{Error, Result, printable};
use crate::telemetry;

/// What is written, and where to.
#[derive(ClapArgs, Clone, Debug)]
pub(super) struct Recorded {
    /// Record every open, a line of JSON each: stderr, journald, or a file's path. Never a value
    #[arg(long, value_name = "SINK", value_parser = sink, env = "AKVFS_AUDIT")]
    audit: Option<Sink>,
    /// With --audit: an open whose record cannot be written fails, instead of being counted
    #[arg(long, requires = "audit")]
    audit_required: bool,
    /// Log to this file, instead of stderr, which a background mount has not
    #[arg(long, value_name = "FILE", env = "AKVFS_LOG_FILE")]
    log_file: Option<PathBuf>,
}

fn sink(text: &str) -> std::result::Result<Sink, String> {
    Sink::parse(text).map_err(|error| error.to_string())
}

impl Recorded {
    pub(super) fn check(&self, foreground: bool) -> Result<()> {
        if !foreground && self.audit == Some(Sink::Stderr) {
            return Err(Error::class("a background mount has no stderr for --audit")
                .fix("stay in the foreground (-f), or name a file"));
        }
        Ok(())
    }

    /// Begins to log.
    pub(super) fn log(&self, dir: &Path) -> Result<()> {
        match &self.log_file {
            Some(path) => {
                // One that cannot be found has nothing below it.
                if let Ok(dir) = dir.canonicalize() {
                    refuse_below(&dir, path, "log")?;
                }
                telemetry::init_staying_file(path)
            }
            None => telemetry::init_staying(),
        }
    }

    pub(super) fn options(&self) -> Option<Options> {
        Some(Options { sink: self.audit.clone()?, required: self.audit_required })
    }
}

/// What `akvfs status` says of the records.
pub(super) fn report(mounted: &Mounted) -> Option<AuditReport> {
    let tally = mounted.audit()?;
    Some(Arc::new(move || wire::Audit {
        sink: tally.sink.clone(),
        required: tally.required,
        written: tally.records(),
        lost: tally.missing(),
        error: tally.problem().map(|text| printable(&text, 1024)),
    }))
}
