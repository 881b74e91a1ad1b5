//! A mount of a plain user.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use super::NOBODY;
use crate::support::{eventually, open_device_to_all, table};
use crate::sync::{Site, code, said};

/// A mount in the background of the embedded vault, which root cannot look into.
pub fn mount(site: &Site) -> PathBuf {
    open_device_to_all();
    let place = PathBuf::from("/tmp/a-users");
    std::fs::create_dir(&place).unwrap();
    std::os::unix::fs::chown(&place, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut command = site.azure.akvfs(&["mount", "dev:", place.to_str().unwrap()]);
    command.uid(NOBODY).gid(NOBODY).env_remove("XDG_RUNTIME_DIR");
    let mounted = command.output().unwrap();
    assert_eq!(code(&mounted), 0, "{}", said(&mounted));
    eventually("a user's mount", || table(&place).len() == 1);
    place
}
