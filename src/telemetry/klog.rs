//! Log lines as klog writes them, so that the queries and alerts of the Go provider go on working.
//!
//! Text: `E1122 10:12:14.239798   15607 csi.rs:60] "message" key="value"`, times in UTC. JSON: one object
//! with `ts` (milliseconds since the epoch), `caller`, `msg`, `v`, and the pairs.

mod line;

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use line::{Line, json, quoted};

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// With klog's header.
    Text,
    /// Without it (`--skip_headers`).
    Bare,
    /// As an object.
    Json,
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::new(event.metadata());
        event.record(&mut line);
        let now = SystemTime::now();
        writer.write_str(&self.format(event.metadata().level(), &line, now))
    }
}

impl Format {
    fn format(self, level: &Level, line: &Line, now: SystemTime) -> String {
        let mut out = String::with_capacity(256);
        match self {
            Format::Json => {
                let micros = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
                out.push_str(&format!("{{\"ts\":{}.{:03}", micros / 1000, micros % 1000));
                out.push_str(&format!(",\"caller\":{}", json(&line.place(2))));
                out.push_str(&format!(
                    ",\"msg\":{},\"v\":{}",
                    json(&line.message),
                    verbosity(level)
                ));
                for (key, value) in &line.pairs {
                    out.push_str(&format!(",{}:{}", json(key), value.json()));
                }
                out.push('}');
            }
            Format::Text | Format::Bare => {
                if self == Format::Text {
                    let time = jiff::Timestamp::try_from(now).unwrap_or_default();
                    out.push_str(&format!(
                        "{}{} {:>7} {}] ",
                        letter(level),
                        time.strftime("%m%d %H:%M:%S%.6f"),
                        std::process::id(),
                        line.place(1)
                    ));
                }
                out.push_str(&quoted(&line.message));
                for (key, value) in &line.pairs {
                    out.push_str(&format!(" {key}={}", value.text()));
                }
            }
        }
        out.push('\n');
        out
    }
}

fn letter(level: &Level) -> char {
    match *level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    }
}

/// The `-v` from which on a line is shown.
fn verbosity(level: &Level) -> u8 {
    match *level {
        Level::TRACE => 5,
        Level::DEBUG => 2,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tracing_subscriber::prelude::*;

    use super::line::Value;
    use super::*;

    fn sample() -> Line {
        Line {
            file: "/home/x/src/telemetry/server.rs".to_owned(),
            number: 60,
            message: "it's \"quoted\"\n".to_owned(),
            pairs: vec![
                ("err", Value::Text("a\u{1b}[31mb".to_owned())),
                ("files", Value::Bare("3".to_owned())),
            ],
        }
    }

    #[test]
    fn text_has_klogs_header_and_json_its_keys() {
        let now = UNIX_EPOCH + Duration::from_micros(1_637_575_934_239_798);
        let text = Format::Text.format(&Level::ERROR, &sample(), now);
        let pid = format!("{:>7}", std::process::id());
        assert_eq!(
            text,
            format!(
                "E1122 10:12:14.239798 {pid} server.rs:60] \"it's \\\"quoted\\\"\\n\" \
                 err=\"a\\u001b[31mb\" files=3\n"
            )
        );
        let bare = Format::Bare.format(&Level::INFO, &sample(), now);
        assert!(text.ends_with(&bare) && bare.starts_with('"'), "{bare}");
        assert!(Format::Text.format(&Level::TRACE, &sample(), now).starts_with("I1122"));
        for (level, v) in
            [(Level::ERROR, 0), (Level::INFO, 0), (Level::DEBUG, 2), (Level::TRACE, 5)]
        {
            let line = Format::Json.format(&level, &sample(), now);
            assert!(line.starts_with("{\"ts\":1637575934239.798,\"caller\":"), "{line}");
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(value["caller"], "telemetry/server.rs:60");
            assert_eq!((value["v"].clone(), value["files"].clone()), (v.into(), 3.into()));
            assert_eq!(value["err"], "a\u{1b}[31mb");
            assert_eq!(value["msg"], "it's \"quoted\"\n");
        }
    }

    /// U76, and how the macros' values arrive.
    #[test]
    fn values_of_every_kind_are_logged() {
        struct Kept(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Kept {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let kept = Arc::new(Mutex::new(Vec::new()));
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Format::Json)
            .with_writer(move || Kept(writer.clone()));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let (absent, pod) = (None::<u8>, "ns/name".to_owned());
            let error = crate::Error::class("no");
            tracing::warn!(pod, absent, err = %error, debug = ?'x', f = 0.5, message = "m", yes = true, n = -1, "hello {}", 1);
        });
        let text = String::from_utf8(kept.lock().unwrap().clone()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "ts": value["ts"], "caller": value["caller"], "msg": "hello 1", "v": 0, "pod": "ns/name",
            "err": "no", "debug": "'x'", "f": 0.5, "message": "m", "yes": true, "n": -1
        });
        assert_eq!(value, expected);
        assert!(value["caller"].as_str().unwrap().starts_with("telemetry/klog.rs:"), "{text}");
    }
}
