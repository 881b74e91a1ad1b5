//! A file that lines are added to for as long as this process lives.
//!
//! It is written only when it is a plain file of ours that others cannot write, and no link is followed to
//! it. It may be moved away while it is written (logrotate does that): its name is looked at again, at
//! most once a second, and a new file begun where it is gone or another one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Code, Error, Result, printable};

/// How often the name is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A file to add lines to.
#[derive(Debug)]
pub(crate) struct Appended {
    path: PathBuf,
    /// `None` after its name was found gone and could not be opened again.
    file: Option<File>,
    looked: Instant,
    /// Whether the last line is an incomplete one: the next begins a line of its own.
    torn: bool,
}

impl Appended {
    /// Opens the file, or makes it (mode 0600).
    ///
    /// # Errors
    /// It cannot be opened, or is none to write to.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let refused = |why: &io::Error| {
            let path = printable(&path.to_string_lossy(), 256);
            // What is refused by us has words; the system's errors have a kind.
            let why = why.get_ref().map_or_else(|| why.kind().to_string(), ToString::to_string);
            Error::new(Code::PlaceRefused, format!("cannot write to {path}: {why}"))
                .fix("name a file in a directory where only its owner may write")
        };
        // Later this process may work in another directory.
        let path = std::path::absolute(path).map_err(|error| refused(&error))?;
        let (file, torn) = opened(&path).map_err(|error| refused(&error))?;
        Ok(Self { path, file: Some(file), looked: Instant::now(), torn })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a line, which has its end.
    ///
    /// # Errors
    /// All or a part of it could not be written.
    pub(crate) fn add(&mut self, line: &[u8]) -> io::Result<()> {
        self.follow_name()?;
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        // In one call, or lines of several processes could mix.
        let line = if self.torn { [b"\n", line].concat() } else { line.to_vec() };
        let written = write_once(file, &line)?;
        let rest = line.get(written..).unwrap_or_default();
        self.torn = !rest.is_empty();
        file.write_all(rest)?;
        self.torn = false;
        Ok(())
    }

    /// Opens the file again when its name leads elsewhere by now.
    fn follow_name(&mut self) -> io::Result<()> {
        if self.file.is_some() && self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        let ours = self.file.as_ref().and_then(|file| Some(identity(&file.metadata().ok()?)));
        let there = std::fs::symlink_metadata(&self.path).map(|there| identity(&there));
        if ours.is_none() || there.ok() != ours {
            self.file = None;
            let (file, torn) = opened(&self.path)?;
            (self.file, self.torn) = (Some(file), torn);
        }
        Ok(())
    }
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn write_once(file: &mut File, line: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(line) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The file, and whether its last line is incomplete.
fn opened(path: &Path) -> io::Result<(File, bool)> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        // A pipe without a reader must not hold us up.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let metadata = file.metadata()?;
    let refused = if !metadata.is_file() {
        "it is no plain file"
    } else if metadata.uid() != rustix::process::geteuid().as_raw() {
        "it belongs to another user"
    } else if metadata.mode() & 0o022 != 0 {
        "others may write to it"
    } else if metadata.nlink() > 1 {
        "it has another name besides"
    } else {
        ""
    };
    if !refused.is_empty() {
        return Err(io::Error::other(refused));
    }
    let mut last = [b'\n'];
    if let Some(at) = metadata.len().checked_sub(1) {
        // The file may have become shorter.
        let _ = file.read_at(&mut last, at)?;
    }
    Ok((file, last != [b'\n']))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn lines_are_added_and_a_file_that_is_moved_away_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("log"), dir.path().join("log.1"));
        std::fs::write(&path, "torn").unwrap();
        mode(&path, 0o640);
        let mut log = Appended::open(&path).unwrap();
        log.add(b"one\n").unwrap();
        log.add(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "torn\none\ntwo\n");
        std::fs::rename(&path, &moved).unwrap();
        log.looked -= LOOK;
        log.add(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // Gone, and something else in its place: nothing is written until that is mended.
        std::fs::remove_file(&path).unwrap();
        symlink(&moved, &path).unwrap();
        log.looked -= LOOK;
        for _ in 0..2 {
            log.add(b"four\n").unwrap_err();
        }
        std::fs::remove_file(&path).unwrap();
        log.add(b"five\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "five\n");
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "torn\none\ntwo\n");
    }

    #[test]
    fn only_a_plain_file_of_ours_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("open"), "").unwrap();
        mode(&at("open"), 0o666);
        std::fs::write(at("two"), "").unwrap();
        std::fs::hard_link(at("two"), at("names")).unwrap();
        symlink(at("two"), at("link")).unwrap();
        std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (name, why) in [
            ("open", "others may write to it"),
            ("names", "it has another name besides"),
            ("link", ""),
            ("socket", ""),
            ("", ""),
            ("no/such", "entity not found"),
        ] {
            let error = Appended::open(&at(name)).unwrap_err().to_string();
            assert!(error.starts_with("cannot write to ") && error.contains(why), "{error}");
        }
        let pipe = Appended::open(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(pipe.contains("it is no plain file"), "{pipe}");
    }
}
