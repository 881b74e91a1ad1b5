//! Where records go.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::record::Record;
use crate::appended::Appended;
use crate::error::{Code, Error, Result, printable};

/// Where journald listens.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Levels of syslog.
const WARNING: &str = "4";
const INFORMATION: &str = "6";

/// Where the records of a mount are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// This process's stderr, a line each.
    Stderr,
    /// journald, whose fields they have besides.
    Journald,
    /// The end of a file.
    File(PathBuf),
}

impl Sink {
    /// Reads `stderr`, `journald`, or the path of a file, which has a `/`.
    ///
    /// # Errors
    /// It is none of them.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "stderr" => Ok(Sink::Stderr),
            "journald" => Ok(Sink::Journald),
            path if path.contains('/') => Ok(Sink::File(PathBuf::from(path))),
            other => Err(Error::class(format!("no such audit sink: {}", printable(other, 64)))
                .fix("use stderr, journald, or the path of a file")),
        }
    }
}

/// An opened sink.
#[derive(Debug)]
pub(super) enum Opened {
    Stderr,
    Journald(UnixDatagram),
    File(Appended),
}

impl Opened {
    pub(super) fn open(sink: &Sink) -> Result<Self> {
        match sink {
            Sink::Stderr => Ok(Opened::Stderr),
            Sink::File(path) => Appended::open(path).map(Opened::File),
            Sink::Journald => journal().map(Opened::Journald).map_err(|error| {
                Error::new(Code::Local, format!("journald does not listen: {}", error.kind()))
                    .fix("where systemd does not run, let the records go to a file")
            }),
        }
    }

    /// For people.
    pub(super) fn description(&self) -> String {
        match self {
            Opened::Stderr => "stderr".to_owned(),
            Opened::Journald(_) => "journald".to_owned(),
            Opened::File(file) => printable(&file.path().to_string_lossy(), 1024),
        }
    }

    pub(super) fn write(&mut self, record: &Record) -> io::Result<()> {
        let line = || format!("{}\n", record.json()).into_bytes();
        match self {
            Opened::Stderr => whole(&line()),
            Opened::File(file) => file.add(&line()),
            // Its name each time: journald may be another one by now. It never waits for room.
            Opened::Journald(socket) => socket.send_to(&entry(record), JOURNAL).map(drop),
        }
    }
}

fn journal() -> io::Result<UnixDatagram> {
    UnixDatagram::unbound()?.connect(JOURNAL)?;
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Writes without the lock that logging takes: whoever reads stderr slowly must not stop that as well.
fn whole(mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match rustix::io::write(rustix::stdio::stderr(), line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => line = line.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A record as journald's own protocol wants it.
fn entry(record: &Record) -> Vec<u8> {
    let (json, uid) = (record.json(), record.uid.to_string());
    let mut entry = Vec::with_capacity(json.len() * 2);
    for (name, value) in [
        ("MESSAGE", json.as_str()),
        ("PRIORITY", if record.is_refusal() { WARNING } else { INFORMATION }),
        ("SYSLOG_IDENTIFIER", "akvfs"),
        ("AKVFS_TYPE", record.kind),
        ("AKVFS_NAME", &record.name),
        ("AKVFS_VERSION", record.version.as_deref().unwrap_or_default()),
        ("AKVFS_FILE", &record.file),
        ("AKVFS_UID", &uid),
        ("AKVFS_DECISION", record.decision),
    ] {
        field(&mut entry, name, value.as_bytes());
    }
    entry
}

fn field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_is_a_word_or_a_path() {
        assert_eq!(Sink::parse("stderr").unwrap(), Sink::Stderr);
        assert_eq!(Sink::parse("journald").unwrap(), Sink::Journald);
        assert_eq!(Sink::parse("./stderr").unwrap(), Sink::File(PathBuf::from("./stderr")));
        for wrong in ["", "journal", "required", "audit.log"] {
            assert!(Sink::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_field_of_several_lines_has_its_length() {
        let mut entry = Vec::new();
        field(&mut entry, "A", b"x=y");
        field(&mut entry, "B", b"1\n2");
        assert_eq!(entry, b"A=x=y\nB\n\x03\0\0\0\0\0\0\x001\n2\n");
    }
}
