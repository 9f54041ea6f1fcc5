//! What every reader of tar streams goes by, whatever it reads them for: a header's checksum, and the records of extended headers
//! (POSIX.1-2017, `pax`).

/// Whether a header's checksum is that of its bytes, its own field counted as spaces.
#[must_use]
pub fn checksum_holds(header: &tar::Header) -> bool {
    let bytes = header.as_bytes();
    let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
    header.cksum().is_ok_and(|said| said == sum)
}

/// An extended header that is not made of whole records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedPax;

/// The records of an extended header, each of a length in decimal, a space, a key, `=`, a value, and a line feed: keys and values. It
/// ends after the first that is malformed.
#[derive(Debug, Clone)]
pub struct PaxRecords<'a>(&'a [u8]);

impl<'a> PaxRecords<'a> {
    /// Those of an extended header's bytes.
    #[must_use]
    pub fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let bytes = self.0;
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let len = usize::try_from(number(&bytes[..space])?).ok()?;
        let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        self.0 = &bytes[len..];
        Some((&record[..equals], &record[equals + 1..]))
    }
}

impl<'a> Iterator for PaxRecords<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), MalformedPax>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let record = self.take();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record.ok_or(MalformedPax))
    }
}

/// Decimal digits; no sign, no spaces.
#[must_use]
pub fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_whole_or_none() {
        let all = |bytes: &'static [u8]| PaxRecords::of(bytes).collect::<Result<Vec<_>, _>>();
        assert_eq!(all(b""), Ok(vec![]));
        let [path, odd] = [(&b"path"[..], &b"a=b"[..]), (b"x", b"\xff\n")];
        assert_eq!(all(b"12 path=a=b\n7 x=\xff\n\n"), Ok(vec![path, odd]));
        for wrong in [
            &b"12 path=a=b"[..],
            b"0 ",
            b"x",
            b"5 a=b\n",
            b"7 path\n",
            b"-1 a=b\n",
            b"99999999999999999999 a=b\n",
        ] {
            assert_eq!(all(wrong), Err(MalformedPax), "{}", String::from_utf8_lossy(wrong));
        }
        assert_eq!(PaxRecords::of(b"6 a=b\nrest").count(), 2);
    }
}
