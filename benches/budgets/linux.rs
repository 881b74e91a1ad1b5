//! The run: command line, namespace, rows, report.

mod args;
mod azure;
mod contest;
mod driver;
mod goals;
mod namespace;
mod process;
mod quota;
mod raw;
mod report;
mod rows;
mod scaling;

use std::process::ExitCode;

use args::{Args, Parsed};
use contest::{Contestant, Lab};

/// What a row failed of; printed, never fatal.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T> = Result<T, Failure>;

const CANNOT: u8 = 2;
const USAGE: u8 = 64;

pub fn main() -> ExitCode {
    let args = match args::parse(std::env::args().skip(1)) {
        Ok(Parsed::Run(args)) => args,
        Ok(Parsed::List) => {
            rows::all(false).iter().for_each(|row| println!("{:<24} {}", row.id, row.title));
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Model) => {
            print!("{}", scaling::tables());
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("budgets: {why}");
            return ExitCode::from(USAGE);
        }
    };
    if !namespace::inside() {
        return match namespace::enter() {
            Ok(code) => code,
            Err(why) => {
                eprintln!("budgets: {why}");
                ExitCode::from(CANNOT)
            }
        };
    }
    // The first one wins; reqwest wants one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match args.scaling {
        true => scaling::measure(&args),
        false => measure(&args).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(why) => {
            eprintln!("budgets: {why}");
            ExitCode::from(CANNOT)
        }
    }
}

fn measure(args: &Args) -> Outcome<()> {
    let contestants = contest::contestants(args)?;
    let mut lab = Lab::new(args.quick)?;
    let mut report = report::Report::new(&contestants, args, lab.quota.describe());
    print!("{}", report.heading());
    let chosen: Vec<_> = rows::all(args.quick)
        .into_iter()
        .filter(|row| args.only.is_empty() || args.only.iter().any(|id| row.id.starts_with(id)))
        .collect();
    if chosen.is_empty() {
        return Err("no row has such a name; --list shows them".into());
    }
    let begin = std::time::Instant::now();
    for row in &chosen {
        lab.speak(row.http2)?;
        let seconds = begin.elapsed().as_secs();
        eprintln!("[{seconds:>4} s] {}: {}", row.id, row.title);
        report.add(row, samples(&lab, row, &contestants, args.repeats));
    }
    print!("{}", report.table());
    eprintln!("[{:>4} s] done", begin.elapsed().as_secs());
    report.write(args)?;
    lab.end();
    Ok(())
}

/// Every contestant's samples of a row, taken in turns.
fn samples(
    lab: &Lab,
    row: &rows::Row,
    contestants: &[Contestant],
    repeats: usize,
) -> Vec<contest::Samples> {
    let mut all: Vec<_> = contestants.iter().map(|_| contest::Samples::default()).collect();
    for _ in 0..repeats.div_ceil(row.weight) {
        for (contestant, samples) in contestants.iter().zip(&mut all) {
            if contestant.takes_part(row) {
                samples.add(lab.runtime.block_on(row.run(lab, contestant)));
            }
        }
    }
    all
}
