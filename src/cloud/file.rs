//! Reading a file whose name a class may have chosen: regular, small, and below one directory.

use std::fs::File;
use std::io::{Error as IoError, ErrorKind, Read};
use std::path::Path;

use crate::error::{Error, Result, printable};

/// Largest file, in bytes.
const MAX: u64 = 64 * 1024;

/// A path as an error shows it.
pub(super) fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy(), 256)
}

/// Reads a file that the operator named.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let file = imp::open(path).map_err(|error| failed(path, &error))?;
    contents(file, path)
}

/// Reads a file that a class named: relative to `dir`, or absolute and below it. Neither `..` nor a
/// link leads out of `dir`.
pub(super) fn read_below(dir: &Path, path: &Path) -> Result<Vec<u8>> {
    let outside = || {
        Error::class(format!("open {}: outside of {}", shown(path), shown(dir)))
            .fix("move the file there, or start the provider with --cloud-env-dir")
    };
    let relative = if path.has_root() || path.is_absolute() {
        path.strip_prefix(dir).map_err(|_| outside())?
    } else {
        path
    };
    let file = imp::open_below(dir, relative).map_err(|error| match error.kind() {
        ErrorKind::CrossesDevices => outside(),
        _ => failed(path, &error),
    })?;
    contents(file, path)
}

fn contents(file: File, path: &Path) -> Result<Vec<u8>> {
    let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !regular {
        return Err(Error::class(format!("open {}: not a regular file", shown(path))));
    }
    let mut text = Vec::new();
    file.take(MAX + 1).read_to_end(&mut text).map_err(|error| failed(path, &error))?;
    if text.len() as u64 > MAX {
        return Err(Error::class(format!("open {}: larger than 64 KiB", shown(path))));
    }
    Ok(text)
}

/// Upstream's text for the commonest failure.
fn failed(path: &Path, error: &IoError) -> Error {
    let error = match error.kind() {
        ErrorKind::NotFound => Error::class("no such file or directory").fix(
            "mount the file into the provider's container (chart values volumes, volumeMounts)",
        ),
        ErrorKind::Unsupported => Error::class("this kernel has no openat2")
            .fix("name the file by AZURE_ENVIRONMENT_FILEPATH of the provider instead"),
        kind => Error::class(kind.to_string()),
    };
    error.context(format!("open {}", shown(path)))
}

/// The kernel resolves the whole path below the directory, so nothing can be swapped in between.
#[cfg(target_os = "linux")]
mod imp {
    use std::fs::File;
    use std::io;
    use std::path::Path;

    use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open as open_file, openat2};

    /// Not waiting for the writer of a pipe, nor making a terminal ours.
    const READ: OFlags =
        OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

    pub(super) fn open(path: &Path) -> io::Result<File> {
        Ok(File::from(open_file(path, READ, Mode::empty())?))
    }

    pub(super) fn open_below(dir: &Path, path: &Path) -> io::Result<File> {
        let directory = rustix::fs::openat(
            CWD,
            dir,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        Ok(File::from(openat2(&directory, path, READ, Mode::empty(), beneath)?))
    }
}

/// Without openat2 the resolved path is compared; who may replace directories could win a race.
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::fs::File;
    use std::io;
    use std::path::{Component, Path};

    pub(super) fn open(path: &Path) -> io::Result<File> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        File::open(path)
    }

    pub(super) fn open_below(dir: &Path, path: &Path) -> io::Result<File> {
        let outside = || io::Error::from(io::ErrorKind::CrossesDevices);
        if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        let found = dir.join(path).canonicalize()?;
        if !found.starts_with(dir.canonicalize()?) {
            return Err(outside());
        }
        open(&found)
    }
}
