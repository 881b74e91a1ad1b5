//! JSON or YAML of which only the shape is known: text or not, under which key.
//!
//! serde's own errors quote the value they trip over, and everything here may hold a secret. So
//! nothing is ever refused while parsing except broken syntax: what is not text becomes the name of
//! its type, and whoever knows the key makes an error of it.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::Error;
use crate::secret::Secret;

/// Most keys of one object, and most bytes of its values (YAML's aliases repeat them for little).
/// Kubernetes' own limit on the whole object ends far below.
const MAX_KEYS: usize = 4096;
const MAX_BYTES: usize = 2 * 1024 * 1024;

/// A value that should be text.
#[derive(Debug)]
pub(super) enum Loose {
    /// Text; as secret as text can be.
    Text(Secret),
    /// `null`, or nothing.
    Null,
    /// Something else, by its type's name.
    Wrong(&'static str),
}

/// A value that should be an object of texts, in the order given, duplicates included.
#[derive(Debug)]
pub(super) enum LooseMap {
    /// Key and value.
    Map(Vec<(String, Loose)>),
    /// `null`, or nothing.
    Null,
    /// Something else, by its type's name.
    Wrong(&'static str),
    /// More keys than are kept.
    TooMany,
}

/// What both visitors make of numbers, booleans and nothing.
macro_rules! not_text {
    ($value:ident) => {
        fn visit_bool<E: de::Error>(self, _: bool) -> Result<$value, E> {
            Ok($value::Wrong("a boolean"))
        }
        fn visit_i64<E: de::Error>(self, _: i64) -> Result<$value, E> {
            Ok($value::Wrong("a number"))
        }
        fn visit_u64<E: de::Error>(self, _: u64) -> Result<$value, E> {
            Ok($value::Wrong("a number"))
        }
        fn visit_i128<E: de::Error>(self, _: i128) -> Result<$value, E> {
            Ok($value::Wrong("a number"))
        }
        fn visit_u128<E: de::Error>(self, _: u128) -> Result<$value, E> {
            Ok($value::Wrong("a number"))
        }
        fn visit_f64<E: de::Error>(self, _: f64) -> Result<$value, E> {
            Ok($value::Wrong("a number"))
        }
        fn visit_unit<E: de::Error>(self) -> Result<$value, E> {
            Ok($value::Null)
        }
        fn visit_none<E: de::Error>(self) -> Result<$value, E> {
            Ok($value::Null)
        }
    };
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl<'de> Visitor<'de> for Value {
            type Value = Loose;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Loose, E> {
                Ok(Loose::Text(Secret::from(text)))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Loose, E> {
                Ok(Loose::Text(Secret::from_string(text)))
            }
            not_text!(Loose);
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Loose, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Loose::Wrong("an array"))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Loose::Wrong("an object"))
            }
        }
        deserializer.deserialize_any(Value)
    }
}

impl<'de> Deserialize<'de> for LooseMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = LooseMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_str<E: de::Error>(self, _: &str) -> Result<LooseMap, E> {
                Ok(LooseMap::Wrong("a string"))
            }
            not_text!(LooseMap);
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<LooseMap, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(LooseMap::Wrong("an array"))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LooseMap, A::Error> {
                let mut entries = Vec::new();
                let mut bytes = 0;
                while let Some(key) = map.next_key::<String>()? {
                    if entries.len() == MAX_KEYS || bytes > MAX_BYTES {
                        map.next_value::<IgnoredAny>()?;
                        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                        return Ok(LooseMap::TooMany);
                    }
                    let value = map.next_value()?;
                    if let Loose::Text(text) = &value {
                        bytes += text.len();
                    }
                    entries.push((key, value));
                }
                Ok(LooseMap::Map(entries))
            }
        }
        deserializer.deserialize_any(Object)
    }
}

/// What is wrong with a JSON text, and where: never what it says.
pub(crate) fn json_error(error: &serde_json::Error) -> Error {
    let kind = match error.classify() {
        serde_json::error::Category::Eof => "unexpected end of JSON input",
        serde_json::error::Category::Data => "not a JSON object",
        _ => "not valid JSON",
    };
    Error::class(format!("{kind}, line {} column {}", error.line(), error.column()))
}
