//! `objectEncoding`: how a secret's text encodes the bytes of its file.

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, DecodeSliceError, Engine, alphabet};
use zeroize::Zeroizing;

use super::bad;
use crate::class::Encoding;
use crate::error::{Error, Result};
use crate::secret::Secret;

/// Standard alphabet, padding required; like upstream's decoder it ignores the unused bits of the
/// last symbol.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The file's bytes.
pub(super) fn decode(encoding: Encoding, text: Secret) -> Result<Secret> {
    match encoding {
        Encoding::Utf8 => Ok(text),
        Encoding::Base64 => Ok(into_secret(base64(text.expose())?)),
        Encoding::Hex => Ok(into_secret(hex(text.expose())?)),
    }
}

fn into_secret(mut bytes: Zeroizing<Vec<u8>>) -> Secret {
    Secret::new(std::mem::take(&mut *bytes))
}

/// Decodes base64 text; CR and LF may stand anywhere in it.
pub(super) fn base64(text: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let mut symbols = Zeroizing::new(Vec::with_capacity(text.len()));
    symbols.extend(text.iter().copied().filter(|byte| !is_newline(*byte)));
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(symbols.len())]);
    match BASE64.decode_slice(&*symbols, &mut bytes) {
        Ok(length) => {
            bytes.truncate(length);
            Ok(bytes)
        }
        Err(error) => Err(illegal_base64(text, symbols.len(), &error)),
    }
}

/// The decoder's own text quotes the offending symbol; ours has upstream's words and the position.
fn illegal_base64(text: &[u8], symbols: usize, error: &DecodeSliceError) -> Error {
    let index = match error {
        DecodeSliceError::DecodeError(
            DecodeError::InvalidByte(offset, _) | DecodeError::InvalidLastSymbol { offset, .. },
        ) => *offset,
        // Missing symbols or padding: the incomplete group begins here.
        _ => symbols.saturating_sub(1) / 4 * 4,
    };
    let position = text
        .iter()
        .enumerate()
        .filter(|(_, byte)| !is_newline(**byte))
        .nth(index)
        .map_or(text.len(), |(position, _)| position);
    bad(format!("illegal base64 data at input byte {position}"))
        .fix("the value must be standard base64 with padding")
}

fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

fn hex(text: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; text.len() / 2]);
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(bytes),
        // A byte that is no digit says more than an odd number of them.
        Err(_) => Err(match text.iter().position(|byte| !byte.is_ascii_hexdigit()) {
            Some(index) => bad(format!("encoding/hex: invalid byte at input byte {index}"))
                .fix("the value must be hexadecimal digits only"),
            None => bad("encoding/hex: odd length hex string")
                .fix("the value must be pairs of hexadecimal digits"),
        }),
    }
}
