//! `akvfs check`: what would be mounted, object by object, with permission results; never a value.

use std::time::{Duration, Instant};

use clap::{Args as ClapArgs, value_parser};
use futures_util::{StreamExt, stream};
use serde::Serialize;

use crate::class::{FilePath, ObjectSpec, Wanted};
use crate::error::{Code, Error, Result};
use crate::fetch::{Ages, Demand};
use crate::view::{self, Obtained};

use super::say;
use super::source::{Opened, SourceArgs};

const IN_FLIGHT: usize = 16;

/// Show what would be mounted, and whether it may be read
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Longest wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

/// One line of the report.
#[derive(Serialize)]
struct Row {
    file: String,
    object: String,
    version: String,
    /// RFC 3339, where the version expires.
    expires: Option<String>,
    /// `ok`, or the stable error code.
    result: &'static str,
    error: Option<String>,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let opened = args.source.open(Ages::default()).await?;
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let objects = match &opened.wanted {
        Wanted::Objects(objects) => objects.clone(),
        Wanted::Listing(_) => opened.listing(deadline).await?,
    };
    let checked: Vec<Vec<Checked>> = stream::iter(&objects)
        .map(|object| check(&opened, object, deadline))
        .buffered(IN_FLIGHT)
        .collect()
        .await;
    let checked: Vec<Checked> = checked.into_iter().flatten().collect();
    let rows: Vec<Row> = checked.iter().flat_map(Checked::rows).collect();
    if args.json {
        let text = serde_json::to_string_pretty(&rows)
            .map_err(|_| Error::new(Code::Internal, "the report cannot be written as JSON"))?;
        say(&format!("{text}\n"))?;
    } else {
        say(&table(&opened, &rows))?;
    }
    let failed = rows.iter().filter(|row| row.error.is_some()).count();
    if failed > 0 {
        return Err(Error::new(
            Code::Local,
            format!("{failed} of {} objects cannot be read", checked.len()),
        ));
    }
    let files = checked.iter().filter_map(|one| Some((&one.object, one.shown.as_ref().ok()?)));
    view::refuse_meetings(
        files.flat_map(|(object, shown)| shown.files.iter().map(move |path| (object, path))),
    )
}

/// One version of an object.
struct Checked {
    object: ObjectSpec,
    shown: Result<Shown>,
}

/// What would be shown of it: everything but the value.
struct Shown {
    version: String,
    expires: Option<i64>,
    files: Vec<FilePath>,
}

impl From<Obtained> for Shown {
    fn from(obtained: Obtained) -> Self {
        let Obtained { version, files } = obtained;
        Self {
            version: version.version.clone(),
            expires: version.expires,
            files: files.into_iter().map(|file| file.path).collect(),
        }
    }
}

/// Every version of the object that would be mounted.
async fn check(opened: &Opened, object: &ObjectSpec, deadline: Instant) -> Vec<Checked> {
    let origin = opened.origin.as_ref();
    let versions = match view::expand(origin, object, Demand::FIRST, deadline).await {
        Ok(versions) => versions,
        Err(error) => return vec![Checked { object: object.clone(), shown: Err(error) }],
    };
    let mut checked = Vec::with_capacity(versions.len());
    for object in versions {
        // A value that cannot become its file would fail the mount, so it fails the check.
        let obtained = view::obtain(origin, &object, opened.render, Demand::FIRST, deadline).await;
        checked.push(Checked { object, shown: obtained.map(Shown::from) });
    }
    checked
}

impl Checked {
    /// A row for every file.
    fn rows(&self) -> Vec<Row> {
        let row = |file: &FilePath| Row {
            file: file.as_str().to_owned(),
            object: self.object.id(),
            version: self.object.version.as_str().to_owned(),
            expires: None,
            result: "ok",
            error: None,
        };
        match &self.shown {
            Ok(Shown { version, expires, files }) => {
                let expires = expires.and_then(|at| jiff::Timestamp::from_second(at).ok());
                let rows = files.iter().map(|file| Row {
                    version: version.clone(),
                    expires: expires.map(|at| at.to_string()),
                    ..row(file)
                });
                rows.collect()
            }
            Err(error) => {
                let (result, error) = (error.code().as_str(), Some(error.to_string()));
                vec![Row { result, error, ..row(&self.object.path) }]
            }
        }
    }
}

fn table(opened: &Opened, rows: &[Row]) -> String {
    let mut lines = vec![opened.description()];
    lines.extend(opened.notices.iter().map(|notice| format!("note: {notice}")));
    let width = |text: fn(&Row) -> &str, title: &str| {
        rows.iter().map(|row| text(row).len()).max().unwrap_or(0).max(title.len())
    };
    let file = width(|row| &row.file, "FILE");
    let object = width(|row| &row.object, "OBJECT");
    let version = width(|row| &row.version, "VERSION");
    lines.push(format!("{:file$}  {:object$}  {:version$}  RESULT", "FILE", "OBJECT", "VERSION"));
    for row in rows {
        let expires = row.expires.as_ref().map_or(String::new(), |at| format!(", expires {at}"));
        lines.push(format!(
            "{:file$}  {:object$}  {:version$}  {}{expires}",
            row.file, row.object, row.version, row.result
        ));
        lines.extend(row.error.as_ref().map(|error| format!("  {error}")));
    }
    lines.join("\n") + "\n"
}
