//! What a path is, without following it.

use std::io;
use std::path::Path;

use std::os::windows::fs::{MetadataExt, OpenOptionsExt};
use std::os::windows::io::AsRawHandle;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_REPARSE_POINT, FILE_ATTRIBUTE_TAG_INFO, FILE_FLAG_BACKUP_SEMANTICS,
    FILE_FLAG_OPEN_REPARSE_POINT, FILE_READ_ATTRIBUTES, FileAttributeTagInfo,
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

/// What is at `path` itself; `None` when there is nothing.
pub(crate) fn kind(path: &Path) -> io::Result<Option<Kind>> {
    // Not std's metadata: it opens some reparse points after all.
    let file = std::fs::OpenOptions::new()
        .access_mode(FILE_READ_ATTRIBUTES)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS)
        .open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
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
        let metadata = file.metadata()?;
        info.FileAttributes = metadata.file_attributes();
    }
    Ok(Some(if info.FileAttributes & FILE_ATTRIBUTE_REPARSE_POINT != 0 {
        if info.ReparseTag == AF_UNIX { Kind::Socket } else { Kind::Reparse }
    } else if file.metadata()?.is_dir() {
        Kind::Folder
    } else {
        Kind::File
    }))
}
