//! From an entry's texts to an [`ObjectSpec`]: format, encoding, file name, then what upstream finds
//! out only from the vault. No request is made for a class with a wrong entry.

use crate::error::{Error, Result, printable};

use super::entry::RawObject;
use crate::class::paths::{self, FilePath, Rules};
use crate::class::{Encoding, Format, MAX_MODE, ObjectKind, ObjectName, ObjectSpec, Version};

/// Most versions of an `objectVersionHistory`.
const MAX_HISTORY: i64 = 100;
/// Most of a raw text that an error quotes.
const QUOTED: usize = 128;

/// Checks one entry.
pub(super) fn check(
    index: usize,
    raw: &RawObject,
    default_mode: u32,
    rules: Rules,
) -> Result<ObjectSpec> {
    // The key comes after the cause: users search for prefix and cause in one piece.
    let at = |key: &'static str| {
        move |error: Error| {
            let fix = error.likely_fix().map(str::to_owned);
            let error = Error::class(format!(
                "failed to get objectType:{}, objectName:{}, objectVersion:{}: {}, at array[{index}].{key}",
                printable(raw.text("objectType"), QUOTED),
                printable(raw.text("objectName"), QUOTED),
                printable(raw.text("objectVersion"), QUOTED),
                error.message()
            ));
            match fix {
                Some(fix) => error.fix(fix),
                None => error,
            }
        }
    };
    let kind = raw.text("objectType");
    let format = format(raw.text("objectFormat"), kind).map_err(at("objectFormat"))?;
    let encoding = encoding(raw.text("objectEncoding"), kind).map_err(at("objectEncoding"))?;
    let (name, alias) = (raw.text("objectName"), raw.text("objectAlias"));
    let (file, key) = if alias.is_empty() { (name, "objectName") } else { (alias, "objectAlias") };
    let history = raw.history();
    let path = path(file, history, rules)
        .map_err(|error| misspelt(error, raw, "objectName"))
        .map_err(at(key))?;
    let kind = object_kind(kind)
        .map_err(|error| misspelt(error, raw, "objectType"))
        .map_err(at("objectType"))?;
    let name = ObjectName::parse(name)
        .map_err(|error| misspelt(error, raw, "objectName"))
        .map_err(at("objectName"))?;
    let version = Version::parse(raw.text("objectVersion")).map_err(at("objectVersion"))?;
    let history = versions(history).map_err(at("objectVersionHistory"))?;
    let mode = mode(raw.text("filePermission"), default_mode).map_err(at("filePermission"))?;
    Ok(ObjectSpec {
        index,
        kind,
        name,
        version,
        history,
        position: None,
        path,
        format,
        encoding,
        mode,
    })
}

/// A blank text may stand under the same key in another case.
fn misspelt(error: Error, raw: &RawObject, key: &str) -> Error {
    match raw.misspelt.iter().find(|(_, known)| *known == key && raw.text(key).is_empty()) {
        Some((found, known)) => {
            error.fix(format!("keys are case-sensitive: spell it {known}, not {found}"))
        }
        None => error,
    }
}

fn format(text: &str, kind: &str) -> Result<Format> {
    match text.to_ascii_lowercase().as_str() {
        "" | "pem" => Ok(Format::Pem),
        "pfx" if kind == ObjectKind::Secret.as_str() => Ok(Format::Pfx),
        "pfx" => Err(Error::class("PFX format only supported for objectType: secret")
            .fix("a certificate with its key is fetched as objectType: secret")),
        _ => Err(Error::class(format!(
            "invalid objectFormat: {}, should be PEM or PFX",
            printable(text, QUOTED)
        ))),
    }
}

fn encoding(text: &str, kind: &str) -> Result<Encoding> {
    if !text.is_empty() && kind != ObjectKind::Secret.as_str() {
        return Err(Error::class("objectEncoding only supported for objectType: secret"));
    }
    match text.to_ascii_lowercase().as_str() {
        "" | "utf-8" => Ok(Encoding::Utf8),
        "base64" => Ok(Encoding::Base64),
        "hex" => Ok(Encoding::Hex),
        _ => Err(Error::class(format!(
            "invalid objectEncoding: {}, should be hex, base64 or utf-8",
            printable(text, QUOTED)
        ))),
    }
}

/// The file, or the directory of a history, whose last file must fit too.
fn path(text: &str, history: i64, rules: Rules) -> Result<FilePath> {
    if history <= 1 {
        return FilePath::parse_with(text, rules);
    }
    let directory = FilePath::parse_with(&paths::joined(text), rules)?;
    FilePath::parse_with(&format!("{directory}/{MAX_HISTORY}"), rules)?;
    Ok(directory)
}

fn object_kind(text: &str) -> Result<ObjectKind> {
    match text {
        "secret" => Ok(ObjectKind::Secret),
        "key" => Ok(ObjectKind::Key),
        "cert" => Ok(ObjectKind::Certificate),
        _ => {
            let fix = match text.to_ascii_lowercase().as_str() {
                "secret" | "secrets" => "write objectType: secret",
                "key" | "keys" => "write objectType: key",
                "cert" | "certs" | "certificate" | "certificates" => "write objectType: cert",
                "" => "add objectType: secret, key or cert",
                _ => "objectType is secret, key or cert, in lower case",
            };
            Err(Error::class("Invalid vaultObjectTypes. Should be secret, key, or cert").fix(fix))
        }
    }
}

/// How many versions are wanted; one when no history is.
fn versions(history: i64) -> Result<u32> {
    if history > MAX_HISTORY {
        return Err(Error::class(format!("objectVersionHistory is above {MAX_HISTORY}")));
    }
    Ok(u32::try_from(history).unwrap_or(1).max(1))
}

/// Octal digits only: upstream makes a mode of 0 of anything else.
fn mode(text: &str, default: u32) -> Result<u32> {
    if text.is_empty() {
        return Ok(default);
    }
    let digits = text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if digits && mode <= MAX_MODE => Ok(mode),
        _ => Err(Error::class(format!(
            "invalid filePermission: {}, should be octal digits, at most 0777",
            printable(text, QUOTED)
        ))
        .fix("for example 0400")),
    }
}
