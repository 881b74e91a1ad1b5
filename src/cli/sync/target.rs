//! The directory that is written. One write at a time, on a thread of its own.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::delivery::files::{self, File, Writer, Written};
use crate::error::{Code, Error, Result, printable};
use crate::view::{Layout, View};

/// A directory, and who may write it.
pub(super) struct Target {
    /// Without symbolic links.
    pub(super) path: PathBuf,
    options: files::Options,
    /// Nothing: it is to be opened again.
    writer: Arc<Mutex<Option<Writer>>>,
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
        Ok(Self { path, options, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    pub(super) fn layout(&self) -> Layout {
        self.options.layout
    }

    /// Makes the directory equal to what the view shows.
    pub(super) async fn write(&self, view: &View) -> Result<Written> {
        let (shown, writer) = (view.shown(), self.writer.clone());
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
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            if writer.is_none() {
                *writer = Some(Writer::open(&path, options)?);
            }
            let written = writer.as_mut().ok_or_else(Error::task_failed)?.write(&files);
            if written.as_ref().is_err_and(|error| error.code() == Code::PlaceRefused) {
                // Replaced or emptied, perhaps: what is there now is to be opened next time.
                *writer = None;
            }
            written
        });
        written.await.map_err(|_| Error::task_failed())?
    }
}
