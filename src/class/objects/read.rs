//! Reading YAML by what is wanted: keys once, scalars as they are spelt.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, Visitor};

use crate::error::{Error, Result, printable};

use super::super::yaml::{self, Bounds};

/// Why a visitor stopped. serde's error types take texts only, so ours travels beside them.
pub(super) type Why<'a> = &'a Cell<Option<Error>>;

pub(super) fn refuse<E: de::Error>(why: Why<'_>, error: Error) -> E {
    why.set(Some(error));
    E::custom("refused")
}

/// Reads the first document of a text.
pub(super) fn read<'de, S: DeserializeSeed<'de>>(
    text: &'de str,
    bounds: Bounds,
    why: Why<'_>,
    seed: S,
) -> Result<S::Value> {
    yaml::bounded(text, bounds)?;
    let document = serde_yaml::Deserializer::from_str(text).next();
    let document = document.ok_or_else(|| Error::class("yaml: no document"))?;
    seed.deserialize(document).map_err(|error| why.take().unwrap_or_else(|| yaml::syntax(&error)))
}

/// A mapping's key, once.
pub(super) struct Key<'a, 'seen> {
    pub(super) why: Why<'a>,
    pub(super) seen: &'seen mut HashSet<String>,
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        let key = Text.deserialize(deserializer)?;
        if self.seen.contains(&key) {
            let shown = printable(&key, 64);
            return Err(refuse(
                self.why,
                Error::class(format!("mapping key \"{shown}\" already defined"))
                    .fix("each object needs its own `- |`"),
            ));
        }
        self.seen.insert(key.clone());
        Ok(key)
    }
}

/// A scalar's literal text, whatever it looks like.
pub(super) struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Text {
    type Value = String;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

/// The scalars of a visitor that wants none of them.
macro_rules! scalars_are_wrong {
    ($method:ident, $value:ty) => {
        fn visit_bool<E: de::Error>(self, _: bool) -> Result<$value, E> {
            Err(self.$method("!!bool"))
        }
        fn visit_i64<E: de::Error>(self, _: i64) -> Result<$value, E> {
            Err(self.$method("!!int"))
        }
        fn visit_u64<E: de::Error>(self, _: u64) -> Result<$value, E> {
            Err(self.$method("!!int"))
        }
        fn visit_i128<E: de::Error>(self, _: i128) -> Result<$value, E> {
            Err(self.$method("!!int"))
        }
        fn visit_u128<E: de::Error>(self, _: u128) -> Result<$value, E> {
            Err(self.$method("!!int"))
        }
        fn visit_f64<E: de::Error>(self, _: f64) -> Result<$value, E> {
            Err(self.$method("!!float"))
        }
        fn visit_str<E: de::Error>(self, _: &str) -> Result<$value, E> {
            Err(self.$method("!!str"))
        }
    };
}
pub(super) use scalars_are_wrong;
