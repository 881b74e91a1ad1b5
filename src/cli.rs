//! Command line: one thin file per command, exit codes, and the Go provider's argument list.
//!
//! Exit codes: 0 done, 1 failed, 64 the command line or the class is wrong. When the first argument
//! is a flag (other than `-h`, `--help`, `--version`), the command is `provider`: the DaemonSet of
//! the Go provider works with only the image changed.
#![allow(clippy::print_stdout, clippy::print_stderr)]

/// A line on stdout, or the end of the function when nobody reads it any more.
#[cfg(feature = "emulator")]
macro_rules! tell {
    ($($text:tt)*) => {
        $crate::cli::say(&(format!($($text)*) + "\n"))?
    };
}

mod check;
#[cfg(feature = "emulator")]
mod demo;
#[cfg(feature = "emulator")]
mod dev_vault;
mod get;
#[cfg(target_os = "linux")]
mod mount;
mod provider;
mod refresh;
mod served;
#[cfg(windows)]
mod service;
mod source;
mod status;
mod sync;
#[cfg(target_os = "linux")]
mod unmount;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config;
use crate::error::{Code, Error, Result};
use crate::{process, telemetry};

/// Wrong command line or class (sysexits' EX_USAGE).
const USAGE: u8 = 64;

#[derive(Parser)]
#[command(name = "akvfs", about = "Azure Key Vault as files", disable_version_flag = true)]
#[command(
    after_help = "`akvfs --version` prints the version as JSON. When the first argument is a \
    flag, the command is `provider`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    // As with Go's flags, the last of several counts.
    #[command(args_override_self = true)]
    Provider(Box<config::ProviderArgs>),
    Get(get::Args),
    Check(check::Args),
    #[cfg(feature = "emulator")]
    Demo(demo::Args),
    #[cfg(feature = "emulator")]
    DevVault(dev_vault::Args),
    #[cfg(target_os = "linux")]
    #[command(args_override_self = true)]
    Mount(Box<mount::Args>),
    #[cfg(target_os = "linux")]
    Unmount(unmount::Args),
    #[cfg(windows)]
    Service(service::Args),
    Sync(Box<sync::Args>),
    Status(status::Args),
    Refresh(refresh::Args),
}

/// Runs the command line of the process and returns its exit code.
pub fn main() -> ExitCode {
    process::harden();
    process::bound_allocator();
    let args: Vec<OsString> = std::env::args_os().collect();
    let (usage, failed) = exit_codes(&args);
    let failure = |error: &Error| {
        note(&error.to_string());
        ExitCode::from(if error.code() == Code::ClassInvalid { usage } else { failed })
    };
    let args = match command_line(args) {
        Ok(args) => args,
        Err(error) => return failure(&error),
    };
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stdout or stderr is no reason to fail differently.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { usage } else { 0 });
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    }
}

/// Of a wrong command line, and of what failed.
fn exit_codes(args: &[OsString]) -> (u8, u8) {
    #[cfg(target_os = "linux")]
    if let Some(codes) = mount::exit_codes(args) {
        return codes;
    }
    let _ = args;
    (USAGE, 1)
}

/// The command line as clap reads it.
fn command_line(args: Vec<OsString>) -> Result<Vec<OsString>> {
    #[cfg(target_os = "linux")]
    let args = mount::command_line(args)?;
    Ok(as_provider(args))
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Provider(args) if args.version => say(&format!("{}\n", version())),
        Command::Provider(args) => {
            telemetry::init(args.v, args.log_format());
            runtime()?.block_on(provider::run(*args))
        }
        Command::Get(args) => {
            telemetry::init_command();
            runtime()?.block_on(get::run(args))
        }
        Command::Check(args) => {
            telemetry::init_command();
            runtime()?.block_on(check::run(args))
        }
        #[cfg(feature = "emulator")]
        Command::Demo(args) => {
            telemetry::init_command();
            runtime()?.block_on(demo::run(args))
        }
        #[cfg(feature = "emulator")]
        Command::DevVault(args) => {
            telemetry::init_command();
            runtime()?.block_on(dev_vault::run(args))
        }
        #[cfg(target_os = "linux")]
        Command::Mount(args) => {
            let result = mount::run(*args, runtime);
            telemetry::flush();
            result
        }
        #[cfg(target_os = "linux")]
        Command::Unmount(args) => {
            let runtime = runtime()?;
            let result = runtime.block_on(unmount::run(args));
            // A directory that hangs is not waited for.
            runtime.shutdown_background();
            result
        }
        #[cfg(windows)]
        Command::Service(args) => {
            let check = |line: &[OsString]| parse_line(line).map(drop);
            service::run(args, check, |line| run(parse_line(line)?))
        }
        Command::Sync(args) => {
            telemetry::init_staying()?;
            let runtime = runtime()?;
            let result = runtime.block_on(sync::run(*args));
            // Fetches that still run are not waited for.
            runtime.shutdown_background();
            telemetry::flush();
            result
        }
        Command::Status(args) => {
            telemetry::init_command();
            let runtime = runtime()?;
            let result = runtime.block_on(status::run(args));
            // A directory of another user that hangs is not waited for.
            runtime.shutdown_background();
            result
        }
        Command::Refresh(args) => {
            telemetry::init_command();
            let runtime = runtime()?;
            let result = runtime.block_on(refresh::run(args));
            // A directory that hangs is not waited for.
            runtime.shutdown_background();
            result
        }
    }
}

/// A command line that was given as a part of another one.
#[cfg(windows)]
fn parse_line(line: &[OsString]) -> Result<Command> {
    let line = std::iter::once("akvfs".into()).chain(line.iter().cloned()).collect();
    let parsed = Cli::try_parse_from(as_provider(line));
    parsed.map(|cli| cli.command).map_err(|error| Error::class(error.to_string()))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Error::new(Code::Local, format!("threads cannot be started: {}", error.kind()))
    })
}

/// Writes to stdout. A reader that has gone is an error to report, not a panic.
fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::new(Code::Local, format!("stdout: {}", error.kind())))
}

/// A line for people on stderr. That nobody reads it is no reason to end.
fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "akvfs: {text}");
}

/// The version as the Go provider prints it.
fn version() -> String {
    // Byte for byte: scripts cut it up.
    format!(
        r#"{{"version":"{}","buildDate":"{}"}}"#,
        crate::version::VERSION,
        crate::version::BUILD_DATE
    )
}

/// Inserts `provider` before a leading flag, and rewrites Go's flag forms for it.
fn as_provider(args: Vec<OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_else(|| "akvfs".into());
    let mut args = args.peekable();
    let leading_flag = args
        .peek()
        .and_then(|first| first.to_str())
        .is_some_and(|first| first.starts_with('-') && !["-h", "--help"].contains(&first));
    let named = args.peek().is_some_and(|first| first == "provider");
    if named {
        args.next();
    }
    let mut out = vec![program];
    if leading_flag || named {
        out.push("provider".into());
        out.extend(config::go_flags(args));
    } else {
        out.extend(args);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> std::result::Result<Command, clap::Error> {
        let args = std::iter::once("akvfs").chain(args.iter().copied()).map(OsString::from);
        Cli::try_parse_from(as_provider(args.collect())).map(|cli| cli.command)
    }

    #[test]
    fn a_wait_that_no_clock_can_count_is_refused() {
        assert!(parse(&["get", "dev:", "x", "--timeout", "86400"]).is_ok());
        for command in [&["get", "dev:", "x"][..], &["check", "dev:"]] {
            let args = [command, &["--timeout", "18446744073709551615"]].concat();
            assert!(parse(&args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn the_go_providers_argument_list_is_the_provider_command() {
        let list = [
            "--endpoint=unix:///provider/azure.sock",
            "--construct-pem-chain=true",
            "--healthz-port=8989",
            "--healthz-path=/healthz",
            "--healthz-timeout=5s",
            "-v=5",
            "-log-format-json",
            "-logtostderr",
            "-cloud-name",
            "AzureChinaCloud",
        ];
        let Command::Provider(args) = parse(&list).unwrap() else { panic!() };
        assert_eq!(args.endpoint, "unix:///provider/azure.sock");
        assert_eq!((args.v, args.log_format_json, args.healthz_port), (5, true, 8989));
        assert_eq!(args.cloud_name, "AzureChinaCloud");
        let Command::Provider(args) = parse(&["provider", "-construct-pem-chain=false"]).unwrap()
        else {
            panic!()
        };
        assert!(!args.construct_pem_chain);
    }

    #[test]
    fn unknown_flags_and_commands_are_refused() {
        for bad in [&["--nonsense=1"][..], &["frobnicate"], &["get"], &["-v=x"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_version_is_the_go_providers_json() {
        let expected = concat!(r#"{"version":"v"#, env!("CARGO_PKG_VERSION"), r#"","buildDate":""#);
        assert!(version().starts_with(expected) && version().ends_with("\"}"), "{}", version());
    }
}
