//! The real file system: Win32 calls on one directory, and the checks before it is written.
//!
//! The directory and everything above it must be what it seems: a reparse point among them is refused. A
//! user's directory must not be another's or let others write, and nobody else may be able to put another one
//! in its place; kubelet's, for a pod, is left as it is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::windows::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf, Prefix};
use std::time::Duration;

use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_DELETE_ON_CLOSE, FILE_FLAG_OPEN_REPARSE_POINT, FILE_SHARE_DELETE, FILE_SHARE_READ,
    FILE_SHARE_WRITE, MOVE_FILE_FLAGS, MOVEFILE_REPLACE_EXISTING, MOVEFILE_WRITE_THROUGH,
    MoveFileExW,
};
use zeroize::Zeroizing;

use super::super::Place;
use super::{Disk, Found, Kind};
use crate::error::{Code, Error, Result, printable};
use crate::windows::{attributes, sddl, security, wide};

/// An open directory.
pub(super) struct Folder {
    /// In the form that has no limit of length and no device names.
    path: PathBuf,
    access: Access,
    lock: Option<File>,
}

/// Who may use what is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// SYSTEM, Administrators and our account, whatever the directory says.
    Private,
    /// Whom the directory's access list names: an operator has set it, or it is kubelet's.
    Directory,
}

/// Finds and checks the directory; a user's is made when it is absent.
pub(super) fn open(directory: &Path, place: Place) -> Result<Folder> {
    let shown = |path: &Path| printable(&path.to_string_lossy(), 512);
    let failed = |what: &str, error: io::Error| {
        Error::new(Code::Local, format!("cannot {what} {}: {error}", shown(directory)))
    };
    let path = std::path::absolute(directory).map_err(|error| failed("find", error))?;
    let path = verbatim(&path).ok_or_else(|| {
        let text = format!("{} is not a directory on a drive or a share", shown(directory));
        Error::new(Code::PlaceRefused, text)
    })?;
    let kind = |path: &Path| attributes::look(path).map_err(|error| failed("look at", error));
    for above in path.ancestors().skip(1).filter(|above| above.file_name().is_some()) {
        if let Some((attributes::Kind::Reparse | attributes::Kind::Socket, _)) = kind(above)? {
            let text = format!("{} leads elsewhere: it is a link or a junction", shown(above));
            return Err(Error::new(Code::PlaceRefused, text).fix("give the directory's own path"));
        }
    }
    let is_there = match kind(&path)? {
        Some((attributes::Kind::Folder, _)) => true,
        Some(_) => {
            let text = format!("{} is a link, a junction or no directory", shown(directory));
            return Err(Error::new(Code::PlaceRefused, text).fix("give the directory itself"));
        }
        None if place == Place::Directory => false,
        None => return Err(failed("find", io::ErrorKind::NotFound.into())),
    };
    let there = if is_there { &path } else { path.parent().unwrap_or(&path) };
    if !security::has_lists(there).map_err(|error| failed("look at", error))? {
        let text = format!("{} is on a file system without access lists", shown(directory));
        return Err(Error::new(Code::PlaceRefused, text).fix("give a directory on NTFS"));
    }
    let access = match place {
        Place::CsiTarget => Access::Directory,
        Place::Directory => {
            let ours = security::ourselves().map_err(|e| failed("ask for our account for", e))?;
            for above in path.ancestors().skip(1) {
                cannot_be_replaced(above, &ours)?;
            }
            if !is_there {
                security::create_folder(&path, &sddl::private_folder())
                    .map_err(|error| failed("make", error))?;
            }
            let list = security::list(&path).map_err(|e| failed("read the access list of", e))?;
            let judgement = sddl::judge(&list, Some(&ours));
            if let Some(account) = judgement.writer {
                let name = shown(directory);
                let text = format!("{name} may be written by others ({account})");
                return Err(Error::new(Code::PlaceRefused, text).fix(format!(
                    "let akvfs make it, or: icacls \"{name}\" /setowner Administrators, and then: \
                     icacls \"{name}\" /inheritance:r /grant:r \
                     SYSTEM:(OI)(CI)F Administrators:(OI)(CI)F READER:(OI)(CI)R"
                )));
            }
            if judgement.protected { Access::Directory } else { Access::Private }
        }
    };
    Ok(Folder { path, access, lock: None })
}

/// Refuses a directory below a folder that lets others replace it.
fn cannot_be_replaced(above: &Path, ours: &str) -> Result<()> {
    let shown = printable(&above.to_string_lossy().replace(r"\\?\", ""), 512);
    let list = security::list(above).map_err(|error| {
        Error::new(Code::Local, format!("cannot read the access list of {shown}: {error}"))
    })?;
    match sddl::replacer(&list, Some(ours), above.file_name().is_none()) {
        None => Ok(()),
        Some(account) => {
            let text = format!("{shown} lets others ({account}) replace what is in it");
            Err(Error::new(Code::PlaceRefused, text).fix(format!(
                r"give a directory in C:\ProgramData, or let only Administrators change {shown}"
            )))
        }
    }
}

/// The form of an absolute path that Windows takes as it is; `None` for a device or the like.
fn verbatim(path: &Path) -> Option<PathBuf> {
    let mut components = path.components();
    let Some(Component::Prefix(prefix)) = components.next() else { return None };
    let mut out = match prefix.kind() {
        Prefix::Verbatim(_) | Prefix::VerbatimUNC(..) | Prefix::VerbatimDisk(_) => {
            return Some(path.to_owned());
        }
        Prefix::Disk(letter) => format!(r"\\?\{}:", char::from(letter)).into(),
        Prefix::UNC(server, share) => {
            let mut out = std::ffi::OsString::from(r"\\?\UNC\");
            out.push(server);
            out.push(r"\");
            out.push(share);
            out
        }
        Prefix::DeviceNS(_) => return None,
    };
    out.push(r"\");
    let mut out = PathBuf::from(out);
    out.extend(components.filter(|part| matches!(part, Component::Normal(_))));
    Some(out)
}

impl Folder {
    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.path.clone() } else { self.path.join(path.replace('/', r"\")) }
    }
}

impl Disk for Folder {
    fn look(&self, path: &str) -> io::Result<Option<Found>> {
        let found = attributes::look(&self.at(path))?;
        Ok(found.map(|(kind, number)| Found {
            kind: match kind {
                attributes::Kind::File => Kind::File,
                attributes::Kind::Folder => Kind::Folder,
                attributes::Kind::Socket | attributes::Kind::Reparse => Kind::Other,
            },
            number,
        }))
    }

    fn read(&self, path: &str, room: usize) -> io::Result<Zeroizing<Vec<u8>>> {
        let file = OpenOptions::new()
            .read(true)
            .share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE)
            .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT)
            .open(self.at(path))?;
        // Room from the start: a buffer that grows leaves copies behind.
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(room).min(room);
        let mut contents = Zeroizing::new(Vec::with_capacity(size + 1));
        file.take(room as u64).read_to_end(&mut contents)?;
        Ok(contents)
    }

    fn create(&self, path: &str, contents: &[u8]) -> io::Result<u64> {
        let path = self.at(path);
        let list = (self.access == Access::Private).then(sddl::private_file);
        let mut file = security::create_file(&path, list.as_deref())?;
        let written = file.write_all(contents).and_then(|()| file.sync_all());
        let number = written.and_then(|()| attributes::number(&file));
        drop(file);
        if number.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        number
    }

    fn rename(&self, from: &str, to: &str, replace: bool) -> io::Result<()> {
        let (from, to) = (wide(self.at(from).as_os_str())?, wide(self.at(to).as_os_str())?);
        let replacing: MOVE_FILE_FLAGS = if replace { MOVEFILE_REPLACE_EXISTING } else { 0 };
        // SAFETY: both paths end in a NUL and live until the call returns.
        let moved =
            unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), replacing | MOVEFILE_WRITE_THROUGH) };
        if moved == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        std::fs::remove_file(self.at(path))
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        match self.access {
            Access::Private => security::create_folder(&self.at(path), &sddl::private_folder()),
            Access::Directory => std::fs::create_dir(self.at(path)),
        }
    }

    fn remove_folder(&self, path: &str) -> io::Result<()> {
        std::fs::remove_dir(self.at(path))
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        std::fs::read_dir(self.at(folder))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn lock(&mut self, path: &str) -> io::Result<()> {
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .share_mode(0)
            .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_DELETE_ON_CLOSE)
            .open(self.at(path))?;
        self.lock = Some(lock);
        Ok(())
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

#[cfg(test)]
mod tests;
