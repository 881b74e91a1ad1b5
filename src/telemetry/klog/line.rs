//! The parts of a log line.

use std::fmt::{self, Write};

use tracing::Metadata;
use tracing::field::{Field, Visit};

pub(super) enum Value {
    /// Quoted.
    Text(String),
    /// A number or a boolean: the same in text and JSON.
    Bare(String),
}

impl Value {
    pub(super) fn text(&self) -> String {
        match self {
            Value::Text(text) => quoted(text),
            Value::Bare(text) => text.clone(),
        }
    }

    pub(super) fn json(&self) -> String {
        match self {
            Value::Text(text) => json(text),
            Value::Bare(text) => text.clone(),
        }
    }
}

#[derive(Default)]
pub(super) struct Line {
    pub(super) file: String,
    pub(super) number: u32,
    pub(super) message: String,
    pub(super) pairs: Vec<(&'static str, Value)>,
}

impl Line {
    pub(super) fn new(metadata: &Metadata<'_>) -> Self {
        Self {
            file: metadata.file().unwrap_or(metadata.target()).to_owned(),
            number: metadata.line().unwrap_or(0),
            ..Self::default()
        }
    }

    /// `FILE:LINE`, with this many components of the file's path.
    pub(super) fn place(&self, components: usize) -> String {
        let from = self.file.rmatch_indices(['/', '\\']).nth(components.saturating_sub(1));
        let file = from.map_or(self.file.as_str(), |(at, _)| self.file.split_at(at + 1).1);
        format!("{file}:{}", self.number)
    }

    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text) | Value::Bare(text)) => self.message = text,
            // Lines that come through the `log` crate name their place in fields.
            ("log.file", Value::Text(file)) => self.file = file,
            ("log.line", Value::Bare(line)) => self.number = line.parse().unwrap_or(0),
            (name, _) if name.starts_with("log.") => {}
            (name, value) => self.pairs.push((name, value)),
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            // The text of a line is formatted; a string of this name is a pair, as klog's users know it.
            "message" => self.pairs.push(("message", Value::Text(value.to_owned()))),
            _ => self.add(field, Value::Text(value.to_owned())),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        let text = value.to_string();
        self.add(field, if value.is_finite() { Value::Bare(text) } else { Value::Text(text) });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::Bare(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::Bare(value.to_string()));
    }
}

pub(super) fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Between quotes, on one line, without what a terminal would obey.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
