//! One series of a histogram, and Prometheus' text of it.

use std::fmt::Write;
use std::time::Duration;

/// Upper bounds in seconds, as dashboards know them; `+Inf` comes last.
const BOUNDS: [f64; 14] = [0.1, 0.2, 0.3, 0.4, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 5.0, 10.0, 15.0, 30.0];

#[derive(Default)]
pub(super) struct Histogram {
    /// Samples up to each bound.
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    pub(super) fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.count += 1;
        self.sum += seconds;
        let reached = self.buckets.iter_mut().zip(BOUNDS).filter(|(_, bound)| seconds <= *bound);
        reached.for_each(|(bucket, _)| *bucket += 1);
    }

    /// `labels` without braces, values escaped.
    pub(super) fn write(&self, out: &mut String, name: &str, labels: &str) {
        for (bound, bucket) in BOUNDS.iter().zip(self.buckets) {
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {bucket}");
        }
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", self.sum);
        let _ = writeln!(out, "{name}_count{{{labels}}} {}", self.count);
    }
}

/// A label value between its quotes.
pub(super) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_count_in_every_bucket_they_fit() {
        let mut histogram = Histogram::default();
        for millis in [100, 450, 31_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut out = String::new();
        histogram.write(&mut out, "x", r#"a="b""#);
        for line in [
            r#"x_bucket{a="b",le="0.1"} 1"#,
            r#"x_bucket{a="b",le="0.4"} 1"#,
            r#"x_bucket{a="b",le="0.5"} 2"#,
            r#"x_bucket{a="b",le="1"} 2"#,
            r#"x_bucket{a="b",le="30"} 2"#,
            r#"x_bucket{a="b",le="+Inf"} 3"#,
            r#"x_sum{a="b"} 31.55"#,
            r#"x_count{a="b"} 3"#,
        ] {
            assert!(out.lines().any(|l| l == line), "{line} is not in\n{out}");
        }
        assert_eq!(out.lines().count(), BOUNDS.len() + 3);
        assert_eq!(escaped("a\"b\\c\n"), "a\\\"b\\\\c\\n");
    }
}
