//! One item of `array`, which is YAML again: a mapping of the object's keys.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, printable};

use super::read::{Key, Text, Why, refuse, scalars_are_wrong};

/// The keys that take text.
const TEXTS: [&str; 7] = [
    "objectName",
    "objectAlias",
    "objectType",
    "objectVersion",
    "objectFormat",
    "objectEncoding",
    "filePermission",
];
/// The key that takes an integer.
const HISTORY: &str = "objectVersionHistory";

/// One entry as it is spelt.
#[derive(Default)]
pub(super) struct RawObject {
    texts: BTreeMap<&'static str, String>,
    history: Option<i64>,
    /// Unknown keys that are known ones in another case, with the right spelling.
    pub(super) misspelt: Vec<(String, &'static str)>,
}

impl RawObject {
    /// A text, trimmed; blank when it is not there.
    pub(super) fn text(&self, key: &str) -> &str {
        self.texts.get(key).map_or("", |text| text.trim())
    }

    /// `objectVersionHistory`; 0 when it is not there.
    pub(super) fn history(&self) -> i64 {
        self.history.unwrap_or(0)
    }
}

pub(super) struct EntrySeed<'a> {
    pub(super) why: Why<'a>,
    /// Whether this mapping is merged into another, which may not go on for ever.
    pub(super) merged: bool,
}

impl<'de> DeserializeSeed<'de> for EntrySeed<'_> {
    type Value = RawObject;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawObject, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl EntrySeed<'_> {
    fn not_a_map<E: de::Error>(self, kind: &str) -> E {
        refuse(
            self.why,
            Error::class(format!("cannot unmarshal {kind} into an object"))
                .fix("each item holds the object's keys, objectName: NAME and so on"),
        )
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = RawObject;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the keys of an object")
    }
    fn visit_unit<E: de::Error>(self) -> Result<RawObject, E> {
        Ok(RawObject::default())
    }
    fn visit_none<E: de::Error>(self) -> Result<RawObject, E> {
        Ok(RawObject::default())
    }
    scalars_are_wrong!(not_a_map, RawObject);
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<RawObject, A::Error> {
        Err(self.not_a_map("!!seq"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawObject, A::Error> {
        let why = self.why;
        let mut raw = RawObject::default();
        let mut defaults = RawObject::default();
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key_seed(Key { why, seen: &mut seen })? {
            if let Some(known) = TEXTS.into_iter().find(|known| *known == key) {
                let text =
                    map.next_value_seed(Field).map_err(|error| wrong_field(why, known, error))?;
                raw.texts.insert(known, text);
            } else if key == HISTORY {
                raw.history = map.next_value_seed(HistorySeed(why))?;
            } else if key == "<<" {
                if self.merged {
                    return Err(refuse(why, Error::class("merge keys (<<) are nested too deeply")));
                }
                defaults = map.next_value_seed(EntrySeed { why, merged: true })?;
            } else {
                map.next_value::<IgnoredAny>()?;
                let known = TEXTS.into_iter().chain([HISTORY]);
                if let Some(known) =
                    known.into_iter().find(|known| known.eq_ignore_ascii_case(&key))
                {
                    raw.misspelt.push((printable(&key, 64), known));
                }
            }
        }
        for (key, text) in defaults.texts {
            raw.texts.entry(key).or_insert(text);
        }
        raw.history = raw.history.or(defaults.history);
        Ok(raw)
    }
}

/// Names the key whose value is a collection. Broken syntax inside a value keeps its place instead.
fn wrong_field<E: de::Error>(why: Why<'_>, key: &str, error: E) -> E {
    let text = error.to_string();
    let kind = if text.contains("invalid type: map") {
        "!!map"
    } else if text.contains("invalid type: sequence") {
        "!!seq"
    } else {
        return error;
    };
    refuse(
        why,
        Error::class(format!("{key}: cannot unmarshal {kind} into string"))
            .fix(format!("{key} takes one text")),
    )
}

/// A text or nothing.
struct Field;

impl<'de> DeserializeSeed<'de> for Field {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Field {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }
    fn visit_none<E: de::Error>(self) -> Result<String, E> {
        Ok(String::new())
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        Text.deserialize(deserializer)
    }
}

/// An integer node, not a text that looks like one.
struct HistorySeed<'a>(Why<'a>);

impl<'de> DeserializeSeed<'de> for HistorySeed<'_> {
    type Value = Option<i64>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<i64>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl HistorySeed<'_> {
    fn wrong<E: de::Error>(self, kind: &str) -> E {
        refuse(
            self.0,
            Error::class(format!("{HISTORY}: cannot unmarshal {kind} into int32"))
                .fix("write a plain number without quotes, such as 5"),
        )
    }
}

impl<'de> Visitor<'de> for HistorySeed<'_> {
    type Value = Option<i64>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Option<i64>, E> {
        Ok(None)
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Option<i64>, E> {
        Ok(Some(value))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Option<i64>, E> {
        // Far above the bound is as wrong as just above it.
        Ok(Some(i64::try_from(value).unwrap_or(i64::MAX)))
    }
    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Option<i64>, E> {
        Ok(Some(i64::MAX))
    }
    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Option<i64>, E> {
        Ok(Some(i64::MIN))
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Option<i64>, E> {
        Err(self.wrong("!!bool"))
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Option<i64>, E> {
        Err(self.wrong("!!float"))
    }
    fn visit_str<E: de::Error>(self, _: &str) -> Result<Option<i64>, E> {
        Err(self.wrong("!!str"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Option<i64>, A::Error> {
        Err(self.wrong("!!seq"))
    }
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Option<i64>, A::Error> {
        Err(self.wrong("!!map"))
    }
}
