//! The rows: each contestant in turn, round by round.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::report::{Goal, Report, Row};
use super::server::{KINDS, Kind, Served};
use super::{Args, Outcome, client, ours, server};

const SIZE: usize = 1024;
const MANY: usize = 10_000;

pub fn run(args: &Args) -> Outcome<ExitCode> {
    let scratch = tempfile::tempdir()?;
    let mut report = Report::default();
    let times = if args.quick { 500 } else { 20_000 };
    // Before anything is pinned: what is started later inherits that.
    throughput(args, scratch.path(), times, &mut report)?;
    listings(args, scratch.path(), &mut report)?;
    memory(scratch.path(), if args.quick { 500 } else { MANY }, &mut report)?;
    server::pin()?;
    latencies(args, scratch.path(), times, &mut report)?;
    let text = report.markdown();
    println!("{text}");
    if let Some(path) = &args.markdown {
        std::fs::write(path, &text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn all(dir: &Path, name: &str, files: usize, pinned: bool) -> Outcome<Vec<Served>> {
    let start = |kind: &Kind| {
        Served::start(*kind, dir.join(format!("{name}-{}", kind.name())), files, SIZE, pinned)
    };
    KINDS.iter().map(start).collect()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn latencies(args: &Args, dir: &Path, times: usize, report: &mut Report) -> Outcome<()> {
    let served = all(dir, "latency", 8, true)?;
    let mut reads = Row::new("open, read 1 KiB, close: p50, us, pinned")
        .goal(Goal::AtMost(1.2, Kind::Bare))
        .goal(Goal::AtMost(6.0, Kind::Tmpfs));
    let mut stats = Row::new("stat: p50, us, pinned");
    for _ in 0..args.rounds {
        for one in &served {
            reads.add(one.kind, micros(client::open_read_close(&one.dir, times)?));
        }
        for one in &served {
            stats.add(one.kind, micros(client::stat(&one.dir, times)?));
        }
    }
    report.add(reads);
    report.add(stats);
    if let Some(one) = served.iter().find(|one| one.kind == Kind::Akvfs) {
        report.note(hanging(&one.dir, times)?);
    }
    Ok(())
}

/// A cached open beside opens that get no answer.
fn hanging(dir: &Path, times: usize) -> Outcome<String> {
    let idle = client::open_read_close(dir, times)?;
    let openers: Vec<_> = (0..ours::HANGING)
        .map(|number| {
            let file = dir.join(format!("hang-{number:05}"));
            std::thread::spawn(move || drop(File::open(file)))
        })
        .collect();
    // All of them have asked by then; they wait for 10 s.
    std::thread::sleep(Duration::from_secs(1));
    let beside = client::open_read_close(dir, times)?;
    let waiting = openers.iter().filter(|opener| !opener.is_finished()).count();
    for opener in openers {
        let _ = opener.join();
    }
    let ratio = micros(beside) / micros(idle);
    Ok(format!(
        "A cached open, read and close while {waiting} opens hang: p50 {:.1} us, {ratio:.2} of the {:.1} us before \
         (goal: at most 2): {}.",
        micros(beside),
        micros(idle),
        if ratio <= 2.0 { "met" } else { "NOT met" }
    ))
}

fn throughput(args: &Args, dir: &Path, times: usize, report: &mut Report) -> Outcome<()> {
    let served = all(dir, "throughput", 8, false)?;
    let mut row = Row::new("open, read, close by 8 clients: operations a second")
        .goal(Goal::AtLeast(0.85, Kind::Bare));
    for _ in 0..args.rounds {
        for one in &served {
            row.add(one.kind, client::throughput(&one.dir, 8, times / 4)?);
        }
    }
    report.add(row);
    Ok(())
}

fn listings(args: &Args, dir: &Path, report: &mut Report) -> Outcome<()> {
    let mut plain = Row::new("first ls of 10,000 files: ms");
    let mut long = Row::new("first ls -l of 10,000 files: ms");
    let mut first = Row::new("first read of each of 10,000 files: ms");
    for round in 0..args.rounds {
        for kind in KINDS {
            // The kernel remembers: each listing gets a mount of its own.
            for (number, row) in [&mut plain, &mut long, &mut first].into_iter().enumerate() {
                let name = dir.join(format!("list-{round}-{number}-{}", kind.name()));
                let one = Served::start(kind, name, MANY, SIZE, false)?;
                let taken = match number {
                    0 => client::list(&one.dir, &[])?,
                    1 => client::list(&one.dir, &["-l"])?,
                    _ => client::read_all(&one.dir, MANY)?,
                };
                row.add(kind, taken.as_secs_f64() * 1e3);
            }
        }
    }
    report.add(plain);
    report.add(long);
    report.add(first);
    Ok(())
}

fn memory(dir: &Path, files: usize, report: &mut Report) -> Outcome<()> {
    let mut resident = Vec::new();
    for kind in [Kind::Bare, Kind::Akvfs] {
        let one =
            Served::start(kind, dir.join(format!("memory-{}", kind.name())), files, SIZE, false)?;
        client::read_all(&one.dir, files)?;
        client::list(&one.dir, &["-l"])?;
        resident.push(one.resident().ok_or("a server has no size")? as f64 / (1024.0 * 1024.0));
    }
    let [bare, akvfs] = resident.as_slice() else { return Err("a server is missing".into()) };
    let above = akvfs - bare;
    report.note(format!(
        "Resident memory with {files} files of 1 KiB read: akvfs {akvfs:.1} MiB, bare {bare:.1} MiB, {above:.1} MiB \
         above it (goal: at most 40): {}.",
        if above <= 40.0 { "met" } else { "NOT met" }
    ));
    Ok(())
}
