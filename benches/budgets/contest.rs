//! Who is measured, where, and the samples of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::runtime::Runtime;

use super::args::Args;
use super::azure::{Azure, HOSTS};
use super::namespace;
use super::process::Provider;
use super::quota::Quota;
use super::rows::Row;
use super::{Failure, Outcome};

/// Static or not, with the size profile or not: the one that is shipped comes first.
const AKVFS: [&str; 4] = [
    "x86_64-unknown-linux-musl/dist/akvfs",
    "dist/akvfs",
    "x86_64-unknown-linux-musl/release/akvfs",
    "release/akvfs",
];

pub struct Contestant {
    pub name: String,
    pub binary: Option<Binary>,
}

pub struct Binary {
    pub program: PathBuf,
    args: Vec<String>,
}

impl Binary {
    /// The same with further arguments.
    pub fn with(&self, further: &[String]) -> Self {
        let args = self.args.iter().chain(further).cloned().collect();
        Self { program: self.program.clone(), args }
    }
}

impl Contestant {
    pub fn takes_part(&self, row: &Row) -> bool {
        self.binary.is_some() || row.raw
    }
}

/// akvfs, the other providers, raw.
pub fn contestants(args: &Args) -> Outcome<Vec<Contestant>> {
    let akvfs = args.akvfs.clone().map_or_else(find, Ok)?;
    let given = args.providers.iter().cloned();
    [("akvfs".to_owned(), akvfs, Vec::new())]
        .into_iter()
        .chain(given)
        .map(|(name, program, args)| {
            let program = std::fs::canonicalize(&program)
                .map_err(|error| format!("{name}: {}: {error}", program.display()))?;
            Ok(Contestant { name, binary: Some(Binary { program, args }) })
        })
        .chain([Ok(Contestant { name: "raw".to_owned(), binary: None })])
        .collect()
}

fn find() -> Outcome<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_akvfs"));
    let target = built.parent().and_then(Path::parent).ok_or("no target directory")?;
    let found = AKVFS.iter().map(|path| target.join(path)).find(|path| path.exists());
    let found = found.ok_or("no akvfs below target/; give it by --akvfs PATH")?;
    let time = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).ok();
    if time(&found) < time(built) {
        eprintln!("budgets: {} is older than {}", found.display(), built.display());
    }
    Ok(found)
}

/// The namespace with its Azure.
pub struct Lab {
    pub runtime: Runtime,
    pub quick: bool,
    pub quota: Quota,
    azure: Option<Azure>,
    dir: tempfile::TempDir,
}

impl Lab {
    pub fn new(quick: bool) -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        namespace::furnish(dir.path(), &HOSTS)?;
        Ok(Self { runtime: Runtime::new()?, quick, quota: Quota::new(), azure: None, dir })
    }

    /// Azure with HTTP/2 or without.
    pub fn speak(&mut self, http2: bool) -> Outcome<()> {
        if self.azure.as_ref().is_some_and(|azure| azure.http2 == http2) {
            return Ok(());
        }
        self.stop();
        let ca = self.dir.path().join("ca.pem");
        self.azure = Some(self.runtime.block_on(Azure::start(&ca, http2))?);
        Ok(())
    }

    fn stop(&mut self) {
        if let Some(azure) = self.azure.take() {
            self.runtime.block_on(azure.stop());
        }
    }

    pub fn end(mut self) {
        self.stop();
    }

    pub fn azure(&self) -> Outcome<&Azure> {
        self.azure.as_ref().ok_or_else(|| "the emulator does not run".into())
    }

    /// A fresh process of a provider.
    pub async fn start(&self, binary: &Binary, limited: bool) -> Outcome<Provider> {
        let mut command = match limited {
            true => self.quota.command(&binary.program)?,
            false => Command::new(&binary.program),
        };
        command.args(&binary.args);
        Provider::start(command, self.dir.path()).await
    }

    /// So much, or what a quick run has instead.
    pub fn scale<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

/// Figures of one sample, by name and unit.
#[derive(Default)]
pub struct Sample {
    pub figures: Vec<(&'static str, Unit, f64)>,
    /// What went wrong without ending the sample.
    pub notes: Vec<String>,
}

impl Sample {
    pub fn with(mut self, name: &'static str, unit: Unit, value: f64) -> Self {
        self.figures.push((name, unit, value));
        self
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Ms,
    Seconds,
    Count,
    Percent,
    MiB,
    Cores,
    PerSecond,
}

/// The samples of one contestant in one row.
#[derive(Default)]
pub struct Samples {
    pub figures: Vec<Figure>,
    pub failures: Vec<String>,
    pub notes: Vec<String>,
}

pub struct Figure {
    pub name: &'static str,
    pub unit: Unit,
    values: Vec<f64>,
}

impl Samples {
    pub fn add(&mut self, sample: Result<Sample, Failure>) {
        let sample = match sample {
            Ok(sample) => sample,
            Err(failure) => return self.failures.push(failure.to_string()),
        };
        self.notes.extend(sample.notes);
        for (name, unit, value) in sample.figures {
            match self.figures.iter_mut().find(|figure| figure.name == name) {
                Some(figure) => figure.values.push(value),
                None => self.figures.push(Figure { name, unit, values: vec![value] }),
            }
        }
    }

    pub fn figure(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.name == name)
    }
}

impl Figure {
    /// Fastest, median, slowest.
    pub fn spread(&self) -> (f64, f64, f64) {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        (sorted[0], median, sorted[sorted.len() - 1])
    }

    pub fn median(&self) -> f64 {
        self.spread().1
    }

    pub fn count(&self) -> usize {
        self.values.len()
    }
}
