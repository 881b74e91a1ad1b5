//! The writer of Unix systems.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{File, Options, Written};
use crate::error::{Code, Error, Result};

/// Keeps a directory equal to a set of files.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    shown: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Writer {
    /// Opens the directory, refuses what may not be written, and removes what a crash has left.
    ///
    /// # Errors
    /// The directory is not what the options say, or somebody else writes it.
    pub fn open(directory: &Path, _: Options) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(failed)?;
        Ok(Self { directory: directory.to_owned(), shown: BTreeMap::new() })
    }

    /// Something that the user should know about the directory.
    pub fn warning(&self) -> Option<&str> {
        None
    }

    /// Makes the directory hold exactly these files.
    ///
    /// # Errors
    /// Something foreign is in the way, or the directory cannot be written.
    pub fn write(&mut self, files: &[File<'_>]) -> Result<Written> {
        let next: BTreeMap<String, (u32, Vec<u8>)> = files
            .iter()
            .map(|file| (file.path.to_owned(), (file.mode, file.contents.to_vec())))
            .collect();
        let mut written = Written::default();
        for (path, file) in &next {
            match self.shown.get(path) {
                None => written.added.push(path.clone()),
                Some(before) if before != file => written.changed.push(path.clone()),
                Some(_) => {}
            }
        }
        written.removed = self.shown.keys().filter(|p| !next.contains_key(*p)).cloned().collect();
        if written.is_empty() {
            return Ok(written);
        }
        let name = format!("..{}", jiff::Timestamp::now().as_nanosecond());
        let generation = self.directory.join(&name);
        for (path, (mode, contents)) in &next {
            let path = generation.join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(&generation)).map_err(failed)?;
            let mut file = std::fs::OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            file.set_permissions(std::fs::Permissions::from_mode(*mode)).map_err(failed)?;
            file.write_all(contents).map_err(failed)?;
        }
        let data = self.directory.join("..data");
        let old = std::fs::read_link(&data).ok();
        let swap = self.directory.join("..data_tmp");
        symlink(&name, &swap).and_then(|()| std::fs::rename(&swap, &data)).map_err(failed)?;
        for path in next.keys() {
            let link = path.split('/').next().unwrap_or(path);
            // There already, most of the time.
            let _ = symlink(Path::new("..data").join(link), self.directory.join(link));
        }
        for path in written.removed.iter().filter(|path| !path.contains('/')) {
            std::fs::remove_file(self.directory.join(path)).map_err(failed)?;
        }
        if let Some(old) = old {
            std::fs::remove_dir_all(self.directory.join(old)).map_err(failed)?;
        }
        self.shown = next;
        Ok(written)
    }
}

#[allow(clippy::needless_pass_by_value)] // for map_err
fn failed(error: std::io::Error) -> Error {
    Error::new(Code::Local, format!("cannot write the directory: {}", error.kind()))
}
