//! Sparse files in tar streams: which of a file's bytes are stored (GNU tar's manual, "Sparse Formats").

use forkd_format::tar_rules::number;

/// Stretches of one file.
pub(crate) const MAX_EXTENTS: usize = 1 << 16;

/// What comes next of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stretch {
    Data(usize),
    Hole(usize),
}

/// Where the stored bytes of the present entry belong.
#[derive(Debug, Default)]
pub(crate) struct SparseMap {
    /// Data, in order: from where to where.
    extents: std::collections::VecDeque<(u64, u64)>,
    at: u64,
    size: u64,
}

impl SparseMap {
    /// Of a file all of whose bytes are stored.
    pub(crate) fn whole(size: u64) -> Self {
        Self { extents: [(0, size)].into(), at: 0, size }
    }

    /// `None` where stretches overlap, go back or beyond the file, are too many, or are not as many bytes as are stored.
    pub(crate) fn new(entries: &[(u64, u64)], size: u64, stored: u64) -> Option<Self> {
        let (mut extents, mut last, mut sum) = (std::collections::VecDeque::new(), 0, 0_u64);
        if entries.len() > MAX_EXTENTS {
            return None;
        }
        for (start, len) in entries {
            let end = start.checked_add(*len).filter(|end| *start >= last && *end <= size)?;
            sum += len;
            last = end;
            if *len > 0 {
                extents.push_back((*start, end));
            }
        }
        (sum == stored).then_some(Self { extents, at: 0, size })
    }

    /// What comes next, at most so many bytes; data of no bytes at the end.
    pub(crate) fn next(&self, most: usize) -> Stretch {
        let clamp = |len: u64| usize::try_from(len).map_or(most, |len| len.min(most));
        match self.extents.front() {
            Some((start, end)) if *start <= self.at => Stretch::Data(clamp(end - self.at)),
            _ if self.hole() > 0 => Stretch::Hole(clamp(self.hole())),
            _ => Stretch::Data(0),
        }
    }

    /// Bytes of a hole from here on.
    pub(crate) fn hole(&self) -> u64 {
        self.extents.front().map_or(self.size, |(start, _)| *start).saturating_sub(self.at)
    }

    /// Goes on by so many bytes, of what comes next.
    pub(crate) fn pass(&mut self, len: u64) {
        self.at += len;
        if self.extents.front().is_some_and(|(_, end)| *end <= self.at) {
            self.extents.pop_front();
        }
    }
}

/// Adds stretches of a map in GNU's old form; `None` where one is no number.
pub(crate) fn add_entries(entries: &[tar::GnuSparseHeader], into: &mut Vec<(u64, u64)>) -> Option<()> {
    for entry in entries.iter().filter(|entry| !entry.is_empty()) {
        into.push((entry.offset().ok()?, entry.length().ok()?));
    }
    Some(())
}

/// What `GNU.sparse` records say of the next entry: forms 0.0 (a record each), 0.1 (a list) and 1.0 (before the bytes).
#[derive(Debug, Default)]
pub(crate) struct PaxSparse {
    pub(crate) is_sparse: bool,
    pub(crate) in_body: bool,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) entries: Vec<(u64, u64)>,
}

impl PaxSparse {
    /// Takes a record; `None` where it is malformed.
    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.is_sparse = true;
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"major" => self.in_body = number(value)? > 0,
            b"offset" => self.entries.push((number(value)?, 0)),
            b"numbytes" => self.entries.last_mut()?.1 = number(value)?,
            b"map" => {
                let numbers = value.split(|byte| *byte == b',').map(number).collect::<Option<Vec<u64>>>()?;
                self.entries =
                    numbers.chunks(2).map(|pair| Some((pair[0], *pair.get(1)?))).collect::<Option<_>>()?;
            }
            _ => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_gives_data_and_holes_in_their_order() {
        let mut map = SparseMap::new(&[(10, 5), (20, 0), (100, 50)], 200, 55).unwrap();
        let mut seen = Vec::new();
        loop {
            let next = map.next(40);
            let len = match next {
                Stretch::Data(0) => break,
                Stretch::Data(len) | Stretch::Hole(len) => len,
            };
            map.pass(len as u64);
            seen.push(next);
        }
        use Stretch::{Data, Hole};
        let expected =
            [Hole(10), Data(5), Hole(40), Hole(40), Hole(5), Data(40), Data(10), Hole(40), Hole(10)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn maps_that_lie_are_none() {
        for (entries, size, stored) in [
            (&[(0, 5), (4, 5)][..], 20, 10),
            (&[(10, 5), (0, 5)], 20, 10),
            (&[(0, 30)], 20, 30),
            (&[(0, 5)], 20, 6),
            (&[(u64::MAX, 5)], 20, 5),
        ] {
            assert!(SparseMap::new(entries, size, stored).is_none(), "{entries:?}");
        }
        let mut pax = PaxSparse::default();
        assert_eq!(pax.set(b"map", b"0,5,10,5"), Some(()));
        assert_eq!(pax.entries, [(0, 5), (10, 5)]);
        for wrong in [&b"0,5,10"[..], b"", b"x"] {
            assert_eq!(pax.set(b"map", wrong), None);
        }
        assert_eq!(PaxSparse::default().set(b"numbytes", b"1"), None);
    }
}
