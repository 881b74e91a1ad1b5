//! What must hold (section 6 of the design), and what the Go provider v1.8.2 had when it was written.

/// A figure that a row is judged by.
pub struct Goal {
    pub row: &'static str,
    pub figure: &'static str,
    /// Of the Go provider, by the design; for reference, and where none is measured beside.
    pub go: Option<f64>,
    pub rule: Rule,
}

#[derive(Clone, Copy)]
pub enum Rule {
    /// At most this part of Go's.
    OfGo(f64),
    /// At least so many times Go's.
    TimesGo(f64),
    AtMost(f64),
    AtLeast(f64),
    /// For reference only.
    None,
}

const fn goal(row: &'static str, figure: &'static str, go: Option<f64>, rule: Rule) -> Goal {
    Goal { row, figure, go, rule }
}

pub const GOALS: &[Goal] = &[
    goal("first-1", "time", Some(112.0), Rule::OfGo(0.50)),
    goal("first-100", "time", Some(2234.0), Rule::OfGo(0.08)),
    goal("first-500", "time", Some(25_900.0), Rule::OfGo(0.05)),
    goal("republish-100", "time", Some(2234.0), Rule::AtMost(5.0)),
    goal("republish-100", "vault requests", Some(101.0), Rule::AtMost(0.0)),
    goal("storm-h1", "time", Some(1600.0), Rule::OfGo(0.10)),
    goal("storm-h1", "vault requests", Some(1100.0), Rule::AtMost(10.0)),
    goal("storm-h1", "token requests", Some(100.0), Rule::AtMost(100.0)),
    goal("storm-h1", "peak memory", Some(55.0), Rule::AtMost(24.0)),
    goal("storm-h2", "time", Some(430.0), Rule::OfGo(0.10)),
    goal("storm-h2", "vault requests", Some(1100.0), Rule::AtMost(10.0)),
    goal("storm-h2", "token requests", Some(100.0), Rule::AtMost(100.0)),
    goal("storm-h2", "peak memory", Some(55.0), Rule::AtMost(24.0)),
    goal("storm-principal", "vault requests", None, Rule::AtMost(10.0)),
    goal("storm-principal", "token requests", None, Rule::AtMost(1.0)),
    goal("storm-limited", "time", Some(15_000.0), Rule::OfGo(0.10)),
    goal("cpu-h1", "CPU per mount", Some(9.0), Rule::OfGo(0.10)),
    goal("cpu-h2", "CPU per mount", Some(4.0), Rule::OfGo(0.10)),
    goal("rate-h1", "mounts", Some(108.0), Rule::TimesGo(10.0)),
    goal("rate-h2", "mounts", Some(356.0), Rule::TimesGo(10.0)),
    goal("throttled", "first try", Some(33.0), Rule::AtLeast(100.0)),
    goal("throttled", "last pod", Some(30.0), Rule::None),
    goal("throttled", "vault requests", None, Rule::AtMost(12.0)),
    goal("throttled-hint", "first try", None, Rule::AtLeast(100.0)),
    goal("throttled-hint", "vault requests", None, Rule::AtMost(12.0)),
    goal("throttled-distinct", "first try", None, Rule::AtLeast(100.0)),
    goal("throttled-distinct", "vault requests", None, Rule::AtMost(1200.0)),
    goal("hang", "slowest first answer", Some(120.0), Rule::AtMost(60.0)),
    goal("hang", "last pod, after the end", None, Rule::AtMost(3.0)),
    goal("unavailable", "slowest first answer", None, Rule::AtMost(60.0)),
    goal("unavailable", "last pod, after the end", None, Rule::AtMost(3.0)),
    goal("start", "time", Some(12.5), Rule::OfGo(0.6)),
    goal("memory", "idle", Some(20.0), Rule::AtMost(9.0)),
    goal("memory", "peak", Some(55.0), Rule::AtMost(24.0)),
    goal("growth", "growth", Some(145.0), Rule::AtMost(2.0)),
    goal("binary", "size", Some(31.0), Rule::AtMost(10.0)),
];

/// What a figure is judged by.
pub fn of(row: &str, figure: &str) -> Option<&'static Goal> {
    GOALS.iter().find(|goal| goal.row == row && goal.figure == figure)
}

impl Goal {
    /// The goal in words.
    pub fn text(&self) -> String {
        match self.rule {
            Rule::OfGo(part) => format!("<= {part} of Go"),
            Rule::TimesGo(times) => format!(">= {times} x Go"),
            Rule::AtMost(most) => format!("<= {most}"),
            Rule::AtLeast(least) => format!(">= {least}"),
            Rule::None => String::new(),
        }
    }

    /// Whether `value` is good enough, and of what. `measured` is Go's own figure of the same run.
    pub fn verdict(&self, value: f64, measured: Option<f64>) -> Option<(bool, String)> {
        let go = measured.or(self.go);
        let source = if measured.is_some() { "measured" } else { "design's" };
        let against = |go: f64| format!("{:.2} of the {source} Go", value / go);
        match self.rule {
            Rule::OfGo(part) => go.map(|go| (value <= part * go, against(go))),
            Rule::TimesGo(times) => go.map(|go| (value >= times * go, against(go))),
            Rule::AtMost(most) => Some((value <= most, String::new())),
            Rule::AtLeast(least) => Some((value >= least, String::new())),
            Rule::None => None,
        }
    }
}
