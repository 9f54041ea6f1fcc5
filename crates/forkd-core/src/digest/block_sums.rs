//! Cheap checksums of 1 MiB blocks, kept beside a file's SHA-256 so that damage can be found where it is. The SHA-256 decides
//! whether a file is whole; these only say where it is not.

use forkd_sys::is_zero;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// Bytes that one checksum covers.
pub(crate) const BLOCK_SIZE: usize = 1 << 20;

/// XXH3-64 of each block in turn; a block of zeros has the sum 0.
#[derive(Default)]
pub(crate) struct BlockSums {
    sums: Vec<u64>,
    partial: Option<Box<Partial>>,
}

struct Partial {
    hasher: Xxh3Default,
    len: usize,
    zero: bool,
}

impl BlockSums {
    /// Adds bytes in file order.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filled = self.partial.as_ref().map_or(0, |partial| partial.len);
            if filled == 0 && bytes.len() >= BLOCK_SIZE {
                let (block, rest) = bytes.split_at(BLOCK_SIZE);
                self.sums.push(if is_zero(block) { 0 } else { xxh3_64(block) });
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(BLOCK_SIZE - filled));
            let partial = self
                .partial
                .get_or_insert_with(|| Box::new(Partial { hasher: Xxh3Default::new(), len: 0, zero: true }));
            partial.hasher.update(part);
            partial.zero &= is_zero(part);
            partial.len += part.len();
            if partial.len == BLOCK_SIZE {
                self.close();
            }
            bytes = rest;
        }
    }

    /// Adds zero bytes in file order.
    pub(crate) fn update_zeros(&mut self, mut len: u64) {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while len > 0 {
            if self.partial.is_none() && len >= BLOCK_SIZE as u64 {
                self.sums.push(0);
                len -= BLOCK_SIZE as u64;
                continue;
            }
            let filled = self.partial.as_ref().map_or(0, |partial| partial.len);
            let step = len.min((BLOCK_SIZE - filled).min(ZEROS.len()) as u64);
            self.update(&ZEROS[..step as usize]);
            len -= step;
        }
    }

    fn close(&mut self) {
        if let Some(partial) = self.partial.take() {
            self.sums.push(if partial.zero { 0 } else { partial.hasher.digest() });
        }
    }

    /// The sums, 16 hexadecimal digits each.
    pub(crate) fn finish(mut self) -> String {
        self.close();
        self.sums.iter().map(|sum| format!("{sum:016x}")).collect()
    }
}

/// The byte ranges in which two lists of sums differ, neighbours joined, cut at the file's end.
pub(crate) fn differing(before: &str, after: &str, size: u64) -> Vec<(u64, u64)> {
    let block = |text: &str, i: usize| text.get(i * 16..i * 16 + 16).map(str::to_owned);
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for i in 0..before.len().max(after.len()).div_ceil(16) {
        if block(before, i) == block(after, i) {
            continue;
        }
        let start = (i * BLOCK_SIZE) as u64;
        let end = (start + BLOCK_SIZE as u64).min(size.max(start));
        match ranges.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => ranges.push((start, end)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_do_not_depend_on_how_the_bytes_come() {
        let mut data = vec![0; 5 * BLOCK_SIZE + 77];
        data[BLOCK_SIZE + 3] = 1;
        data[5 * BLOCK_SIZE + 76] = 9;
        let whole = |step: usize| {
            let mut sums = BlockSums::default();
            data.chunks(step).for_each(|chunk| {
                if is_zero(chunk) { sums.update_zeros(chunk.len() as u64) } else { sums.update(chunk) }
            });
            sums.finish()
        };
        let expected = whole(data.len());
        assert_eq!(expected.len(), 6 * 16);
        for step in [4096, 1000, 100_000, BLOCK_SIZE, BLOCK_SIZE + 1, 4 * BLOCK_SIZE] {
            assert_eq!(whole(step), expected, "{step}");
        }
    }

    #[test]
    fn differences_name_their_range() {
        let sums = |edit: &[usize]| {
            let mut data = vec![7; 3 * BLOCK_SIZE + 10];
            edit.iter().for_each(|at| data[*at] = 0);
            let mut sums = BlockSums::default();
            sums.update(&data);
            sums.finish()
        };
        let size = 3 * BLOCK_SIZE as u64 + 10;
        let block = BLOCK_SIZE as u64;
        assert_eq!(differing(&sums(&[]), &sums(&[]), size), []);
        assert_eq!(
            differing(&sums(&[]), &sums(&[5, BLOCK_SIZE, 3 * BLOCK_SIZE]), size),
            [(0, 2 * block), (3 * block, size)]
        );
    }
}
