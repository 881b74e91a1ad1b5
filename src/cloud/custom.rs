//! A custom cloud's file: JSON with three addresses among much that we do not need.

use serde_json::Value;

use super::{ADFS, CUSTOM, Cloud};
use crate::class::json_error;
use crate::error::{Error, Result};

/// Reads the three addresses. Keys match in any case, as upstream's decoder has it.
pub(crate) fn parse(text: &[u8]) -> Result<Cloud> {
    let value: Value = serde_json::from_slice(text).map_err(|error| json_error(&error))?;
    let keys = value.as_object().ok_or_else(|| Error::class("not a JSON object"))?;
    let text = |key: &str| {
        let found = keys.iter().find(|(found, _)| found.eq_ignore_ascii_case(key));
        match found.map(|(_, value)| value) {
            None | Some(Value::Null) => Err(Error::class(format!("the key {key} is missing"))),
            Some(Value::String(text)) if text.trim().is_empty() => {
                Err(Error::class(format!("the key {key} is blank")))
            }
            Some(Value::String(text)) => Ok(text.trim()),
            Some(_) => Err(Error::class(format!("the value of {key} is not a string"))),
        }
    };
    Ok(Cloud {
        name: CUSTOM.to_owned(),
        authority: authority("activeDirectoryEndpoint", text("activeDirectoryEndpoint")?)?,
        vault_suffix: host("keyVaultDNSSuffix", text("keyVaultDNSSuffix")?)?,
        resource: endpoint("keyVaultEndpoint", text("keyVaultEndpoint")?)?,
        named: false,
    })
}

/// As [`endpoint`], or the address of an AD FS: the same with `/adfs`.
fn authority(key: &str, text: &str) -> Result<String> {
    let bare = text.strip_suffix('/').unwrap_or(text);
    let split = bare.len().saturating_sub(ADFS.len());
    match (bare.get(..split), bare.get(split..)) {
        (Some(host), Some(path)) if path.eq_ignore_ascii_case(ADFS) => {
            Ok(endpoint(key, host)? + ADFS)
        }
        _ => endpoint(key, text),
    }
}

/// `https://host[:port]`, with a slash at the end or without one.
fn endpoint(key: &str, text: &str) -> Result<String> {
    let rest = match text.get(..8) {
        Some(scheme) if scheme.eq_ignore_ascii_case("https://") => {
            text.get(8..).unwrap_or_default()
        }
        _ => {
            return Err(Error::class(format!("the value of {key} does not begin with https://")));
        }
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    Ok(format!("https://{}", host(key, rest)?))
}

/// `host[:port]` in lower case: user names, paths, queries and anything else that a URL could hide
/// do not fit into a host's characters.
fn host(key: &str, text: &str) -> Result<String> {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let port_ok = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if host.len() > 253 || !host.split('.').all(label) || !port_ok {
        return Err(Error::class(format!("the value of {key} is more or less than host[:port]"))
            .fix("no user name, path or query"));
    }
    Ok(text.to_ascii_lowercase())
}
