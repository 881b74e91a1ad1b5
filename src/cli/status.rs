//! `akvfs status`: what the processes of this host serve; never a value.

use std::time::SystemTime;

use clap::Args as ClapArgs;
use serde::Serialize;

use crate::control::wire::{Audit, Collection, Object, Outcome, Request, Served};
use crate::control::{self, Asked, Silent};
use crate::error::{Code, Error, Result, printable};

use super::{note, say};

/// Show every mount and sync of this host: source, identity, versions, errors
///
/// Root sees everybody's, others their own. The exit code is 0 when there is none, and 1 when a
/// process of the caller does not answer.
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    /// Print JSON; the fields are in docs/CONFIGURATION.md
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    served: Vec<Row>,
    /// Processes that do not answer.
    silent: Vec<Silent>,
}

/// What one process serves.
#[derive(Serialize)]
struct Row {
    pid: Option<i32>,
    uid: u32,
    /// Of its program.
    akvfs_version: String,
    #[serde(flatten)]
    served: Served,
}

pub(super) async fn run(args: Args) -> Result<()> {
    let report = Report::of(control::ask_all(&Request::status()).await?);
    if args.json {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|_| Error::new(Code::Internal, "the report cannot be written as JSON"))?;
        say(&format!("{text}\n"))?;
    } else {
        let rows: Vec<String> = report.served.iter().map(Row::table).collect();
        say(&rows.join("\n"))?;
    }
    for Silent { socket, pid, uid, error, own } in &report.silent {
        let pid = pid.map_or_else(String::new, |pid| format!("process {pid}, "));
        let whose = if *own { String::new() } else { format!("note: of uid {uid}, ") };
        note(&format!("{whose}no answer from {pid}{socket}: {error}"));
    }
    // What other users' processes do is no failure of ours.
    let count = report.silent.iter().filter(|silent| silent.own).count();
    if count > 0 {
        return Err(Error::new(
            Code::Unavailable,
            format!("{count} of the processes do not answer"),
        )
        .fix("a stopped process answers when it goes on; one that hangs must be ended"));
    }
    if report.served.is_empty() {
        note(&format!("no mount and no sync --watch of {} runs here", whom()));
    }
    Ok(())
}

#[cfg(unix)]
fn whom() -> &'static str {
    if rustix::process::geteuid().is_root() { "anybody" } else { "this user" }
}

#[cfg(not(unix))]
fn whom() -> &'static str {
    "this user"
}

impl Report {
    fn of(asked: Asked) -> Self {
        let mut report = Self { served: Vec::new(), silent: asked.silent };
        for (peer, answer) in asked.answers {
            let (pid, uid) = (peer.pid(), peer.uid());
            match answer.outcome {
                Outcome::Served(served) => {
                    report.served.extend(served.into_iter().map(|served| Row {
                        pid,
                        uid,
                        akvfs_version: answer.version.clone(),
                        served,
                    }))
                }
                Outcome::Refreshed(_) | Outcome::Unmounted { .. } => {}
                Outcome::Error(problem) => report.silent.push(Silent {
                    socket: peer.socket(),
                    pid,
                    uid,
                    error: printable(&problem.message, 1024),
                    own: peer.is_own(),
                }),
            }
        }
        report.served.sort_by(|a, b| a.served.directory.cmp(&b.served.directory));
        report
    }
}

impl Row {
    /// For people. What a process of another user says may hold anything: it is made printable.
    fn table(&self) -> String {
        let served = &self.served;
        let plain = |text: &str| printable(text, 4096);
        let pid = self.pid.map_or_else(String::new, |pid| format!(", process {pid}"));
        let mut lines = vec![
            format!(
                "{}  ({} of uid {}{pid})",
                plain(&served.directory),
                served.kind.as_str(),
                self.uid
            ),
            format!("  source      {}", plain(&served.source)),
            format!("  identity    {}", plain(&served.identity)),
            format!("  generation  {}, {}", served.generation, since(served.published.as_deref())),
        ];
        let checked = served.checked.as_deref();
        lines.extend(checked.map(|at| format!("  checked     {}", since(Some(at)))));
        if let Some(until) = &served.left_alone_until {
            lines.push(format!("  vault       does not answer, left alone until {}", plain(until)));
        }
        lines.extend(served.error.as_ref().map(|error| format!("  error       {}", plain(error))));
        for one in &served.collections {
            lines.push(format!("  {:10}  {}", plain(&one.kind), self::collection(one)));
            lines.extend(one.error.as_ref().map(|error| {
                format!("    {}, {}", plain(&error.message), since(error.at.as_deref()))
            }));
        }
        lines.extend(
            served.audit.as_ref().map(|audit| format!("  audit       {}", self::audit(audit))),
        );
        let width = |text: fn(&Object) -> String, title: &str| {
            let widths = served.objects.iter().map(|one| text(one).chars().count());
            widths.max().unwrap_or(0).max(title.len())
        };
        let (name, version) = (width(object, "OBJECT"), width(version, "VERSION"));
        let opened = width(opens, "OPENS");
        let [first, second, third] = ["OBJECT", "VERSION", "OPENS"];
        lines.push(format!("  {first:name$}  {second:version$}  {third:>opened$}  STATE"));
        for one in &served.objects {
            let (object, shown, opens) = (object(one), self::version(one), opens(one));
            let state = state(one);
            lines.push(format!("  {object:name$}  {shown:version$}  {opens:>opened$}  {state}"));
            lines.extend(one.error.as_ref().map(|error| {
                format!("    {}, {}", plain(&error.message), since(error.at.as_deref()))
            }));
        }
        if served.omitted > 0 {
            lines.push(format!("  and {} more objects", served.omitted));
        }
        lines.join("\n") + "\n"
    }
}

fn collection(collection: &Collection) -> String {
    let (names, listed) = (collection.names, collection.listed.as_deref());
    match (&collection.stale_since, listed) {
        (_, None) => "not listed".to_owned(),
        (Some(stale), Some(_)) => format!("{names} names, stale since {}", since(Some(stale))),
        (None, Some(listed)) => format!("{names} names, as of {}", since(Some(listed))),
    }
}

fn object(object: &Object) -> String {
    printable(&format!("{}/{}", object.kind, object.name), 256)
}

fn version(object: &Object) -> String {
    object.version.as_deref().map_or_else(|| "-".to_owned(), |version| printable(version, 64))
}

fn opens(object: &Object) -> String {
    object.opens.map_or_else(|| "-".to_owned(), |opens| opens.to_string())
}

fn audit(audit: &Audit) -> String {
    let Audit { sink, required, written, lost, error } = audit;
    let required = if *required { ", required" } else { "" };
    let lost = if *lost > 0 { format!(", {lost} lost") } else { String::new() };
    let error = error.as_ref().map(|error| format!(": {}", printable(error, 1024)));
    let error = error.unwrap_or_default();
    format!("{}{required}, {written} records{lost}{error}", printable(sink, 1024))
}

/// In a few words, the worst first.
fn state(object: &Object) -> String {
    if let Some(code) = &object.withdrawn {
        return format!("taken away: {}", printable(code, 64));
    }
    if object.version.is_none() {
        return "not fetched yet".to_owned();
    }
    let checked = match (&object.stale_since, &object.checked) {
        (Some(stale), _) => format!("stale since {}", since(Some(stale))),
        (None, Some(checked)) => format!("as of {}", since(Some(checked))),
        (None, None) => "shown".to_owned(),
    };
    match object.expires.as_deref().and_then(seconds_since) {
        Some(age @ 0..) => format!("{checked}, expired {} ago", self::age(age)),
        _ => checked,
    }
}

/// How long ago something was.
fn since(at: Option<&str>) -> String {
    let seconds = at.and_then(seconds_since);
    seconds.map_or_else(|| "at some time".to_owned(), |seconds| format!("{} ago", age(seconds)))
}

fn seconds_since(at: &str) -> Option<i64> {
    let then = at.parse::<jiff::Timestamp>().ok()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(i64::try_from(now.as_secs()).ok()?.saturating_sub(then.as_second()))
}

/// In the largest unit that fits.
fn age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{} s", seconds.max(0)),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::{Kind, Problem};

    #[test]
    fn the_table_says_everything_and_nothing_moves_the_cursor() {
        let long_ago = || Some("2001-01-01T00:00:00Z".to_owned());
        let object = |name: &str, version: Option<&str>| Object {
            kind: "secret".to_owned(),
            name: name.to_owned(),
            files: vec![name.to_owned()],
            version: version.map(str::to_owned),
            let_go: false,
            generation: 2,
            opens: None,
            created: long_ago(),
            expires: None,
            not_before: None,
            checked: long_ago(),
            stale_since: None,
            withdrawn: None,
            error: None,
        };
        let problem = || Problem {
            code: "forbidden".to_owned(),
            message: "not\x1b[2J yours".to_owned(),
            at: long_ago(),
        };
        let collection = |kind: &str, listed, stale_since| Collection {
            kind: kind.to_owned(),
            names: 3,
            listed,
            stale_since,
            error: None,
        };
        let objects = vec![
            Object { opens: Some(12), ..object("one", Some("0123")) },
            Object { stale_since: long_ago(), expires: long_ago(), ..object("old", Some("4")) },
            Object { withdrawn: Some("forbidden".to_owned()), ..object("gone", None) },
            Object { error: Some(problem()), ..object("two\n", None) },
        ];
        let row = Row {
            pid: Some(7),
            uid: 1000,
            akvfs_version: "v1".to_owned(),
            served: Served {
                kind: Kind::Sync,
                directory: "/run/\x1b[31mapp".to_owned(),
                device: None,
                source: "class app".to_owned(),
                identity: "pod identity".to_owned(),
                generation: 3,
                published: long_ago(),
                checked: long_ago(),
                next_check: None,
                left_alone_until: Some("2001-01-01T00:00:00Z".to_owned()),
                retired: 0,
                bytes: 4,
                most_bytes: 9,
                error: Some("disk full".to_owned()),
                collections: vec![
                    collection("secret", long_ago(), None),
                    collection("key", long_ago(), long_ago()),
                    Collection { error: Some(problem()), ..collection("cert", None, long_ago()) },
                ],
                audit: Some(Audit {
                    sink: "/var/log/\x1bopens".to_owned(),
                    required: true,
                    written: 5,
                    lost: 2,
                    error: Some("no storage\n space".to_owned()),
                }),
                objects,
                omitted: 5,
            },
        };
        let table = row.table();
        for part in [
            "/run/[31mapp  (sync of uid 1000, process 7)\n",
            "  source      class app\n  identity    pod identity\n  generation  3, ",
            " days ago\n  vault       does not answer, left alone until 2001-01-01T00:00:00Z\n",
            "\n  error       disk full\n  secret      3 names, as of ",
            " days ago\n  key         3 names, stale since ",
            " days ago\n  cert        not listed\n    not[2J yours, ",
            "\n  audit       /var/log/opens, required, 5 records, 2 lost: no storage space\n",
            "  OBJECT       VERSION  OPENS  STATE\n  secret/one   0123        12  as of ",
            "  secret/old   4            -  stale since ",
            " days ago, expired ",
            "  secret/gone  -            -  taken away: forbidden\n",
            "  secret/two   -            -  not fetched yet\n    not[2J yours, ",
            " days ago\n  and 5 more objects\n",
        ] {
            assert!(table.contains(part), "{part:?} in {table}");
        }
        assert!(!table.contains('\x1b'));
    }

    #[test]
    fn ages_have_the_unit_that_fits() {
        let ages = [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 days")];
        for (seconds, text) in ages {
            assert_eq!(age(seconds), text);
        }
    }
}
