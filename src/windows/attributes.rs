//! What a path is, without following it.

use std::fs::File;
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::AsRawHandle;
use std::path::Path;

use windows_sys::Win32::Storage::FileSystem::{
    BY_HANDLE_FILE_INFORMATION, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_REPARSE_POINT,
    FILE_ATTRIBUTE_TAG_INFO, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT,
    FILE_READ_ATTRIBUTES, FileAttributeTagInfo, GetFileInformationByHandle,
    GetFileInformationByHandleEx,
};

/// A Unix socket is a reparse point with this tag.
const AF_UNIX: u32 = 0x8000_0023;

/// The kinds that are told apart here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Socket,
    /// A symbolic link, a junction, a placeholder of a cloud drive: opening it would lead elsewhere.
    Reparse,
}

/// What is at `path` itself, and a number that stays with it when it is renamed; `None` when nothing is.
pub(crate) fn look(path: &Path) -> io::Result<Option<(Kind, u64)>> {
    // Not std's metadata: it opens some reparse points after all.
    let file = std::fs::OpenOptions::new()
        .access_mode(FILE_READ_ATTRIBUTES)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS)
        .open(path);
    match file {
        Ok(file) => Ok(Some((kind(&file)?, number(&file)?))),
        // Also when a folder above is missing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn kind(file: &File) -> io::Result<Kind> {
    let mut info = FILE_ATTRIBUTE_TAG_INFO::default();
    let size = u32::try_from(size_of::<FILE_ATTRIBUTE_TAG_INFO>()).unwrap_or_default();
    // SAFETY: the handle lives as long as `file`, and `info` has the size that is told.
    let known = unsafe {
        GetFileInformationByHandleEx(
            file.as_raw_handle(),
            FileAttributeTagInfo,
            (&raw mut info).cast(),
            size,
        )
    };
    if known == 0 {
        // File systems that have no reparse points may not know the question.
        info.FileAttributes = by_handle(file)?.dwFileAttributes;
    }
    let is = |attribute| info.FileAttributes & attribute != 0;
    Ok(if is(FILE_ATTRIBUTE_REPARSE_POINT) {
        if info.ReparseTag == AF_UNIX { Kind::Socket } else { Kind::Reparse }
    } else if is(FILE_ATTRIBUTE_DIRECTORY) {
        Kind::Folder
    } else {
        Kind::File
    })
}

/// The file's number on its volume.
pub(crate) fn number(file: &File) -> io::Result<u64> {
    let info = by_handle(file)?;
    Ok(u64::from(info.nFileIndexHigh) << 32 | u64::from(info.nFileIndexLow))
}

fn by_handle(file: &File) -> io::Result<BY_HANDLE_FILE_INFORMATION> {
    let mut info = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle lives as long as `file`.
    match unsafe { GetFileInformationByHandle(file.as_raw_handle(), &raw mut info) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(info),
    }
}
