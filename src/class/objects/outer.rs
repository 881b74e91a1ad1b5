//! The outer text of `objects`: a mapping whose key `array` lists texts.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, printable};

use super::super::yaml;
use super::read::{Key, Why, refuse, scalars_are_wrong};
use super::{MAX_OBJECTS, too_many};

/// The outer text.
#[derive(Default)]
pub(super) struct Outer {
    pub(super) items: Vec<Item>,
    has_array: bool,
    /// A key that is `array` in another case, or any other unknown one.
    stray: Option<String>,
}

/// An item of `array` that is no error yet: any text (or number) will be read as YAML.
pub(super) enum Item {
    Text(String),
    Empty,
}

impl Outer {
    pub(super) fn likely_mistake(&self) -> String {
        match &self.stray {
            _ if self.has_array => "array is empty".to_owned(),
            Some(key) if key.eq_ignore_ascii_case("array") => {
                format!("keys are case-sensitive, spell it array, not {}", printable(key, 64))
            }
            Some(key) => format!("it has no key array, but {}", printable(key, 64)),
            None => "it has no key array".to_owned(),
        }
    }
}

pub(super) struct OuterSeed<'a>(pub(super) Why<'a>);

impl<'de> DeserializeSeed<'de> for OuterSeed<'_> {
    type Value = Outer;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Outer, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl OuterSeed<'_> {
    fn not_a_map<E: de::Error>(self, kind: &str) -> E {
        refuse(
            self.0,
            Error::class(format!("cannot unmarshal {kind} into the objects mapping"))
                .fix("objects is YAML text that begins with array: and lists the objects below it"),
        )
    }
}

impl<'de> Visitor<'de> for OuterSeed<'_> {
    type Value = Outer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping with the key array")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Outer, E> {
        Ok(Outer::default())
    }
    fn visit_none<E: de::Error>(self) -> Result<Outer, E> {
        Ok(Outer::default())
    }
    scalars_are_wrong!(not_a_map, Outer);
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Outer, A::Error> {
        Err(self.not_a_map("!!seq"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Outer, A::Error> {
        let mut outer = Outer::default();
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key_seed(Key { why: self.0, seen: &mut seen })? {
            if key == "array" {
                outer.has_array = true;
                outer.items = map.next_value_seed(ItemsSeed(self.0))?;
            } else if key == "<<" {
                return Err(refuse(
                    self.0,
                    Error::class("merge keys (<<) are not supported beside array")
                        .fix("write array out"),
                ));
            } else {
                map.next_value::<IgnoredAny>()?;
                // The nearest miss explains most.
                if outer.stray.is_none() || key.eq_ignore_ascii_case("array") {
                    outer.stray = Some(key);
                }
            }
        }
        Ok(outer)
    }
}

/// The list of texts.
struct ItemsSeed<'a>(Why<'a>);

impl<'de> DeserializeSeed<'de> for ItemsSeed<'_> {
    type Value = Vec<Item>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Item>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl ItemsSeed<'_> {
    fn not_a_list<E: de::Error>(self, kind: &str) -> E {
        refuse(
            self.0,
            Error::class(format!("array: cannot unmarshal {kind} into []string"))
                .fix("array is a list: each object begins with `- |`"),
        )
    }
}

impl<'de> Visitor<'de> for ItemsSeed<'_> {
    type Value = Vec<Item>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of texts")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Vec<Item>, E> {
        Ok(Vec::new())
    }
    fn visit_none<E: de::Error>(self) -> Result<Vec<Item>, E> {
        Ok(Vec::new())
    }
    scalars_are_wrong!(not_a_list, Vec<Item>);
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Vec<Item>, A::Error> {
        Err(self.not_a_list("!!map"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Item>, A::Error> {
        let mut items = Vec::new();
        // An alias costs two bytes and gives the whole text again.
        let mut bytes = 0;
        while let Some(item) =
            seq.next_element_seed(ItemSeed { why: self.0, index: items.len() })?
        {
            if items.len() == MAX_OBJECTS {
                return Err(refuse(self.0, too_many()));
            }
            if let Item::Text(text) = &item {
                bytes += text.len();
            }
            if bytes > yaml::MAX_TEXT {
                return Err(refuse(self.0, Error::class("array holds more than 1 MiB of text")));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// One item of the list.
struct ItemSeed<'a> {
    why: Why<'a>,
    index: usize,
}

impl<'de> DeserializeSeed<'de> for ItemSeed<'_> {
    type Value = Item;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Item, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl ItemSeed<'_> {
    fn not_a_text<E: de::Error>(self, kind: &str) -> E {
        refuse(
            self.why,
            Error::class(format!("array[{}]: cannot unmarshal {kind} into string", self.index))
                .fix("each array item needs `|`: write `- |` and the object's keys below it"),
        )
    }
}

impl<'de> Visitor<'de> for ItemSeed<'_> {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Item, E> {
        Ok(Item::Empty)
    }
    fn visit_none<E: de::Error>(self) -> Result<Item, E> {
        Ok(Item::Empty)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Item, E> {
        Ok(Item::Text(text.to_owned()))
    }
    // A number or boolean is a text that turns out to be no mapping: the entry's error, not ours.
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Item, E> {
        Ok(Item::Text(value.to_string()))
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Item, E> {
        Ok(Item::Text(value.to_string()))
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Item, E> {
        Ok(Item::Text(value.to_string()))
    }
    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Item, E> {
        Ok(Item::Text(value.to_string()))
    }
    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Item, E> {
        Ok(Item::Text(value.to_string()))
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Item, E> {
        Ok(Item::Text(format!("{value:?}")))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Item, A::Error> {
        Err(self.not_a_text("!!seq"))
    }
    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Item, A::Error> {
        Err(self.not_a_text("!!map"))
    }
}
