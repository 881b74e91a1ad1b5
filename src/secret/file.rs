//! Files that hold a secret: regular, bounded, and nobody else's to read.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Reads a whole file of at most `max` bytes. One that group or others may use is refused: its mode
/// is the only thing that guards it.
///
/// # Errors
/// ClassInvalid, naming the file and never its content.
pub(crate) fn read(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>> {
    read_if(path, max, imp::is_private)
}

/// The same for a file whose mode somebody else decides: kubelet's, in a pod.
///
/// # Errors
/// As [`read`], but for the mode.
pub(crate) fn read_shared(path: &Path, max: usize) -> Result<Zeroizing<Vec<u8>>> {
    read_if(path, max, |_, _| Ok(()))
}

fn read_if(
    path: &Path,
    max: usize,
    acceptable: fn(&Path, &std::fs::Metadata) -> Result<()>,
) -> Result<Zeroizing<Vec<u8>>> {
    // Asked before opening, so that a pipe nobody writes to is not waited for.
    if !std::fs::metadata(path).map_err(|error| failed(path, &error))?.is_file() {
        return Err(Error::class(format!("{} is not a regular file", path.display())));
    }
    let file = File::open(path).map_err(|error| failed(path, &error))?;
    let metadata = file.metadata().map_err(|error| failed(path, &error))?;
    acceptable(path, &metadata)?;
    let limit = max as u64 + 1;
    // Room for the whole file from the start: a buffer that grows leaves copies behind.
    let room = usize::try_from(metadata.len().min(limit)).unwrap_or(max) + 1;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    file.take(limit).read_to_end(&mut text).map_err(|error| failed(path, &error))?;
    if text.len() > max {
        return Err(Error::class(format!("{} is larger than {max} bytes", path.display())));
    }
    Ok(text)
}

/// The error of a file that cannot be read.
pub(crate) fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::class(format!("cannot read {}: {}", path.display(), error.kind()))
}

#[cfg(unix)]
mod imp {
    use std::fs::Metadata;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use crate::error::{Error, Result};

    pub(super) fn is_private(path: &Path, metadata: &Metadata) -> Result<()> {
        if metadata.mode() & 0o077 != 0 {
            return Err(Error::class(format!(
                "{} may be used by its group or by others (mode {:o})",
                path.display(),
                metadata.mode() & 0o7777
            ))
            .fix(format!("chmod 600 {}", path.display())));
        }
        Ok(())
    }
}

/// Access lists are not looked at.
#[cfg(not(unix))]
mod imp {
    use std::fs::Metadata;
    use std::path::Path;

    use crate::error::Result;

    pub(super) fn is_private(_: &Path, _: &Metadata) -> Result<()> {
        Ok(())
    }
}
