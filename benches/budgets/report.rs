//! The table: Markdown on stdout and in a file, and the same as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Outcome;
use super::args::Args;
use super::contest::{Contestant, Figure, Samples, Unit};
use super::goals::{self, Goal};
use super::rows::Row;

/// Notes and failures of one contestant in one row that are shown.
const MAX_NOTES: usize = 2;
const MAX_NOTE: usize = 240;
/// Goals that are a part of Go's figure are judged by this one, where it is measured beside.
const GO: &str = "go";

pub struct Report {
    /// akvfs, other providers, raw.
    names: Vec<String>,
    programs: Vec<String>,
    heading: String,
    quick: bool,
    rows: Vec<(&'static str, String, Vec<Samples>)>,
}

/// One line: a figure of a row, for every contestant.
struct Line<'a> {
    row: &'static str,
    title: &'a str,
    name: &'static str,
    unit: Unit,
    figures: Vec<Option<&'a Figure>>,
    goal: Option<&'static Goal>,
    verdict: Option<(bool, String)>,
}

impl Report {
    pub fn new(contestants: &[Contestant], args: &Args, limit: String) -> Self {
        let names = contestants.iter().map(|contestant| contestant.name.clone()).collect();
        let programs: Vec<String> = contestants
            .iter()
            .filter_map(|contestant| contestant.binary.as_ref())
            .map(|binary| binary.program.display().to_string())
            .collect();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        let mut heading = format!(
            "# Budgets\n\n{cores} cores shared by emulator, driver and provider, load {load} before \
             the run; Linux {}; \
             {} repeats of a cheap row. CPU limit: {limit}.\nEach cell: median (least to most) \
             x samples. \"Go (design)\" was measured once, on another day; ratios are of this run.\n",
            kernel.trim(),
            args.repeats,
        );
        for (contestant, program) in contestants.iter().zip(&programs) {
            let _ = writeln!(heading, "{}: {program}", contestant.name);
        }
        if args.quick {
            heading.push_str("Quick run: smaller counts, so the goals are not judged.\n");
        }
        heading.push('\n');
        Self { names, programs, heading, quick: args.quick, rows: Vec::new() }
    }

    pub fn heading(&self) -> &str {
        &self.heading
    }

    pub fn add(&mut self, row: &Row, samples: Vec<Samples>) {
        self.rows.push((row.id, row.title.clone(), samples));
    }

    fn lines(&self) -> Vec<Line<'_>> {
        let mut lines = Vec::new();
        for (row, title, samples) in &self.rows {
            let mut names: Vec<(&'static str, Unit)> = Vec::new();
            for figure in samples.iter().flat_map(|samples| &samples.figures) {
                if !names.iter().any(|(name, _)| *name == figure.name) {
                    names.push((figure.name, figure.unit));
                }
            }
            for (name, unit) in names {
                let figures: Vec<_> = samples.iter().map(|samples| samples.figure(name)).collect();
                let goal = goals::of(row, name);
                let median = |index: usize| figures[index].map(Figure::median);
                // By its name, so that akvfs can also be measured beside itself.
                let go = self.names.iter().position(|name| name == GO).and_then(median);
                let verdict = match (goal, median(0)) {
                    (Some(goal), Some(value)) if !self.quick => goal.verdict(value, go),
                    _ => None,
                };
                lines.push(Line { row, title, name, unit, figures, goal, verdict });
            }
        }
        lines
    }

    pub fn table(&self) -> String {
        let mut out = String::from("| Row | Figure | Go (design) |");
        out.extend(self.names.iter().map(|name| format!(" {name} |")));
        let others = &self.names[1..];
        out.extend(others.iter().map(|name| format!(" akvfs/{name} |")));
        out.push_str(" Goal | Reached |\n|---|---|---:|");
        out.push_str(&"---:|".repeat(self.names.len() + others.len()));
        out.push_str("---|---|\n");
        let mut last = "";
        for line in self.lines() {
            let title = if line.row == last { "" } else { line.title };
            last = line.row;
            let design = line.goal.and_then(|goal| goal.go).map(|go| line.unit.text(go));
            let _ = write!(out, "| {title} | {} | {} |", line.name, design.unwrap_or_default());
            for figure in &line.figures {
                let _ = write!(out, " {} |", figure.map_or(String::new(), |f| cell(f, line.unit)));
            }
            for ratio in line.ratios() {
                let _ = write!(out, " {} |", ratio.map_or(String::new(), |r| format!("{r:.3}")));
            }
            let goal = line.goal.map(Goal::text).unwrap_or_default();
            let reached = match &line.verdict {
                Some((true, against)) => format!("met {against}"),
                Some((false, against)) => format!("**NOT met** {against}"),
                None => String::new(),
            };
            let _ = writeln!(out, " {goal} | {} |", reached.trim_end());
        }
        out.push_str(&self.remarks());
        out
    }

    /// Failures, and what providers answered where they were expected to struggle.
    fn remarks(&self) -> String {
        let mut out = String::new();
        for (row, _, samples) in &self.rows {
            for (name, samples) in self.names.iter().zip(samples) {
                let failed = samples.failures.iter().map(|text| ("FAILED: ", text));
                let noted = samples.notes.iter().map(|text| ("", text));
                for (what, text) in failed.chain(noted).take(MAX_NOTES) {
                    let text: String =
                        text.chars().filter(|c| !c.is_control()).take(MAX_NOTE).collect();
                    let _ = writeln!(out, "- {row}, {name}: {what}{text}");
                }
            }
        }
        if out.is_empty() { out } else { format!("\n{out}") }
    }

    fn json(&self) -> Value {
        let lines = self.lines().into_iter().map(|line| {
            let measured: Vec<Value> = self
                .names
                .iter()
                .zip(&line.figures)
                .filter_map(|(name, figure)| {
                    let figure = (*figure)?;
                    let (min, median, max) = figure.spread();
                    Some(json!({
                        "name": name, "median": median, "min": min, "max": max,
                        "samples": figure.count(),
                    }))
                })
                .collect();
            json!({
                "row": line.row, "title": line.title, "figure": line.name,
                "unit": line.unit.name(), "measured": measured,
                "goDesign": line.goal.and_then(|goal| goal.go),
                "goal": line.goal.map(Goal::text).filter(|text| !text.is_empty()),
                "met": line.verdict.as_ref().map(|(met, _)| met),
            })
        });
        let failures = self.rows.iter().flat_map(|(row, _, samples)| {
            self.names.iter().zip(samples).flat_map(move |(name, samples)| {
                let failure = move |text| json!({"row": row, "name": name, "failure": text});
                samples.failures.iter().map(failure)
            })
        });
        json!({
            "quick": self.quick, "programs": self.programs,
            "lines": lines.collect::<Vec<_>>(), "failures": failures.collect::<Vec<_>>(),
        })
    }

    pub fn write(&self, args: &Args) -> Outcome<()> {
        if let Some(path) = &args.markdown {
            std::fs::write(path, format!("{}{}", self.heading, self.table()))?;
        }
        if let Some(path) = &args.json {
            std::fs::write(path, serde_json::to_string_pretty(&self.json())? + "\n")?;
        }
        Ok(())
    }
}

impl Line<'_> {
    /// akvfs' median by that of every other.
    fn ratios(&self) -> Vec<Option<f64>> {
        let ours = self.figures[0].map(Figure::median);
        let ratio = |other: &Option<&Figure>| {
            let other = other.map(Figure::median).filter(|other| *other != 0.0)?;
            ours.map(|ours| ours / other)
        };
        self.figures[1..].iter().map(ratio).collect()
    }
}

fn cell(figure: &Figure, unit: Unit) -> String {
    let (min, median, max) = figure.spread();
    if min == max {
        return unit.text(median);
    }
    format!("{} ({} to {}) x{}", unit.text(median), number(min), number(max), figure.count())
}

/// Three digits that count.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Ms => "ms",
            Unit::Seconds => "s",
            Unit::Count => "",
            Unit::Percent => "%",
            Unit::MiB => "MiB",
            Unit::Cores => "cores",
            Unit::PerSecond => "/s",
        }
    }

    fn text(self, value: f64) -> String {
        format!("{} {}", number(value), self.name()).trim_end().to_owned()
    }
}
