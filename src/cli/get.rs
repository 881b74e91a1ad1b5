//! `akvfs get`: one object to stdout, exactly its bytes.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::{Args as ClapArgs, value_parser};

use crate::error::{Code, Error, Result};
use crate::fetch::{Ages, Demand};
use crate::render::{self, FileView};
use crate::view;

use super::source::{Opened, SourceArgs};

/// Print one object
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// File or object of the class (of a version history the newest); for a vault NAME, keys/NAME or certificates/NAME
    #[arg(value_name = "NAME")]
    name: String,
    /// Longest wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let opened = args.source.open(Ages::default()).await?;
    for notice in &opened.notices {
        eprintln!("akvfs: note: {notice}");
    }
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let file = fetch(&opened, &args.name, deadline).await?;
    let mut out = std::io::stdout().lock();
    let written = out.write_all(file.contents.expose()).and_then(|()| {
        // A prompt on the same line as the value helps nobody; a pipe gets exactly the bytes.
        if out.is_terminal() && !file.contents.expose().ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
        out.flush()
    });
    written.map_err(|error| Error::new(Code::Local, format!("stdout: {}", error.kind())))
}

async fn fetch(opened: &Opened, name: &str, deadline: Instant) -> Result<FileView> {
    let origin = opened.origin.as_ref();
    let (object, position) = opened.find(name)?;
    let versions = view::expand(origin, &object, Demand::FIRST, deadline).await?;
    let found = versions.len();
    let object = versions.into_iter().nth(position).ok_or_else(|| {
        Error::new(Code::NotFound, format!("only {found} versions of the history are there"))
            .context(object.error_prefix())
    })?;
    let obtained = view::obtain(origin, &object, opened.render, Demand::FIRST, deadline);
    let files = obtained.await?.files;
    // A name of the object means its own file; a name of a file only that.
    let possible = render::paths(&object, opened.render);
    let is_file = possible.iter().any(|path| path.as_str() == name);
    let path = if is_file { name } else { object.path.as_str() };
    files.into_iter().find(|file| file.path.as_str() == path).ok_or_else(|| {
        Error::new(Code::NotFound, "the object has no such file")
            .context(object.error_prefix())
            .fix("only PEM certificates have certificate and key in files of their own")
    })
}
