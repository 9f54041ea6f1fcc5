//! A file's root (`docs/format/pack-v3.md`), from its bytes in order.

use forkd_format::PAGE_SIZE;
use forkd_format::paged::{
    FRAME_SIZE, FileRoot, FrameHash, FrameHasher, RootHasher, page_count, zero_frame_hash,
};

/// Takes a file's bytes in order.
#[derive(Default)]
pub(crate) struct TreeBuilder {
    root: RootHasher,
    /// The beginning of a frame whose end has not come.
    frame: Vec<u8>,
    size: u64,
}

impl TreeBuilder {
    /// Adds bytes.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.frame.is_empty() && bytes.len() >= FRAME_SIZE {
                let (frame, rest) = bytes.split_at(FRAME_SIZE);
                self.root.push(&hash(frame));
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(FRAME_SIZE - self.frame.len()));
            self.frame.extend_from_slice(part);
            self.close_full();
            bytes = rest;
        }
    }

    /// Adds zero bytes.
    pub(crate) fn update_zeros(&mut self, mut len: u64) {
        self.size += len;
        while len > 0 {
            if self.frame.is_empty() && len >= FRAME_SIZE as u64 {
                self.root.push(&zero_frame_hash(FRAME_SIZE));
                len -= FRAME_SIZE as u64;
                continue;
            }
            let step = len.min((FRAME_SIZE - self.frame.len()) as u64);
            self.frame.resize(self.frame.len() + step as usize, 0);
            self.close_full();
            len -= step;
        }
    }

    fn close_full(&mut self) {
        if self.frame.len() == FRAME_SIZE {
            self.root.push(&hash(&self.frame));
            self.frame.clear();
        }
    }

    pub(crate) fn finish(mut self) -> FileRoot {
        if !self.frame.is_empty() {
            self.root.push(&hash(&self.frame));
        }
        self.root.finish(self.size)
    }
}

/// The hash of a frame's bytes.
fn hash(raw: &[u8]) -> FrameHash {
    let mut bitmap = vec![0; page_count(raw.len()).div_ceil(8)];
    for (i, _) in raw.chunks(PAGE_SIZE).enumerate().filter(|(_, page)| !forkd_sys::is_zero(page)) {
        bitmap[i / 8] |= 1 << (i % 8);
    }
    let mut hasher = FrameHasher::new(raw.len(), &bitmap);
    for (i, page) in raw.chunks(PAGE_SIZE).enumerate() {
        if bitmap[i / 8] >> (i % 8) & 1 == 1 {
            hasher.update(page);
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_does_not_depend_on_how_the_bytes_come() {
        let mut data = vec![0; 5 * FRAME_SIZE + 77];
        data[FRAME_SIZE + 3] = 1;
        data[2 * FRAME_SIZE..3 * FRAME_SIZE].fill(9);
        data[5 * FRAME_SIZE + 76] = 9;
        let whole = |step: usize| {
            let mut tree = TreeBuilder::default();
            data.chunks(step).for_each(|chunk| {
                if forkd_sys::is_zero(chunk) {
                    tree.update_zeros(chunk.len() as u64)
                } else {
                    tree.update(chunk)
                }
            });
            tree.finish()
        };
        let expected = whole(data.len());
        for step in [4096, 1000, 100_000, FRAME_SIZE, FRAME_SIZE + 1, 4 * FRAME_SIZE] {
            assert_eq!(whole(step), expected, "{step}");
        }
    }
}
