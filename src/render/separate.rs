//! Certificate and key in files of their own: the PEM blocks of a text, sorted by what they hold.
//!
//! Blocks are found as upstream's parser finds them: text around them, and what only looks like one,
//! is left out, and what is left is written anew. A text without any block gives no file.

use zeroize::Zeroizing;

use super::{encoding, pem};
use crate::secret::Secret;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// The certificates of a PEM text, and every other block of it; neither is ever empty.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) certificates: Option<Secret>,
    pub(super) rest: Option<Secret>,
}

pub(super) fn split(text: &Secret) -> Parts {
    // Base64 is ASCII, so text of another encoding has no block worth keeping.
    let Some(text) = text.expose_str() else { return Parts::default() };
    let (mut certificates, mut rest) = (Vec::new(), Vec::new());
    for block in blocks(text) {
        let Some(written) = written(&block) else { continue };
        match block.label {
            pem::CERTIFICATE => certificates.push(written),
            _ => rest.push(written),
        }
    }
    Parts { certificates: joined(&certificates), rest: joined(&rest) }
}

/// What stands between two lines of one label.
struct Block<'a> {
    label: &'a str,
    body: &'a str,
}

/// One pass over the lines, since anyone who writes to the vault chooses their number: a new beginning
/// ends the block before it, and an end of another label both.
fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, usize)> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let line = line.trim_end();
        if let Some(label) = label(line, BEGIN) {
            open = Some((label, at));
        } else if line.starts_with(END)
            && let Some((begun, body)) = open.take()
            && label(line, END) == Some(begun)
        {
            blocks.push(Block { label: begun, body: text.get(body..start).unwrap_or_default() });
        }
    }
    blocks
}

fn label<'a>(line: &'a str, prefix: &str) -> Option<&'a str> {
    line.strip_prefix(prefix)?.strip_suffix(DASHES)
}

/// The block in the one form that we write; `None` for what is no block after all.
fn written(block: &Block<'_>) -> Option<Secret> {
    if block.body.contains(':') {
        // Headers belong to a key that is encrypted in the old way; they stay with it.
        return Some(copied(block));
    }
    let spaceless = block.body.bytes().filter(|byte| !matches!(byte, b' ' | b'\t'));
    let mut symbols = Zeroizing::new(Vec::with_capacity(block.body.len()));
    symbols.extend(spaceless);
    match encoding::base64(&symbols) {
        // A label that cannot be written is none.
        Ok(der) if !der.is_empty() => pem::encode(&[(block.label, &der)]).ok(),
        _ => None,
    }
}

fn copied(block: &Block<'_>) -> Secret {
    let Block { label, body } = block;
    let mut text = Vec::with_capacity(body.len() + 2 * (label.len() + 20));
    let mut push = |part: &str| text.extend(part.bytes().filter(|byte| *byte != b'\r'));
    for part in [BEGIN, label, DASHES, "\n", body, END, label, DASHES, "\n"] {
        push(part);
    }
    Secret::new(text)
}

fn joined(parts: &[Secret]) -> Option<Secret> {
    if parts.is_empty() {
        return None;
    }
    let mut text = Vec::with_capacity(parts.iter().map(Secret::len).sum());
    parts.iter().for_each(|part| text.extend_from_slice(part.expose()));
    Some(Secret::new(text))
}
