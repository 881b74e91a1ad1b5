//! `--uid`, `--gid`, `--file-mode`, `--dir-mode`: whose the files are, and for whom.

use clap::Args as ClapArgs;

use crate::delivery::fuse;
use crate::error::{Error, Result};

/// What a tree says of its files.
#[derive(ClapArgs, Clone, Debug)]
pub(super) struct Shown {
    /// Let other users in, as owner and modes allow; a plain user needs user_allow_other in /etc/fuse.conf, and root's mounts are open to others always
    #[arg(long)]
    allow_other: bool,
    /// Whose the files are, a number; this process's own if not given
    #[arg(long, value_name = "UID", value_parser = id)]
    uid: Option<u32>,
    /// The files' group, a number; this process's own if not given
    #[arg(long, value_name = "GID", value_parser = id)]
    gid: Option<u32>,
    /// Mode of every file, octal, whatever the class says; nobody can write
    #[arg(long, value_name = "MODE", value_parser = mode)]
    file_mode: Option<u32>,
    /// Mode of every directory, octal
    #[arg(long, value_name = "MODE", default_value = "0755", value_parser = mode)]
    dir_mode: u32,
    /// Describe each file's object in attributes user.akvfs.*: its type, name, version and dates
    #[arg(long)]
    xattr: bool,
}

/// A user or group. The highest number means "leave it as it is" to the system.
fn id(text: &str) -> std::result::Result<u32, String> {
    let id = text.parse().ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| "expected a number, such as 1000".to_owned())
}

/// Permission bits.
fn mode(text: &str) -> std::result::Result<u32, String> {
    let digits = !text.is_empty() && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777);
    mode.ok_or_else(|| "expected an octal mode from 0 to 0777, such as 0440".to_owned())
}

impl Shown {
    /// Sets the options, and says what of a mode cannot be.
    pub(super) fn set(&self, options: &mut fuse::Options, notices: &mut Vec<String>) -> Result<()> {
        let may = May::here();
        if let Some(uid) = self.uid {
            may.own(uid, &may.users, "uid", "/proc/self/uid_map")?;
            options.uid = uid;
        }
        if let Some(gid) = self.gid {
            may.own(gid, &may.groups, "gid", "/proc/self/gid_map")?;
            options.gid = gid;
        }
        if self.file_mode.unwrap_or_default() & 0o222 != 0 {
            notices
                .push("nobody can write: --file-mode counts without its bits for that".to_owned());
        }
        // The owner's is always there.
        if self.dir_mode & 0o022 != 0 {
            notices
                .push("nobody can write: --dir-mode counts without its bits for that".to_owned());
        }
        options.file_mode = self.file_mode;
        options.dir_mode = self.dir_mode;
        options.allow_other = self.allow_other;
        options.xattr = self.xattr;
        Ok(())
    }
}

/// To whom this process may give files.
struct May {
    root: bool,
    users: Vec<u32>,
    groups: Vec<u32>,
}

impl May {
    fn here() -> Self {
        use rustix::process::{getegid, geteuid, getgid, getgroups, getuid};
        let mut groups = vec![getegid().as_raw(), getgid().as_raw()];
        groups.extend(getgroups().unwrap_or_default().iter().map(|group| group.as_raw()));
        let users = vec![geteuid().as_raw(), getuid().as_raw()];
        Self { root: geteuid().is_root(), users, groups }
    }

    /// Root: whom its user namespace knows. Others: themselves and their groups, since a mount that says
    /// otherwise would only hide whose files these are.
    fn own(&self, id: u32, theirs: &[u32], option: &str, map: &str) -> Result<()> {
        if !self.root {
            if theirs.contains(&id) {
                return Ok(());
            }
            return Err(Error::class(format!("--{option} {id} is not yours to give"))
                .fix("only root can give files to others"));
        }
        let map = std::fs::read_to_string(map).unwrap_or_default();
        // Where there is no map there are no namespaces.
        if map.is_empty() || is_mapped(&map, id) {
            return Ok(());
        }
        Err(Error::class(format!("--{option} {id} does not exist in this user namespace"))
            .fix("map it when the namespace is made, or choose another"))
    }
}

/// Whether a line of the map, `FIRST OUTSIDE COUNT`, has the id.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (first..first.saturating_add(count)).contains(&u64::from(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_and_set_no_ids() {
        assert_eq!((mode("0440"), mode("755"), mode("0")), (Ok(0o440), Ok(0o755), Ok(0)));
        for bad in ["", "4755", "1777", "0o400", "+440", "-440", "888", "rw", "99999999999"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
        for bad in ["", "-1", "4294967295", "root", "1.5"] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plain_user_gives_files_only_to_himself_and_root_to_all_that_are_mapped() {
        let plain = May { root: false, users: vec![1000], groups: vec![1000, 27] };
        assert!(plain.own(1000, &plain.users, "uid", "").is_ok());
        assert!(plain.own(27, &plain.groups, "gid", "").is_ok());
        assert!(plain.own(0, &plain.users, "uid", "").is_err());
        let root = May { root: true, ..plain };
        assert!(root.own(1234, &root.users, "uid", "/no/such/map").is_ok());
        let map = "         0       1000          1\n  1 100000 65536\n";
        assert!(is_mapped(map, 0) && is_mapped(map, 1) && is_mapped(map, 65536));
        assert!(!is_mapped(map, 65537) && !is_mapped("junk\n0 0\n", 0));
    }
}
