//! akvfs as a Windows service: `akvfs service install -- provider ...` registers
//! `akvfs service run -- provider ...`, which the system starts.
//!
//! What is registered is put together here, and tested everywhere; `windows` speaks to the service manager.

#[cfg(windows)]
pub(crate) mod windows;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, printable};

/// The service's name when none is given.
pub(crate) const NAME: &str = "akvfs";
/// What may run as a service: it goes on until it is stopped.
const COMMANDS: [&str; 2] = ["provider", "sync"];
/// The Windows limit is 256; names of this length are still readable.
const MAX_NAME: usize = 80;

/// What is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) name: String,
    /// `None` is LocalSystem.
    pub(crate) account: Option<String>,
    /// Of the executable, each as one argument: the service manager's line is quoted from them.
    pub(crate) arguments: Vec<OsString>,
}

impl Registration {
    /// Checks what was asked for. `is_absolute` tells of a path on Windows.
    ///
    /// # Errors
    /// A name, an account, a path or a command that would not work.
    pub(crate) fn new(
        name: &str,
        account: Option<&str>,
        log: Option<&Path>,
        command: &[OsString],
        is_absolute: impl Fn(&Path) -> bool,
    ) -> Result<Self> {
        let name = checked_name(name)?;
        let account = account.map(checked_account).transpose()?;
        checked_command(command)?;
        let mut arguments: Vec<OsString> =
            ["service", "run", "--name", &name].into_iter().map(OsString::from).collect();
        if let Some(log) = log {
            if !is_absolute(log) {
                let shown = printable(&log.to_string_lossy(), 256);
                return Err(Error::class(format!("--log {shown} is not an absolute path")).fix(
                    r"a service starts in C:\Windows\System32: --log C:\ProgramData\akvfs.log",
                ));
            }
            arguments.extend(["--log".into(), log.as_os_str().to_owned()]);
        }
        arguments.push("--".into());
        arguments.extend(command.iter().cloned());
        Ok(Self { name, account, arguments })
    }
}

/// The command that a service runs: one that goes on. Flags alone are the provider's.
///
/// # Errors
/// Another command.
pub(crate) fn checked_command(command: &[OsString]) -> Result<()> {
    let first = command.first().map(|first| first.to_string_lossy().into_owned());
    match first {
        Some(first) if first.starts_with('-') || COMMANDS.contains(&first.as_str()) => Ok(()),
        Some(first) => Err(Error::class(format!("{} cannot be a service", printable(&first, 64)))
            .fix("akvfs service install -- provider --endpoint=...")),
        None => Err(Error::class("the service's command is missing")
            .fix("akvfs service install -- provider --endpoint=...")),
    }
}

fn checked_name(name: &str) -> Result<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err(Error::class(format!("--name {} is not a name", printable(name, 64)))
            .fix("letters, digits, '-', '_' and '.', 80 at most"));
    }
    Ok(name.to_owned())
}

/// Accounts that need no password: it would have to stand in the command line.
fn checked_account(account: &str) -> Result<String> {
    let lower = account.to_ascii_lowercase();
    let built_in = lower.starts_with(r"nt service\") || lower.starts_with(r"nt authority\");
    let managed = account.ends_with('$') && account.contains('\\');
    if account.chars().any(char::is_control) || !(built_in || managed) {
        let text = format!("--account {} would need a password", printable(account, 128));
        return Err(Error::class(text).fix(
            r"use NT SERVICE\NAME, NT AUTHORITY\LocalService or a managed account DOMAIN\NAME$; or \
              install without it, and set account and password in the services console",
        ));
    }
    Ok(account.to_owned())
}

/// Where the log of the time before is kept.
#[cfg_attr(not(windows), allow(dead_code))]
pub(crate) fn earlier_log(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(
        name: &str,
        account: Option<&str>,
        log: Option<&str>,
        command: &[&str],
    ) -> Result<Registration> {
        let command: Vec<OsString> = command.iter().map(OsString::from).collect();
        let absolute = |path: &Path| path.to_string_lossy().starts_with(r"C:\");
        Registration::new(name, account, log.map(Path::new), &command, absolute)
    }

    #[test]
    fn the_registered_command_runs_what_was_asked_for() {
        let made = register("vault files", None, None, &["provider"]);
        assert!(made.is_err(), "a name with a space");
        let made = register(
            "akvfs-sync",
            Some(r"NT SERVICE\akvfs-sync"),
            Some(r"C:\Program Data\a.log"),
            &["sync", r"C:\my class.yaml", r"C:\secrets", "--watch"],
        )
        .unwrap();
        assert_eq!(made.name, "akvfs-sync");
        assert_eq!(made.account.as_deref(), Some(r"NT SERVICE\akvfs-sync"));
        assert_eq!(
            made.arguments,
            [
                "service",
                "run",
                "--name",
                "akvfs-sync",
                "--log",
                r"C:\Program Data\a.log",
                "--",
                "sync",
                r"C:\my class.yaml",
                r"C:\secrets",
                "--watch"
            ]
        );
        let made = register(NAME, None, None, &["--endpoint=unix://C:/x.sock", "-v=5"]).unwrap();
        assert_eq!(
            made.arguments,
            ["service", "run", "--name", "akvfs", "--", "--endpoint=unix://C:/x.sock", "-v=5"]
        );
    }

    #[test]
    fn what_would_not_work_is_refused() {
        for command in [&[][..], &["get", "x", "y"], &["service", "run"], &["mount"], &[""]] {
            assert!(register(NAME, None, None, command).is_err(), "{command:?}");
        }
        for name in ["", "a/b", "a\\b", "a b", "a\"b", &"n".repeat(81)] {
            assert!(register(name, None, None, &["provider"]).is_err(), "{name}");
        }
        assert!(register(NAME, None, Some("a.log"), &["provider"]).is_err());
        for account in [r"DOMAIN\someone", r".\me", "me", "x$", ""] {
            assert!(register(NAME, Some(account), None, &["provider"]).is_err(), "{account}");
        }
        for account in [r"NT AUTHORITY\LocalService", r"nt service\akvfs", r"CORP\akvfs$"] {
            assert!(register(NAME, Some(account), None, &["provider"]).is_ok(), "{account}");
        }
        assert!(register(NAME, Some("NT SERVICE\\a\n"), None, &["provider"]).is_err());
    }

    #[test]
    fn the_earlier_log_stands_beside_the_log() {
        assert_eq!(earlier_log(Path::new("d/a.log")), Path::new("d/a.log.1"));
    }
}
