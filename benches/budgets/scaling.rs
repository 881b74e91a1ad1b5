//! `--scaling`: what a node costs as its pods grow, held against the model; docs/SCALING.md shows it.
//!
//! Counts are judged: a round whose requests are not those of [`model`] makes the exit code 1, or 2 when
//! this machine was too slow to tell. Times, CPU and memory are printed and never judged.

mod cluster;
mod congestion;
mod limited;
mod model;
mod rounds;
mod tables;

use std::fmt::Write;
use std::process::ExitCode;

use super::args::Args;
use super::contest::{self, Binary, Lab};
use super::{CANNOT, Outcome};

pub use tables::print as tables;

/// A part that can be run alone: `--only rounds,limited,congestion`.
const PARTS: [&str; 3] = ["rounds", "limited", "congestion"];

pub fn measure(args: &Args) -> Outcome<ExitCode> {
    let mut contestants = contest::contestants(args)?;
    let binary = contestants.swap_remove(0).binary.ok_or("there is no provider to measure")?;
    let mut lab = Lab::new(args.quick)?;
    // The costlier one: each request that runs has a connection of its own.
    lab.speak(false)?;
    let mut page = heading(&lab, &binary);
    let mut judgement = rounds::Judgement::default();
    for part in PARTS {
        if !args.only.is_empty() && !args.only.iter().any(|only| part.starts_with(only.as_str())) {
            continue;
        }
        let table = match part {
            "rounds" => {
                let (table, judged) = lab.runtime.block_on(rounds::measure(&lab, &binary))?;
                judgement = judged;
                table
            }
            "limited" => lab.runtime.block_on(limited::measure(&lab, &binary))?,
            _ => lab.runtime.block_on(congestion::measure(&lab, &binary))?,
        };
        let _ = writeln!(page, "## {part}\n\n{table}");
    }
    if judgement.differs {
        page.push_str("A count DIFFERS from the model.\n");
    }
    print!("{page}");
    if let Some(path) = &args.markdown {
        std::fs::write(path, &page)?;
    }
    lab.end();
    Ok(match (judgement.differs, judgement.too_slow) {
        (true, _) => ExitCode::FAILURE,
        (false, true) => ExitCode::from(CANNOT),
        (false, false) => ExitCode::SUCCESS,
    })
}

fn heading(lab: &Lab, binary: &Binary) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    format!(
        "# Scaling\n\n{cores} cores shared by emulator, driver and provider, load {} before the run; \
         Linux {}; HTTP/1.1; CPU limit: {}.\n{}\n\n",
        load.split(' ').next().unwrap_or_default(),
        kernel.trim(),
        lab.quota.describe(),
        binary.program.display(),
    )
}
