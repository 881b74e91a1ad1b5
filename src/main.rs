//! The `akvfs` binary: everything lives in the library, this only hands over.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr)
)]

use std::process::ExitCode;

fn main() -> ExitCode {
    akvfs::cli::main()
}
