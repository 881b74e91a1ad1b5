//! The directory that is written. One write at a time, on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::delivery::files::{self, File, Writer, Written};
use crate::error::{Code, Error, Result, printable};
use crate::view::{Layout, View};

/// A directory, and who may write it.
pub(super) struct Target {
    /// Without symbolic links.
    pub(super) path: PathBuf,
    options: files::Options,
    held: Arc<Mutex<Held>>,
}

/// What stays between writes.
struct Held {
    /// Nothing: it is to be opened again.
    writer: Option<Writer>,
    /// What writers that were given up have done, and nobody was told.
    untold: Written,
}

impl Target {
    pub(super) async fn open(dir: PathBuf, options: files::Options) -> Result<Self> {
        let opened = tokio::task::spawn_blocking(move || {
            let writer = Writer::open(&dir, options)?;
            let path = dir.canonicalize().map_err(|error| {
                let dir = printable(&dir.to_string_lossy(), 256);
                Error::new(Code::Local, format!("cannot find {dir}: {}", error.kind()))
            })?;
            Ok((writer, path))
        });
        let (writer, path) = opened.await.map_err(|_| Error::task_failed())??;
        let held = Held { writer: Some(writer), untold: Written::default() };
        Ok(Self { path, options, held: Arc::new(Mutex::new(held)) })
    }

    pub(super) fn layout(&self) -> Layout {
        self.options.layout
    }

    /// Makes the directory equal to what the view shows.
    pub(super) async fn write(&self, view: &View) -> Result<Written> {
        let (shown, held) = (view.shown()?, self.held.clone());
        let (path, options) = (self.path.clone(), self.options);
        let written = tokio::task::spawn_blocking(move || {
            let files: Vec<File<'_>> = shown
                .iter()
                .map(|file| File {
                    path: file.path(),
                    mode: file.mode(),
                    contents: file.contents().expose(),
                })
                .collect();
            held.lock().unwrap_or_else(PoisonError::into_inner).write(&path, options, &files)
        });
        written.await.map_err(|_| Error::task_failed())?
    }
}

impl Held {
    /// Says also what writes before it have done that failed, whichever writer they had.
    fn write(
        &mut self,
        path: &Path,
        options: files::Options,
        files: &[File<'_>],
    ) -> Result<Written> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => Writer::open(path, options)?,
        };
        match writer.write(files) {
            Ok(mut written) => {
                self.writer = Some(writer);
                written.also(std::mem::take(&mut self.untold));
                Ok(written)
            }
            Err(error) => {
                if error.code() == Code::PlaceRefused {
                    // Replaced or emptied, perhaps: what is there now is to be opened next time.
                    let mut untold = writer.take_untold();
                    untold.also(std::mem::take(&mut self.untold));
                    self.untold = untold;
                } else {
                    self.writer = Some(writer);
                }
                Err(error)
            }
        }
    }
}
