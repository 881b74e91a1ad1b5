//! The command line.

use std::path::PathBuf;

/// What to run.
pub struct Args {
    /// The binary of akvfs; found below target/ when not given.
    pub akvfs: Option<PathBuf>,
    /// Name, program and arguments of further providers.
    pub providers: Vec<(String, PathBuf, Vec<String>)>,
    /// Samples of a row that is cheap; costly ones get fewer.
    pub repeats: usize,
    /// Rows whose name begins like one of these; all when empty.
    pub only: Vec<String>,
    /// At most a minute: does it still work?
    pub quick: bool,
    /// Not the budgets: a node's costs as its pods grow, against the model.
    pub scaling: bool,
    pub json: Option<PathBuf>,
    pub markdown: Option<PathBuf>,
}

pub enum Parsed {
    Run(Args),
    List,
    Model,
}

pub fn parse(mut given: impl Iterator<Item = String>) -> Result<Parsed, String> {
    let mut args = Args {
        akvfs: None,
        providers: Vec::new(),
        repeats: 0,
        only: Vec::new(),
        quick: false,
        scaling: false,
        json: None,
        markdown: None,
    };
    while let Some(arg) = given.next() {
        let (flag, inline) = match arg.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (arg, None),
        };
        let mut value = || {
            inline.clone().or_else(|| given.next()).ok_or_else(|| format!("{flag} needs a value"))
        };
        match flag.as_str() {
            // cargo's own.
            "--bench" => {}
            "--list" => return Ok(Parsed::List),
            "--model" => return Ok(Parsed::Model),
            "--quick" => args.quick = true,
            "--scaling" => args.scaling = true,
            "--akvfs" => args.akvfs = Some(value()?.into()),
            "--provider" => args.providers.push(provider(&value()?)?),
            "--repeats" => {
                let number = value()?.parse().ok().filter(|number| (1..=100).contains(number));
                args.repeats = number.ok_or("--repeats takes a number from 1 to 100")?;
            }
            "--only" => args.only.extend(value()?.split(',').map(str::to_owned)),
            "--json" => args.json = Some(value()?.into()),
            "--markdown" => args.markdown = Some(value()?.into()),
            _ => {
                return Err(format!(
                    "unknown argument {flag}; the head of benches/budgets.rs tells"
                ));
            }
        }
    }
    if args.repeats == 0 {
        args.repeats = if args.quick { 1 } else { 5 };
    }
    Ok(Parsed::Run(args))
}

/// `NAME=PATH[ ARG...]`
fn provider(text: &str) -> Result<(String, PathBuf, Vec<String>), String> {
    let (name, command) = text.split_once('=').ok_or("--provider takes NAME=PATH[ ARG...]")?;
    let mut words = command.split_whitespace().map(str::to_owned);
    match words.next() {
        Some(program) if !name.is_empty() && name != "raw" => {
            Ok((name.to_owned(), program.into(), words.collect()))
        }
        _ => Err("--provider takes NAME=PATH[ ARG...]".to_owned()),
    }
}
