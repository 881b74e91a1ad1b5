//! The pod's service account tokens: JSON, one entry for each audience of the CSIDriver object.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, Result};
use crate::secret::Secret;

use super::loose::{Loose, LooseMap, json_error};

/// Audience of workload identity.
pub(super) const WORKLOAD: &str = "api://AzureADTokenExchange";
/// Audience of AKS identity binding.
pub(super) const BINDING: &str = "api://AKSIdentityBinding";

/// The token for `audience`. Entries of other audiences are not looked into: a broken one is not
/// this mount's business.
///
/// # Errors
/// ClassInvalid when there is none, or when its entry cannot be understood. Expiry is not looked at:
/// only the token service's word about it counts.
pub(super) fn find(tokens: Option<&Secret>, audience: &'static str) -> Result<Secret> {
    let tokens = tokens.filter(|text| !text.expose().trim_ascii().is_empty()).ok_or_else(|| {
        Error::class("service account tokens not found").fix(format!(
            "the CSIDriver object must have a tokenRequests entry with the audience {audience}"
        ))
    })?;
    let unmarshal =
        |error: Error| error.context("failed to unmarshal service account tokens, error");
    let mut json = serde_json::Deserializer::from_slice(tokens.expose());
    let entry = Audience(audience)
        .deserialize(&mut json)
        .and_then(|entry| json.end().map(|()| entry))
        .map_err(|error| unmarshal(json_error(&error)))?;
    let not_found = || {
        Error::class(format!("token for audience {audience} not found"))
            .fix("add the audience to the CSIDriver object's tokenRequests")
    };
    let entries = match entry {
        Found::Nothing | Found::Entry(LooseMap::Null) => return Err(not_found()),
        Found::Entry(LooseMap::Map(entries)) => entries,
        Found::Entry(LooseMap::Wrong(_) | LooseMap::TooMany) => {
            return Err(unmarshal(Error::class(format!(
                "the entry of {audience} is not an object with a token"
            ))));
        }
    };
    let mut token = Secret::default();
    for (key, value) in entries {
        if key.eq_ignore_ascii_case("token") {
            match value {
                Loose::Text(text) => token = text,
                Loose::Null => {}
                Loose::Wrong(kind) => {
                    return Err(unmarshal(Error::class(format!(
                        "the token is {kind}, not a string"
                    ))));
                }
            }
        } else if key.eq_ignore_ascii_case("expirationTimestamp") && !is_time(&value) {
            return Err(unmarshal(Error::class(
                "the expirationTimestamp is not a time (RFC 3339)",
            )));
        }
    }
    if token.is_empty() { Err(not_found()) } else { Ok(token) }
}

fn is_time(value: &Loose) -> bool {
    match value {
        Loose::Null => true,
        Loose::Text(text) => {
            text.expose_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok())
        }
        Loose::Wrong(_) => false,
    }
}

/// What the tokens hold for an audience.
enum Found {
    Entry(LooseMap),
    Nothing,
}

/// Finds one audience's entry without keeping the others.
struct Audience(&'static str);

impl<'de> DeserializeSeed<'de> for Audience {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Audience {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Found, E> {
        Ok(Found::Nothing)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::Nothing;
        while let Some(key) = map.next_key::<String>()? {
            if key == self.0 {
                found = Found::Entry(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}
