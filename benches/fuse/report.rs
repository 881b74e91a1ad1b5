//! Medians, spread, ratios, and which goals are met.

use std::collections::HashMap;
use std::fmt::Write;

use super::server::{KINDS, Kind};

/// What akvfs must reach, as a ratio to another contestant of the same run.
#[derive(Clone, Copy)]
pub enum Goal {
    AtMost(f64, Kind),
    AtLeast(f64, Kind),
}

pub struct Row {
    what: &'static str,
    samples: HashMap<&'static str, Vec<f64>>,
    goals: Vec<Goal>,
}

impl Row {
    pub fn new(what: &'static str) -> Self {
        Self { what, samples: HashMap::new(), goals: Vec::new() }
    }

    pub fn goal(mut self, goal: Goal) -> Self {
        self.goals.push(goal);
        self
    }

    pub fn add(&mut self, kind: Kind, sample: f64) {
        self.samples.entry(kind.name()).or_default().push(sample);
    }

    fn median(&self, kind: Kind) -> f64 {
        let mut samples = self.samples.get(kind.name()).cloned().unwrap_or_default();
        samples.sort_by(f64::total_cmp);
        samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn cell(&self, kind: Kind) -> String {
        let samples = self.samples.get(kind.name()).map(Vec::as_slice).unwrap_or_default();
        let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
        let most = samples.iter().copied().fold(0.0, f64::max);
        format!("{} ({} to {})", short(self.median(kind)), short(least), short(most))
    }

    fn ratio(&self, to: Kind) -> f64 {
        self.median(Kind::Akvfs) / self.median(to)
    }

    fn verdicts(&self) -> String {
        let verdict = |goal: &Goal| {
            let (met, text) = match *goal {
                Goal::AtMost(most, to) => {
                    (self.ratio(to) <= most, format!("<= {most} of {}", to.name()))
                }
                Goal::AtLeast(least, to) => {
                    (self.ratio(to) >= least, format!(">= {least} of {}", to.name()))
                }
            };
            format!("{text}: {}", if met { "met" } else { "NOT met" })
        };
        self.goals.iter().map(verdict).collect::<Vec<_>>().join("; ")
    }
}

fn short(value: f64) -> String {
    if value >= 1000.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub fn markdown(&self) -> String {
        let mut text = String::from(
            "Medians (least to most) of one run.\n\n\
             | | tmpfs | bare | akvfs | akvfs / bare | akvfs / tmpfs | goal |\n\
             |---|---:|---:|---:|---:|---:|---|\n",
        );
        for row in &self.rows {
            let cells: Vec<_> = KINDS.iter().map(|kind| row.cell(*kind)).collect();
            let _ = writeln!(
                text,
                "| {} | {} | {:.2} | {:.2} | {} |",
                row.what,
                cells.join(" | "),
                row.ratio(Kind::Bare),
                row.ratio(Kind::Tmpfs),
                row.verdicts()
            );
        }
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text
    }
}
