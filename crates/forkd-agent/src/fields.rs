//! The fields of a message's payload.

use std::fmt;

/// A payload that is not what its kind holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a malformed message")
    }
}

impl std::error::Error for Malformed {}

/// Puts the fields of a payload one after another: integers little-endian, bytes and texts after their length in four bytes.
#[derive(Default)]
pub(crate) struct FieldWriter(pub(crate) Vec<u8>);

impl FieldWriter {
    pub(crate) fn number(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn texts<T: AsRef<str>>(self, texts: &[T]) -> Self {
        texts.iter().fold(self.number(texts.len() as u64), |w, text| w.bytes(text.as_ref().as_bytes()))
    }
}

/// Takes them apart again.
pub(crate) struct FieldReader<'a>(pub(crate) &'a [u8]);

impl<'a> FieldReader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Malformed)?))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| Malformed)?);
        self.take(len as usize)
    }

    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed)
    }

    pub(crate) fn texts(&mut self) -> Result<Vec<String>, Malformed> {
        let count = self.number()?;
        // Each takes four bytes at least, so the count is bounded by what is there.
        if count > self.0.len() as u64 / 4 {
            return Err(Malformed);
        }
        (0..count).map(|_| self.text()).collect()
    }

    pub(crate) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}
