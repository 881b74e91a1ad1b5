//! The bounds and error texts that every YAML text of this crate shares.
//!
//! libyaml's work is quadratic in the nesting of flow collections, and its events are far larger
//! than the characters they come from: both are bounded before the parser sees the text. Recursion
//! and alias expansion are bounded by serde_yaml itself.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};

/// Longest YAML text, in bytes.
pub(crate) const MAX_TEXT: usize = 1024 * 1024;

/// What a text may contain.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// `[` and `{`: no nesting is deeper than there are of them.
    pub(crate) openers: usize,
    /// Characters that may begin a node: no text has more than a few events for each.
    pub(crate) indicators: usize,
}

/// Refuses a text that would cost much more to parse than a class can be worth.
pub(super) fn bounded(text: &str, bounds: Bounds) -> Result<()> {
    if text.len() > MAX_TEXT {
        return Err(Error::class("the YAML is larger than 1 MiB"));
    }
    let (mut openers, mut indicators) = (0, 0);
    let mut bytes = text.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                openers += 1;
                indicators += 1;
            }
            b'\n' | b'\r' | b',' | b':' | b'?' => indicators += 1,
            b'-' if bytes.peek().is_none_or(|next| !next.is_ascii_graphic()) => indicators += 1,
            // The first byte of NEL, LS and PS, which YAML counts as line ends.
            0xc2 | 0xe2 => indicators += 1,
            _ => {}
        }
    }
    if openers > bounds.openers || indicators > bounds.indicators {
        return Err(Error::class("the YAML has too many nodes"));
    }
    Ok(())
}

/// Where a YAML text is wrong; never what it says there, which serde_yaml's own text may quote.
pub(super) fn syntax(error: &serde_yaml::Error) -> Error {
    match error.location() {
        Some(at) => {
            Error::class(format!("yaml: not valid here, line {} column {}", at.line(), at.column()))
        }
        None => Error::class("yaml: not valid, or ends too early"),
    }
}

/// A document of a manifest, as far as a manifest's meaning goes.
#[derive(Debug)]
pub(crate) enum Node {
    Null,
    Text(String),
    /// `a boolean` or `a number`.
    Scalar(&'static str),
    List(Vec<Node>),
    Map(BTreeMap<String, Node>),
}

impl Node {
    /// The value under a key of a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Node::Map(entries) => entries.get(key),
            _ => None,
        }
    }

    /// The text under a key of a mapping; blank when there is none.
    pub(super) fn text(&self, key: &str) -> &str {
        match self.get(key) {
            Some(Node::Text(text)) => text,
            _ => "",
        }
    }

    /// The name of its type, with the article.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Node::Null => "nothing",
            Node::Text(_) => "a string",
            Node::Scalar(kind) => kind,
            Node::List(_) => "a list",
            Node::Map(_) => "a mapping",
        }
    }
}

/// Every document of a text. Aliases are expanded, so what they may grow to is bounded too.
pub(crate) fn documents(text: &str, bounds: Bounds) -> Result<Vec<Node>> {
    bounded(text, bounds)?;
    let budget = Budget { left: Cell::new(4 * MAX_TEXT), why: Cell::new(None) };
    let mut documents = Vec::new();
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let node = NodeSeed(&budget).deserialize(document).map_err(|error| {
            let problem = syntax(&error);
            let problem = match budget.why.take() {
                Some(why) => problem.context(why),
                None => problem,
            };
            problem.context(format!("document {index}"))
        })?;
        documents.push(node);
    }
    Ok(documents)
}

struct Budget {
    left: Cell<usize>,
    why: Cell<Option<&'static str>>,
}

impl Budget {
    fn refuse<E: de::Error>(&self, why: &'static str) -> E {
        self.why.set(Some(why));
        E::custom(why)
    }

    fn take<E: de::Error>(&self, bytes: usize) -> std::result::Result<(), E> {
        let left = self.left.get().checked_sub(bytes);
        self.left.set(left.ok_or_else(|| self.refuse("its aliases expand to too much"))?);
        Ok(())
    }
}

struct NodeSeed<'a>(&'a Budget);

impl NodeSeed<'_> {
    fn scalar<E: de::Error>(&self, kind: &'static str) -> std::result::Result<Node, E> {
        self.0.take(size_of::<Node>())?;
        Ok(Node::Scalar(kind))
    }
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;
    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> std::result::Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML without tags")
    }
    fn visit_unit<E: de::Error>(self) -> std::result::Result<Node, E> {
        self.0.take(size_of::<Node>())?;
        Ok(Node::Null)
    }
    fn visit_none<E: de::Error>(self) -> std::result::Result<Node, E> {
        self.visit_unit()
    }
    fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Node, E> {
        self.0.take(size_of::<Node>() + text.len())?;
        Ok(Node::Text(text.to_owned()))
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> std::result::Result<Node, E> {
        self.scalar("a boolean")
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> std::result::Result<Node, E> {
        self.scalar("a number")
    }
    fn visit_u64<E: de::Error>(self, _: u64) -> std::result::Result<Node, E> {
        self.scalar("a number")
    }
    fn visit_i128<E: de::Error>(self, _: i128) -> std::result::Result<Node, E> {
        self.scalar("a number")
    }
    fn visit_u128<E: de::Error>(self, _: u128) -> std::result::Result<Node, E> {
        self.scalar("a number")
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> std::result::Result<Node, E> {
        self.scalar("a number")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(NodeSeed(self.0))? {
            items.push(item);
        }
        Ok(Node::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Node, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            self.0.take(key.len())?;
            if entries.contains_key(&key) {
                return Err(self.0.refuse("a key stands there twice"));
            }
            entries.insert(key, map.next_value_seed(NodeSeed(self.0))?);
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_and_nodes_are_bounded_before_parsing() {
        let bounds = Bounds { openers: 3, indicators: 10 };
        assert!(bounded("[[[a]]]", bounds).is_ok());
        assert!(bounded("[\"]\",[\"]\",[\"]\",[a", bounds).is_err());
        assert!(bounded("a-b-c-d-e-f-g-h-i-j-k-l", bounds).is_ok());
        assert!(bounded(&"- ".repeat(11), bounds).is_err());
        assert!(bounded(&"a\u{85}".repeat(11), bounds).is_err());
        assert!(bounded(&"x".repeat(MAX_TEXT + 1), bounds).is_err());
    }

    #[test]
    fn documents_are_read_and_aliases_bounded() {
        let bounds = Bounds { openers: 100, indicators: 10_000 };
        let nodes = documents("a: 0755\nb: [1, true, ~]\n---\n---\nc: x\n", bounds).unwrap();
        assert_eq!(nodes.len(), 3);
        assert_eq!(nodes[0].text("a"), "0755");
        assert_eq!(nodes[1].kind(), "nothing");
        assert_eq!(nodes[2].text("c"), "x");
        let bomb = format!("a: &a {}\nb: [{}]", "x".repeat(100_000), "*a,".repeat(60));
        let error = documents(&bomb, bounds).unwrap_err();
        assert!(error.message().contains("aliases expand to too much"), "{error}");
        let mut laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (now, before) in ('b'..='i').zip('a'..='h') {
            laughs.push_str(&format!("{now}: &{now} [{}]\n", format!("*{before},").repeat(9)));
        }
        assert!(documents(&laughs, bounds).is_err());
        let error = documents("a: 1\na: 2", bounds).unwrap_err();
        assert!(error.message().contains("a key stands there twice"), "{error}");
        assert!(documents("a: &a [*a]", bounds).is_err());
    }
}
