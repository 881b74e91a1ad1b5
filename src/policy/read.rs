//! From YAML to a [`Policy`]. A policy that is not understood in full is not used at all: unknown
//! keys, misspelt names and empty lists are errors, and each names its place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::class::claim::is_guid;
use crate::class::yaml::{self, Bounds, Node};
use crate::class::{MountMode, duration};
use crate::cloud;
use crate::error::{Error, Result, printable};

use super::glob::{Case, Glob};
use super::{Grant, Limits, Mode, Policy, Rule, VmClient};

const MAX_RULES: usize = 10_000;
/// Entries of one list.
const MAX_LIST: usize = 1_000;
/// Longest pattern: that of a DNS name.
const MAX_PATTERN: usize = 253;
/// Most of a wrong name that an error quotes.
const QUOTED: usize = 64;
/// The file is the operator's own; its size is what bounds it.
const BOUNDS: Bounds = Bounds { openers: 64 * 1024, indicators: yaml::MAX_TEXT };

const RULE_KEYS: &[&str] = &["name", "match", "allow"];
const MATCH_KEYS: &[&str] = &["namespaces", "serviceAccounts"];
const ALLOW_KEYS: &[&str] = &[
    "identityModes",
    "vmClientIds",
    "tenants",
    "vaults",
    "clouds",
    "mountModes",
    "maxResponseBytes",
    "maxStale",
];

pub(super) fn policy(text: &str) -> Result<Policy> {
    let mut documents = yaml::documents(text, BOUNDS)?.into_iter();
    let (Some(document), None) = (documents.next(), documents.next()) else {
        return Err(Error::class("the policy is not one YAML document"));
    };
    let map = map(&document, "the policy", &["default", "rules"])?;
    let default = match word(map, "default") {
        Some("allow") => Grant::All,
        Some("deny") => Grant::None,
        _ => {
            return Err(Error::class("default is not \"allow\" or \"deny\"")
                .fix("say what happens to pods that no rule matches: default: deny"));
        }
    };
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    let items = match map.get("rules") {
        None | Some(Node::Null) => &Vec::new(),
        Some(Node::List(items)) => items,
        Some(other) => return Err(expected("rules", "a list", other)),
    };
    if items.len() > MAX_RULES {
        return Err(Error::class(format!("rules has more than {MAX_RULES} entries")));
    }
    for (index, item) in items.iter().enumerate() {
        let rule = rule(item, &format!("rules[{index}]"))?;
        if !names.insert(rule.name.clone()) {
            let name = &rule.name;
            return Err(Error::class(format!("rules[{index}]: another rule is named \"{name}\"")));
        }
        rules.push(rule);
    }
    Ok(Policy { default, rules })
}

fn rule(node: &Node, at: &str) -> Result<Rule> {
    let map = map(node, at, RULE_KEYS)?;
    let name = match word(map, "name") {
        Some(name) if fits(name, "-._ ") && name.len() <= QUOTED => name.to_owned(),
        _ => {
            return Err(Error::class(format!(
                "{at}.name is not 1 to {QUOTED} letters, digits, blanks, dashes or dots"
            ))
            .fix("refusals name the rule"));
        }
    };
    let at = &format!("{at} (\"{name}\")");
    let at_match = format!("{at}.match");
    let found = self::map(required(map, "match", at)?, &at_match, MATCH_KEYS)?;
    let names = |key: &str| globs(found, key, &at_match, "-.", Case::Matters);
    let namespaces = names("namespaces")?.ok_or_else(|| missing("namespaces", &at_match))?;
    let service_accounts = names("serviceAccounts")?;
    let grant = match required(map, "allow", at)? {
        Node::Text(text) if text == "all" => Grant::All,
        Node::Text(text) if text == "none" => Grant::None,
        node @ Node::Map(_) => Grant::Only(Box::new(limits(node, &format!("{at}.allow"))?)),
        other => {
            return Err(expected(&format!("{at}.allow"), "all, none or a mapping", other));
        }
    };
    Ok(Rule { name, namespaces, service_accounts, grant })
}

fn limits(node: &Node, at: &str) -> Result<Limits> {
    let map = map(node, at, ALLOW_KEYS)?;
    let identity_modes = choices(map, "identityModes", at, &Mode::ALL, Mode::as_str)?
        .ok_or_else(|| missing("identityModes", at))?;
    let vm_client_ids = vm_clients(map, at)?;
    // Every pod of a node reaches all identities of its machine: that is granted in words or not.
    match (identity_modes.contains(&Mode::Managed), &vm_client_ids) {
        (true, None) => return Err(missing("vmClientIds", at)),
        (false, Some(_)) => {
            return Err(Error::class(format!("{at}.vmClientIds stands without the identity mode"))
                .fix("add managed to identityModes, or leave vmClientIds out"));
        }
        _ => {}
    }
    Ok(Limits {
        identity_modes,
        vm_client_ids: vm_client_ids.unwrap_or_default(),
        tenants: globs(map, "tenants", at, "-.", Case::Ignored)?,
        vaults: globs(map, "vaults", at, "-", Case::Ignored)?
            .ok_or_else(|| missing("vaults", at))?,
        clouds: clouds(map, at)?,
        mount_modes: choices(map, "mountModes", at, &MountMode::ALL, MountMode::as_str)?,
        max_response_bytes: size(map, "maxResponseBytes", at)?,
        max_stale: stale(map, "maxStale", at)?,
    })
}

fn vm_clients(map: &BTreeMap<String, Node>, at: &str) -> Result<Option<Vec<VmClient>>> {
    let parse = |text: &str| match text {
        "*" => Some(VmClient::Any),
        "system" => Some(VmClient::System),
        id if is_guid(id) => Some(VmClient::User(id.to_ascii_lowercase())),
        _ => None,
    };
    list(map, "vmClientIds", at, "a client id (GUID), system or \"*\"", parse)
}

fn clouds(map: &BTreeMap<String, Node>, at: &str) -> Result<Option<Vec<String>>> {
    let names = cloud::canonical_names();
    let known = names.join(", ");
    let parse = |text: &str| {
        names.iter().find(|name| name.eq_ignore_ascii_case(text)).map(|name| (*name).to_owned())
    };
    list(map, "clouds", at, &known, parse)
}

fn choices<T: Copy>(
    map: &BTreeMap<String, Node>,
    key: &str,
    at: &str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<Option<Vec<T>>> {
    let known = all.iter().map(|choice| name(*choice)).collect::<Vec<_>>().join(", ");
    list(map, key, at, &known, |text| all.iter().copied().find(|choice| name(*choice) == text))
}

/// Patterns of letters, digits, `*`, `?` and these further characters.
fn globs(
    map: &BTreeMap<String, Node>,
    key: &str,
    at: &str,
    further: &str,
    case: Case,
) -> Result<Option<Vec<Glob>>> {
    let allowed = format!("{further}*?");
    let what =
        "a pattern of letters, digits, * and ?, and of dashes or dots where the name has them";
    list(map, key, at, what, |text| {
        (fits(text, &allowed) && text.len() <= MAX_PATTERN).then(|| Glob::new(text, case))
    })
}

/// A list of texts, none of it wrong; `None` when the key is not there. An empty list would allow
/// nothing, which is said in other words.
fn list<T>(
    map: &BTreeMap<String, Node>,
    key: &str,
    at: &str,
    what: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<Vec<T>>> {
    let at = format!("{at}.{key}");
    let items = match map.get(key) {
        None => return Ok(None),
        Some(Node::List(items)) if !items.is_empty() && items.len() <= MAX_LIST => items,
        Some(Node::List(_)) => {
            return Err(Error::class(format!("{at} has no entry, or more than {MAX_LIST}"))
                .fix("a rule that allows nothing has allow: none"));
        }
        Some(other) => return Err(expected(&at, "a list", other)),
    };
    let mut parsed = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let Node::Text(text) = item else { return Err(expected(&at, "a text", item)) };
        let item = parse(text).ok_or_else(|| {
            Error::class(format!("{at}: \"{}\" is not {what}", printable(text, QUOTED)))
        })?;
        parsed.push(item);
    }
    Ok(Some(parsed))
}

/// A number of bytes with its unit.
fn size(map: &BTreeMap<String, Node>, key: &str, at: &str) -> Result<Option<usize>> {
    let text = match map.get(key) {
        None => return Ok(None),
        Some(Node::Text(text)) => text.as_str(),
        Some(_) => "",
    };
    let units = [("KiB", 1024), ("MiB", 1024 * 1024)];
    units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .filter(|(number, _)| number.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|(number, factor)| number.parse::<usize>().ok()?.checked_mul(factor))
        .filter(|bytes| *bytes > 0)
        .map(Some)
        .ok_or_else(|| {
            Error::class(format!("{at}.{key} is not a size")).fix("for example 512KiB or 2MiB")
        })
}

/// A time with its units.
fn stale(map: &BTreeMap<String, Node>, key: &str, at: &str) -> Result<Option<Duration>> {
    let text = match map.get(key) {
        None => return Ok(None),
        Some(Node::Text(text)) => text.as_str(),
        Some(_) => "",
    };
    duration::parse(text).map(Some).map_err(|_| {
        Error::class(format!("{at}.{key} is not a duration")).fix("for example 30m, 24h, or 0s")
    })
}

fn fits(text: &str, further: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || further.contains(c))
}

/// A mapping that has no other keys than these.
fn map<'a>(node: &'a Node, at: &str, keys: &[&str]) -> Result<&'a BTreeMap<String, Node>> {
    let Node::Map(map) = node else { return Err(expected(at, "a mapping", node)) };
    match map.keys().find(|key| !keys.contains(&key.as_str())) {
        None => Ok(map),
        Some(key) => {
            let key = printable(key, QUOTED);
            Err(Error::class(format!("{at} has an unknown key {key}"))
                .fix(format!("known are: {}", keys.join(", "))))
        }
    }
}

fn word<'a>(map: &'a BTreeMap<String, Node>, key: &str) -> Option<&'a str> {
    match map.get(key) {
        Some(Node::Text(text)) => Some(text),
        _ => None,
    }
}

fn required<'a>(map: &'a BTreeMap<String, Node>, key: &str, at: &str) -> Result<&'a Node> {
    map.get(key).ok_or_else(|| missing(key, at))
}

fn missing(key: &str, at: &str) -> Error {
    let error = Error::class(format!("{at}.{key} is missing"));
    match key {
        "vmClientIds" => {
            error.fix("name the identities that may be used: [system], client ids, or [\"*\"]")
        }
        "namespaces" | "vaults" => error.fix(format!("for all of them write {key}: [\"*\"]")),
        "allow" => error.fix("allow: all, allow: none, or a mapping"),
        _ => error,
    }
}

fn expected(at: &str, what: &str, found: &Node) -> Error {
    let error = Error::class(format!("{at} is {}, not {what}", found.kind()));
    match found {
        Node::Scalar(_) => error.fix("put numbers, true and false in quotes"),
        Node::Text(text) if text == "*" => error.fix("write a list: [\"*\"]"),
        _ => error,
    }
}
