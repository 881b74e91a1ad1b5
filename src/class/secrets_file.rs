//! `--secrets-file`: what stands for nodePublishSecretRef outside a cluster.
//!
//! Either the Secret's manifest, or a directory as a Secret volume has it, with a file for each key
//! (clientid, and clientsecret or clientcertificate).
//! A file that group or others may read is refused: its mode is the only thing that guards it.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::error::{Error, Result, printable};
use crate::secret::{Secret, file};

use super::Secrets;
use super::loose::{Loose, LooseMap};
use super::yaml::{self, Bounds};

/// Largest file of a directory.
const MAX_VALUE: usize = 64 * 1024;
const SECRET: &str = "clientsecret";
const CERTIFICATE: &str = "clientcertificate";
const BOUNDS: Bounds = Bounds { openers: 4_096, indicators: 65_536 };
const QUOTED: usize = 64;

/// Reads a Secret manifest, or a directory with the file clientid and the file clientsecret or
/// clientcertificate.
///
/// # Errors
/// ClassInvalid when something cannot be read, is too large, open to others or not understood. The
/// error names the file and the key, never a value.
pub fn read(path: &Path) -> Result<Secrets> {
    let metadata = std::fs::metadata(path).map_err(|error| file::failed(path, &error))?;
    if !metadata.is_dir() {
        let text = file::read(path, yaml::MAX_TEXT)?;
        return manifest(&text).map_err(|error| error.context(path.display()));
    }
    let mut secrets = BTreeMap::new();
    // With neither, the error is about the secret.
    let credential = match path.join(CERTIFICATE).exists() && !path.join(SECRET).exists() {
        true => CERTIFICATE,
        false => SECRET,
    };
    for key in ["clientid", credential] {
        let text = file::read(&path.join(key), MAX_VALUE)?;
        if key == CERTIFICATE {
            // May be binary.
            secrets.insert(key.to_owned(), Secret::new(text.to_vec()));
            continue;
        }
        // Editors and `echo` end a file with a line end that is not part of the value.
        let value = text.strip_suffix(b"\n").unwrap_or(&text);
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        secrets.insert(key.to_owned(), Secret::new(value.to_vec()));
    }
    Ok(Secrets(secrets))
}

/// The one Secret among a manifest's documents. JSON is YAML too.
fn manifest(text: &[u8]) -> Result<Secrets> {
    let text = std::str::from_utf8(text).map_err(|_| Error::class("the file is not text"))?;
    yaml::bounded(text, BOUNDS)?;
    let mut found = None;
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let document = Option::<Document>::deserialize(document)
            .map_err(|error| yaml::syntax(&error).context(format!("document {index}")))?;
        let Some(document) = document else { continue };
        if !matches!(&document.kind, Loose::Text(kind) if kind.expose() == b"Secret") {
            continue;
        }
        if found.replace(document).is_some() {
            return Err(Error::class("the file has several Secrets")
                .fix("keep the one with clientid and clientsecret in a file of its own"));
        }
    }
    let document = found.ok_or_else(|| {
        Error::class("the file has no Secret").fix("it should be a manifest with kind: Secret")
    })?;
    let mut secrets = BTreeMap::new();
    for (key, value) in entries(document.data, "data")? {
        let value = decode(&value).ok_or_else(|| {
            Error::class(format!("data.{} is not base64", printable(&key, QUOTED)))
                .fix("plain values go into stringData")
        })?;
        secrets.insert(key, value);
    }
    // As in the cluster, stringData wins.
    secrets.extend(entries(document.string_data, "stringData")?);
    Ok(Secrets(secrets))
}

#[derive(Deserialize)]
struct Document {
    #[serde(default = "nothing")]
    kind: Loose,
    #[serde(default = "no_entries")]
    data: LooseMap,
    #[serde(default = "no_entries", rename = "stringData")]
    string_data: LooseMap,
}

fn nothing() -> Loose {
    Loose::Null
}

fn no_entries() -> LooseMap {
    LooseMap::Null
}

fn entries(map: LooseMap, field: &str) -> Result<Vec<(String, Secret)>> {
    let entries = match map {
        LooseMap::Map(entries) => entries,
        LooseMap::Null => Vec::new(),
        LooseMap::Wrong(kind) => {
            return Err(Error::class(format!("{field} is {kind}, not a mapping")));
        }
        LooseMap::TooMany => return Err(Error::class(format!("{field} has too many keys"))),
    };
    entries
        .into_iter()
        .map(|(key, value)| match value {
            Loose::Text(value) => Ok((key, value)),
            Loose::Null => Ok((key, Secret::default())),
            Loose::Wrong(kind) => Err(Error::class(format!(
                "{field}.{} is {kind}, not a string",
                printable(&key, QUOTED)
            ))
            .fix("quote the value")),
        })
        .collect()
}

fn decode(value: &Secret) -> Option<Secret> {
    // Manifests may wrap long lines.
    let compact: Zeroizing<Vec<u8>> = Zeroizing::new(
        value.expose().iter().copied().filter(|b| !b.is_ascii_whitespace()).collect(),
    );
    STANDARD.decode(compact.as_slice()).ok().map(Secret::new)
}

#[cfg(test)]
mod tests;
