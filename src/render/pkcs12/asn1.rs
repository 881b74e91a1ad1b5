//! Reading DER element by element. Errors name the structure, never its bytes.

use der::asn1::ObjectIdentifier;
use der::{AnyRef, Decode, Encode, Header, Length, Reader, SliceReader, Tag, TagNumber};
use zeroize::Zeroizing;

use super::error;
use crate::error::{Error, Result};

/// `[0] EXPLICIT`
pub(super) const EXPLICIT_0: Tag = Tag::ContextSpecific { constructed: true, number: TagNumber(0) };
/// `[0] IMPLICIT` over a primitive type
pub(super) const IMPLICIT_0: Tag =
    Tag::ContextSpecific { constructed: false, number: TagNumber(0) };

/// The elements of one structure, read from the front.
pub(super) struct Elements<'a> {
    what: &'static str,
    reader: Option<SliceReader<'a>>,
}

impl<'a> Elements<'a> {
    /// `what` names the structure in errors.
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        // Fails for inputs beyond DER's own limit of length only; reading then fails.
        Self { what, reader: SliceReader::new(bytes).ok() }
    }

    fn next<T: Decode<'a>>(&mut self) -> Result<T> {
        let Some(reader) = self.reader.as_mut() else { return Err(malformed(self.what)) };
        reader.decode().map_err(|_| malformed(self.what))
    }

    /// The content of the next element, which must have this tag.
    pub(super) fn value(&mut self, tag: Tag) -> Result<&'a [u8]> {
        let any: AnyRef<'a> = self.next()?;
        if der::Tagged::tag(&any) == tag { Ok(any.value()) } else { Err(malformed(self.what)) }
    }

    /// The next element's elements; it must be a SEQUENCE.
    pub(super) fn sequence(&mut self, what: &'static str) -> Result<Elements<'a>> {
        Ok(Elements::new(what, self.value(Tag::Sequence)?))
    }

    /// The next element as an object identifier.
    pub(super) fn oid(&mut self) -> Result<ObjectIdentifier> {
        self.next()
    }

    /// The next element as a number that fits.
    pub(super) fn number(&mut self) -> Result<u32> {
        self.next()
    }

    /// The next element as a number, if it is one.
    pub(super) fn optional_number(&mut self) -> Result<Option<u32>> {
        self.next()
    }

    /// Whether all elements were read.
    pub(super) fn is_empty(&self) -> bool {
        self.reader.as_ref().is_none_or(|reader| reader.is_finished())
    }

    /// Refuses elements that were not read.
    pub(super) fn end(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(malformed(self.what)) }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.reader.as_ref().map_or(0, |reader| usize::try_from(reader.position()).unwrap_or(0))
    }
}

fn malformed(what: &str) -> Error {
    error(format!("malformed {what}"))
}

/// A SEQUENCE of these elements, in a buffer that never grows.
pub(super) fn sequence_of(content: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let header = Length::try_from(content.len())
        .and_then(|length| Header::new(Tag::Sequence, length).to_der())
        .map_err(|_| malformed("private key"))?;
    let mut der = Zeroizing::new(Vec::with_capacity(header.len() + content.len()));
    der.extend_from_slice(&header);
    der.extend_from_slice(content);
    Ok(der)
}
