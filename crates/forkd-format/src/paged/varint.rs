//! Unsigned LEB128 numbers, as plans and indexes have them.

/// Appends a number in its shortest form.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number in zigzag.
pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

pub(crate) struct NumberReader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl NumberReader<'_> {
    /// A number of at most 64 bits, in its shortest form.
    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at)?;
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return (byte != 0 || shift == 0).then_some(value);
            }
        }
        None
    }

    /// One in zigzag.
    pub(crate) fn signed(&mut self) -> Option<i64> {
        let coded = self.number()?;
        Some(((coded >> 1) as i64) ^ -((coded & 1) as i64))
    }
}
