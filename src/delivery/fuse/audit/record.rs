//! One line about one OPEN: names and numbers, and never the value or anything made of it.

use serde::Serialize;

use super::caller::{self, Caller};
use crate::view::About;

/// Most bytes of a name in a record.
const MAX_TEXT: usize = 1024;
const UNKNOWN: &str = "unknown";
const ALLOWED: &str = "allowed";
/// What the kernel tells of whoever comes through an id-mapped mount.
const UNMAPPED: u32 = u32::MAX;

/// What is known of an OPEN besides what /proc tells.
pub(super) struct Facts {
    pub(super) mount: String,
    pub(super) file: String,
    pub(super) about: Option<About>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// 0: it is in none of the process namespaces that the mount knows.
    pub(super) thread: u32,
    pub(super) request: u64,
    /// The error's code and number.
    pub(super) refused: Option<(&'static str, i32)>,
    pub(super) latency_us: u64,
    pub(super) cache_hit: bool,
}

/// The fields, in the order of the line. Fields stay; new ones may come.
#[derive(Serialize)]
pub(super) struct Record {
    time: String,
    mount: String,
    pub(super) file: String,
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) version: Option<String>,
    pub(super) uid: u32,
    gid: u32,
    pid: Option<u32>,
    exe: String,
    cgroup: String,
    pod_uid: Option<String>,
    container_id: Option<String>,
    pub(super) decision: &'static str,
    errno: i32,
    latency_us: u64,
    cache_hit: bool,
    request: u64,
}

impl Record {
    pub(super) fn new(facts: Facts, caller: Caller) -> Self {
        let Caller { pid, ids, exe, cgroup } = caller;
        let told = (facts.uid, facts.gid);
        let (uid, gid) = if facts.uid == UNMAPPED { ids.unwrap_or(told) } else { told };
        let (decision, errno) = facts.refused.unwrap_or((ALLOWED, 0));
        let cgroup = cgroup.unwrap_or_else(|| UNKNOWN.to_owned());
        let about = facts.about;
        Self {
            time: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            mount: bounded(&facts.mount),
            file: bounded(&facts.file),
            kind: about.as_ref().map_or(UNKNOWN, |about| about.kind.as_str()),
            name: about.as_ref().map_or_else(|| UNKNOWN.to_owned(), |about| bounded(&about.name)),
            version: about.and_then(|about| about.version).map(|version| bounded(&version)),
            uid,
            gid,
            pid: pid.or_else(|| Some(facts.thread).filter(|thread| *thread > 0)),
            exe: bounded(exe.as_deref().unwrap_or(UNKNOWN)),
            pod_uid: caller::pod_uid(&cgroup),
            container_id: caller::container_id(&cgroup),
            cgroup: bounded(&cgroup),
            decision,
            errno,
            latency_us: facts.latency_us,
            cache_hit: facts.cache_hit,
            request: facts.request,
        }
    }

    pub(super) fn is_refusal(&self) -> bool {
        self.errno != 0
    }

    /// As a line of JSON, without its end.
    pub(super) fn json(&self) -> String {
        // Text and numbers: this cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// As much of a name as has room. JSON escapes control characters but for those that some terminals obey
/// all the same.
fn bounded(text: &str) -> String {
    let visible = text.chars().map(|c| match c {
        '\u{7f}'..='\u{9f}' => '\u{fffd}',
        c => c,
    });
    let mut out = String::with_capacity(text.len().min(MAX_TEXT));
    for c in visible {
        if out.len() + c.len_utf8() > MAX_TEXT {
            return out + "...";
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            mount: "/mnt".to_owned(),
            file: "dir/one".to_owned(),
            about: None,
            uid: UNMAPPED,
            gid: UNMAPPED,
            thread: 0,
            request: 7,
            refused: Some(("forbidden", 13)),
            latency_us: 5,
            cache_hit: false,
        }
    }

    #[test]
    fn what_is_not_known_is_said_so() {
        let record = Record::new(facts(), Caller::default()).json();
        let value: serde_json::Value = serde_json::from_str(&record).unwrap();
        let expected = serde_json::json!({
            "time": value["time"], "mount": "/mnt", "file": "dir/one", "type": "unknown",
            "name": "unknown", "version": null, "uid": UNMAPPED, "gid": UNMAPPED, "pid": null,
            "exe": "unknown", "cgroup": "unknown", "pod_uid": null, "container_id": null,
            "decision": "forbidden", "errno": 13, "latency_us": 5, "cache_hit": false, "request": 7
        });
        assert_eq!(value, expected);
        value["time"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    }

    #[test]
    fn names_of_others_choosing_are_one_bounded_line() {
        let exe = format!("/tmp/a\n\u{1b}[2J\u{9b}\",\"uid\":0{}", "x".repeat(5000));
        let caller = Caller { exe: Some(exe), ids: Some((5, 6)), ..Caller::default() };
        let line = Record::new(facts(), caller).json();
        assert!(line.len() < 2048 && !line.contains(['\n', '\u{1b}', '\u{9b}']), "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((value["uid"].clone(), value["gid"].clone()), (5.into(), 6.into()));
        let exe = value["exe"].as_str().unwrap();
        assert!(
            exe.starts_with("/tmp/a\n\u{1b}[2J\u{fffd}\",\"uid\":0xx") && exe.ends_with("x...")
        );
    }
}
