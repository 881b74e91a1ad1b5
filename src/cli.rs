//! Command line: one thin file per command.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

/// Runs the command line of the process and returns its exit code.
pub fn main() -> ExitCode {
    ExitCode::from(64)
}
