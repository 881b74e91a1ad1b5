//! Zeroizing bytes for everything that must never be shown.
//!
//! Values, tokens, assertions, client secrets and private keys travel only as [`Secret`]. The type
//! has no `Display` and no `Serialize`, its `Debug` prints neither content nor length, and its
//! memory is wiped on drop. Reading the bytes is spelled `expose`, so that a reviewer can search
//! for every place that does it. Copies made below us (the TLS and HTTP stacks, the JSON parser's
//! scratch space, the kernel) cannot be wiped from here; docs/THREAT-MODEL.md lists them.

pub(crate) mod file;

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use zeroize::Zeroizing;

/// Bytes that are wiped on drop and never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes ownership of the bytes; the caller's buffer becomes the secret's buffer, no copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Takes ownership of the text.
    pub fn from_string(text: String) -> Self {
        Self::new(text.into_bytes())
    }

    /// The bytes. Whatever is done with them must not reach logs, errors, metrics or argv.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, or `None` when they are not UTF-8 (std's error would quote positions only,
    /// but callers name the object instead).
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Length in bytes. A length is not shown to users either; it is for budgets and file sizes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::from_string(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// Accepts a string only. The error names the expected type and never quotes the input: a
    /// visitor's default "invalid type" text would show numbers and booleans verbatim.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret::from(text))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Secret, E> {
                Ok(Secret::from_string(text))
            }
        }
        deserializer.deserialize_string(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_content_nor_length() {
        let secret = Secret::from("canary");
        assert_eq!(format!("{secret:?}"), "Secret(***)");
        assert_eq!(format!("{:?}", Secret::default()), "Secret(***)");
    }

    #[test]
    fn deserializes_strings_only() {
        let secret: Secret = serde_json::from_str("\"a\\u00e9\"").unwrap();
        assert_eq!(secret.expose_str(), Some("a\u{e9}"));
        assert!(serde_json::from_str::<Secret>("7").is_err());
    }
}
