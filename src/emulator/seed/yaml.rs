//! A seed from YAML. Errors name the place, never a value.

use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use crate::error::{Error, Result, printable};
use crate::secret::Secret;

use super::super::store::AccessModel;
use super::{CertificateSeed, KeySeed, SecretSeed, Seed, VAULT, VaultSeed};

const MAX_TEXT: usize = 8 * 1024 * 1024;

pub(super) fn parse(text: &str) -> Result<Seed> {
    if text.len() > MAX_TEXT {
        return Err(Error::class("the seed is larger than 8 MiB"));
    }
    let mut vaults = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let document = Value::deserialize(document).map_err(|error| {
            let place = error.location().map_or_else(String::new, |at| {
                format!(" at line {}, column {}", at.line(), at.column())
            });
            Error::class(format!("the seed is not YAML{place}"))
        })?;
        match document {
            Value::Null => {}
            document => vaults.push(vault(&document)?),
        }
    }
    if vaults.is_empty() {
        vaults.push(VaultSeed::new(VAULT));
    }
    Ok(Seed { vaults })
}

fn vault(document: &Value) -> Result<VaultSeed> {
    let map = mapping(document, "the document")?;
    known(map, "the document", &["vault", "access", "secrets", "keys", "certificates"])?;
    let name = match map.get("vault") {
        Some(name) => text(name, "vault")?,
        None => VAULT.to_owned(),
    };
    let mut vault = VaultSeed::new(&name);
    vault.access = match map.get("access").and_then(Value::as_str) {
        None if map.get("access").is_none() => AccessModel::default(),
        Some("rbac") => AccessModel::Rbac,
        Some("policy") => AccessModel::Policy,
        _ => return Err(wrong("access", "rbac or policy")),
    };
    for (name, value) in entries(map, "secrets")? {
        let versions = secret(value, &format!("secrets.{name}"))?;
        vault.secrets.insert(name, versions);
    }
    for (name, value) in entries(map, "keys")? {
        let at = format!("keys.{name}");
        vault.keys.insert(name, vec![(key(value, &at)?, true)]);
    }
    for (name, value) in entries(map, "certificates")? {
        let certificate = certificate(value, &format!("certificates.{name}"))?;
        vault.certificates.insert(name, certificate);
    }
    Ok(vault)
}

/// All versions, oldest first.
fn secret(value: &Value, at: &str) -> Result<Vec<SecretSeed>> {
    let Value::Mapping(map) = value else { return Ok(vec![version(value, at)?]) };
    let older = match map.get("versions") {
        None => &Vec::new(),
        Some(list) => {
            list.as_sequence().ok_or_else(|| wrong(&format!("{at}.versions"), "a list"))?
        }
    };
    let mut versions = Vec::new();
    for (index, value) in older.iter().enumerate() {
        versions.push(version(value, &format!("{at}.versions[{index}]"))?);
    }
    if map.contains_key("value") || versions.is_empty() {
        versions.push(version(value, at)?);
    }
    Ok(versions)
}

/// One version: a value, or a mapping.
fn version(value: &Value, at: &str) -> Result<SecretSeed> {
    let Value::Mapping(map) = value else {
        return Ok(SecretSeed::new(Secret::from_string(text(value, at)?)));
    };
    known(map, at, &["value", "versions", "contentType", "enabled", "expires", "notBefore"])?;
    let member = |name: &str| map.get(name).map(|value| (value, format!("{at}.{name}")));
    let time = |name: &str| match member(name) {
        None => Ok(None),
        Some((value, at)) => {
            value.as_i64().map(Some).ok_or_else(|| wrong(&at, "seconds since 1970"))
        }
    };
    let (value, value_at) =
        member("value").ok_or_else(|| wrong(&format!("{at}.value"), "there"))?;
    let mut seed = SecretSeed::new(Secret::from_string(text(value, &value_at)?));
    if let Some((value, at)) = member("contentType") {
        seed.content_type = Some(text(value, &at)?);
    }
    if let Some((value, at)) = member("enabled") {
        seed.enabled = value.as_bool().ok_or_else(|| wrong(&at, "true or false"))?;
    }
    seed.expires = time("expires")?;
    seed.not_before = time("notBefore")?;
    Ok(seed)
}

fn key(value: &Value, at: &str) -> Result<KeySeed> {
    match value.as_str() {
        Some("RSA") => Ok(KeySeed::Rsa),
        Some("P-256") => Ok(KeySeed::P256),
        Some("P-384") => Ok(KeySeed::P384),
        Some("P-521") => Ok(KeySeed::P521),
        _ => Err(wrong(at, "RSA, P-256, P-384 or P-521")),
    }
}

fn certificate(value: &Value, at: &str) -> Result<CertificateSeed> {
    let map = mapping(value, at)?;
    known(map, at, &["format", "key", "chain"])?;
    let pfx = match map.get("format").map(Value::as_str) {
        None | Some(Some("pem")) => false,
        Some(Some("pfx")) => true,
        Some(_) => return Err(wrong(&format!("{at}.format"), "pem or pfx")),
    };
    let key = match map.get("key") {
        None => KeySeed::P256,
        Some(value) => key(value, &format!("{at}.key"))?,
    };
    let chain = match map.get("chain").map(Value::as_bool) {
        None => true,
        Some(Some(chain)) => chain,
        Some(None) => return Err(wrong(&format!("{at}.chain"), "true or false")),
    };
    Ok(CertificateSeed { key, pfx, chain })
}

fn entries<'a>(map: &'a Mapping, section: &str) -> Result<Vec<(String, &'a Value)>> {
    match map.get(section) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(value) => mapping(value, section)?
            .iter()
            .map(|(name, value)| {
                let name = name.as_str().ok_or_else(|| wrong(section, "keyed by names"))?;
                Ok((printable(name, 128), value))
            })
            .collect(),
    }
}

/// A misspelt key would silently seed something else.
fn known(map: &Mapping, at: &str, names: &[&str]) -> Result<()> {
    match map.keys().find(|key| !key.as_str().is_some_and(|key| names.contains(&key))) {
        None => Ok(()),
        Some(_) => Err(Error::class(format!("the seed: {at} has an unknown key"))
            .fix(format!("known are: {}", names.join(", ")))),
    }
}

fn mapping<'a>(value: &'a Value, at: &str) -> Result<&'a Mapping> {
    value.as_mapping().ok_or_else(|| wrong(at, "a mapping"))
}

fn text(value: &Value, at: &str) -> Result<String> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| wrong(at, "text").fix("put numbers, true and false in quotes"))
}

fn wrong(at: &str, expected: &str) -> Error {
    Error::class(format!("the seed: {at} is not {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let seed = parse(
            "vault: first-kv\naccess: policy\nsecrets:\n  a: one\n  b: {versions: [x, {value: y, enabled: false}], value: z, expires: 5}\n\
             keys: {k: P-521}\ncertificates: {c: {format: pfx, key: RSA, chain: false}}\n---\nvault: second\n",
        )
        .unwrap();
        assert_eq!(seed.vaults.len(), 2);
        let vault = &seed.vaults[0];
        assert_eq!((vault.name.as_str(), vault.access), ("first-kv", AccessModel::Policy));
        let b = &vault.secrets["b"];
        let values: Vec<_> = b.iter().map(|version| version.value.expose_str().unwrap()).collect();
        assert_eq!(values, ["x", "y", "z"]);
        assert_eq!((b[1].enabled, b[2].enabled, b[2].expires), (false, true, Some(5)));
        assert_eq!(vault.keys["k"], [(KeySeed::P521, true)]);
        let expected = CertificateSeed { key: KeySeed::Rsa, pfx: true, chain: false };
        assert_eq!(vault.certificates["c"], expected);
        assert_eq!(parse("").unwrap().vaults[0].name, VAULT);
    }

    #[test]
    fn errors_name_the_place_and_never_the_value() {
        for (text, place) in [
            ("secrets: {a: {value: [canary]}}", "secrets.a.value is not text"),
            ("secrets: {a: 12345678}", "secrets.a is not text"),
            ("secrets: {a: {valu: canary}}", "secrets.a has an unknown key"),
            ("secrets: {a: {versions: canary}}", "secrets.a.versions is not a list"),
            ("secrets: {a: {value: x, expires: canary}}", "secrets.a.expires"),
            ("secrets: {a: {enabled: true}}", "secrets.a.value is not there"),
            ("secrets: [canary]", "secrets is not a mapping"),
            ("access: canary", "access is not rbac or policy"),
            ("keys: {k: canary}", "keys.k is not RSA"),
            ("certificates: {c: {format: canary}}", "certificates.c.format"),
            ("canary", "the document is not a mapping"),
            ("a: \"canary", "the seed is not YAML at line 1"),
        ] {
            let error = match parse(text) {
                Ok(_) => panic!("{text} was accepted"),
                Err(error) => format!("{error:?}"),
            };
            assert!(error.contains(place), "{text}: {error}");
            assert!(!error.contains("canary") && !error.contains("1234"), "{error}");
        }
    }
}
