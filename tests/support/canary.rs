//! Recognisable secret values, and a record of everything that the tests' programs emit.
//!
//! [`value`] makes a value that occurs nowhere else and notes it under `values/`. Whatever a process
//! prints, logs or answers as an error goes to a file under `emitted/` ([`emitted`], [`record`],
//! [`capture_logs`]). `scripts/canary-scan` then searches the second for the first. Channels whose
//! purpose is to carry values are not recorded: mounted and written files, the files of a Mount
//! response, stdout of `akvfs get`, and what the emulator answers.

use std::fs::{File, OpenOptions, create_dir_all};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where records go: `scripts/test` sets it; a plain `cargo test` uses the target directory.
fn root() -> PathBuf {
    std::env::var_os("AKVFS_CANARY_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("canary"), PathBuf::from)
}

fn append(folder: &str, name: &str) -> File {
    let dir = root().join(folder);
    create_dir_all(&dir).unwrap();
    OpenOptions::new().create(true).append(true).open(dir.join(name)).unwrap()
}

/// A secret value that is unique to this call. It holds characters that URL encoding changes.
pub fn value(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let random = RandomState::new().build_hasher().finish();
    let value = format!("canary/{name}+{}-{count}-{random:016x}", std::process::id());
    note(name, value.as_bytes());
    value
}

/// Notes a value made elsewhere, such as a token.
pub fn note(name: &str, value: &[u8]) {
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    // One write: tests run side by side, and lines must not mix.
    let line = format!("{name}\t{hex}\n");
    append("values", &std::process::id().to_string()).write_all(line.as_bytes()).unwrap();
}

/// A file for a child's stdout or stderr.
pub fn emitted(name: &str) -> File {
    append("emitted", &format!("{name}-{}", std::process::id()))
}

/// Records what an in-process test was told: error texts, statuses, reports.
pub fn record(name: &str, text: &str) {
    emitted(name).write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// Adds another record to this process's, which the other's owner could not write to.
#[allow(dead_code)]
pub fn take_over(record: &std::path::Path) {
    for folder in ["values", "emitted"] {
        let Ok(files) = std::fs::read_dir(record.join(folder)) else { continue };
        for file in files {
            let file = file.unwrap();
            let text = std::fs::read(file.path()).unwrap();
            append(folder, file.file_name().to_str().unwrap()).write_all(&text).unwrap();
        }
    }
}

/// From now on threads of this process with other rights can add to the record.
#[cfg(unix)]
#[allow(dead_code)]
pub fn open_to_all() {
    use std::os::unix::fs::PermissionsExt;
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let own = format!("{}", std::process::id());
    for folder in ["values", "emitted"] {
        let folder = root().join(folder);
        create_dir_all(&folder).unwrap();
        open(&folder, 0o777);
        for file in std::fs::read_dir(folder).unwrap().flatten() {
            if file.file_name().to_string_lossy().ends_with(&own) {
                open(&file.path(), 0o666);
            }
        }
    }
}

/// Writes the log lines of this process, at full verbosity, to a record.
pub fn capture_logs() {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::prelude::*;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The same rule as telemetry::init at its highest verbosity.
        let filter =
            Targets::new().with_default(LevelFilter::INFO).with_target("akvfs", LevelFilter::TRACE);
        let layer =
            tracing_subscriber::fmt::layer().with_ansi(false).with_writer(|| emitted("logs"));
        tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    });
}

/// The search must find a leak in each of its forms, or its silence means nothing.
#[test]
fn a_deliberate_leak_is_there_to_be_found() {
    use base64::Engine;
    let value = value("deliberate-leak");
    let mut out = emitted("deliberate-leak");
    writeln!(out, "{value}").unwrap();
    let hex: String = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    writeln!(out, "{hex}").unwrap();
    writeln!(out, "{}", value.replace('/', "%2F").replace('+', "%2B")).unwrap();
    for prefix in ["", "x", "xy"] {
        let text = format!("{prefix}{value}and more");
        writeln!(out, "{}", base64::engine::general_purpose::STANDARD.encode(text)).unwrap();
    }
}
