//! `objects`: YAML text with a list of YAML texts, one for each object.
//!
//! The outer text holds the key `array`; its items must be *strings*, which are YAML again. String
//! fields take any scalar as its literal text (`filePermission: 0755` is `0755`), so they are asked
//! for as text and never guessed. What serde_yaml says about a wrong text is dropped, since it may
//! quote it; errors carry the entry, the key and the place.

mod check;
mod collisions;
mod entry;
mod memo;
mod outer;
mod read;

use std::cell::Cell;

use crate::error::{Error, Result};

use super::ObjectSpec;
use super::paths::Rules;
use super::yaml::Bounds;
pub(crate) use collisions::refuse_meetings;
use entry::{EntrySeed, RawObject};
pub use memo::Memo;
use outer::{Item, Outer, OuterSeed};

/// Most objects of a class, every version of a history counted.
const MAX_OBJECTS: usize = 2_000;
/// Room for 2,000 entries of nine keys, or as many in JSON.
const OUTER: Bounds = Bounds { openers: 2_048, indicators: 65_536 };
const INNER: Bounds = Bounds { openers: 64, indicators: 1_024 };
/// Most notices of a class.
const MAX_NOTICES: usize = 50;

/// What a text comes to.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq))]
pub(super) struct List {
    pub(super) objects: Vec<ObjectSpec>,
    /// For the log.
    pub(super) notices: Vec<String>,
}

/// Parses and checks all objects. None is a success with notices that name the likely mistake.
///
/// # Errors
/// ClassInvalid under upstream's texts; the first wrong entry, in the class's order.
pub(super) fn parse(text: &str, default_mode: u32, rules: Rules) -> Result<List> {
    let mut notices = Vec::new();
    let outer = read_outer(text)
        .map_err(|error| error.context("failed to yaml unmarshal objects, error"))?;
    let mut objects = Vec::new();
    let mut files = 0;
    for (index, item) in outer.items.iter().enumerate() {
        let Item::Text(text) = item else {
            notices.push(format!("objects: array[{index}] is empty and left out"));
            continue;
        };
        let raw = read_entry(text).map_err(|error| {
            error.context(format!("unmarshal failed for keyVaultObjects at index {index}, error"))
        })?;
        let object = check::check(index, &raw, default_mode, rules)?;
        notices.extend(raw.misspelt.iter().map(|(found, key)| {
            format!("objects: array[{index}] has a key {found}, which is ignored: spell it {key}")
        }));
        files += object.history as usize;
        if files > MAX_OBJECTS {
            return Err(too_many());
        }
        objects.push(object);
    }
    if objects.is_empty() {
        notices.push(format!("objects lists nothing to mount: {}", outer.likely_mistake()));
    }
    let objects = collisions::resolve(objects, rules, &mut notices)?;
    if notices.len() > MAX_NOTICES {
        notices.push(format!("objects: {} more notices", notices.len() - MAX_NOTICES));
        notices.swap_remove(MAX_NOTICES);
        notices.truncate(MAX_NOTICES + 1);
    }
    Ok(List { objects, notices })
}

fn too_many() -> Error {
    Error::class(format!("the class lists more than {MAX_OBJECTS} objects"))
        .fix("split it into several classes; each version of an objectVersionHistory counts")
}

fn read_outer(text: &str) -> Result<Outer> {
    let why = Cell::new(None);
    read::read(text, OUTER, &why, OuterSeed(&why))
}

fn read_entry(text: &str) -> Result<RawObject> {
    let why = Cell::new(None);
    read::read(text, INNER, &why, EntrySeed { why: &why, merged: false })
}

#[cfg(test)]
mod tests;
