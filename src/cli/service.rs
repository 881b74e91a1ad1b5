//! `akvfs service`: the provider or a sync as a Windows service.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::error::Result;
use crate::service::{self, Registration, windows};

/// Run akvfs as a Windows service
#[derive(ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Register a service that starts with the machine
    Install {
        /// The service's name
        #[arg(long, value_name = "NAME", default_value = service::NAME)]
        name: String,
        /// Account without a password, such as "NT SERVICE\akvfs"; LocalSystem when not given
        #[arg(long, value_name = "ACCOUNT")]
        account: Option<String>,
        /// File that the log is written to
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        /// What it runs: provider or sync, with its options; paths must be absolute
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Stop a service and remove it
    Uninstall {
        /// The service's name
        #[arg(long, value_name = "NAME", default_value = service::NAME)]
        name: String,
    },
    /// What the service manager starts
    #[command(hide = true)]
    Run {
        #[arg(long, default_value = service::NAME)]
        name: String,
        #[arg(long)]
        log: Option<PathBuf>,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// `run` runs a command line, `check` only parses it.
pub(super) fn run(
    args: Args,
    check: fn(&[OsString]) -> Result<()>,
    run: fn(&[OsString]) -> Result<()>,
) -> Result<()> {
    match args.what {
        What::Install { name, account, log, command } => {
            let registration = Registration::new(
                &name,
                account.as_deref(),
                log.as_deref(),
                &command,
                std::path::Path::is_absolute,
            )?;
            // Now, and not in a log that nobody reads.
            check(&command)?;
            windows::install(registration)?;
            super::say(&format!("installed; start it with: sc start {name}\n"))
        }
        What::Uninstall { name } => windows::uninstall(&name),
        What::Run { name, log, command } => {
            service::checked_command(&command)?;
            windows::run(&name, log.as_deref(), move || run(&command))
        }
    }
}
