//! Packets: the layer below messages. A stream that breaks off in the middle of a packet, as at a freeze, costs that packet only.

/// The first bytes of every packet; the last one is the protocol's version.
pub const MAGIC: [u8; 4] = *b"fkd\x01";
/// Bytes before a payload: magic, id, kind, three zero bytes, payload length; integers little-endian.
pub const HEADER_LEN: usize = 16;
/// The longest payload, in bytes; what is longer is sent in several packets.
pub const MAX_PAYLOAD: usize = 64 << 10;

/// What is sent at once, and is lost at once where the stream breaks off in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Which request it belongs to; answers repeat it.
    pub id: u32,
    /// What it is ([`crate::message::MessageKind`]).
    pub kind: u8,
    /// What its kind holds ([`crate::message`]), at most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

impl Packet {
    /// Its bytes on the wire. A payload beyond the limit is a bug of the caller, and is cut off.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self.id, self.kind, &self.payload)
    }
}

/// A packet's bytes on the wire.
#[must_use]
pub fn encode(id: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    let payload = &payload[..payload.len().min(MAX_PAYLOAD)];
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&[kind, 0, 0, 0]);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The id of the packet of this kind, without a payload, that bytes end with. It begins a conversation if the other side has hung up
/// within a packet, and has come back so quickly that no hang-up was seen: then a decoder takes it for a part of that packet.
#[must_use]
pub fn ends_with_empty(bytes: &[u8], kind: u8) -> Option<u32> {
    let last = bytes.last_chunk::<HEADER_LEN>()?;
    let id = u32::from_le_bytes([last[4], last[5], last[6], last[7]]);
    (last[..] == encode(id, kind, &[])).then_some(id)
}

/// Finds packets in a stream, and passes over what is none.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    at: usize,
}

impl Decoder {
    /// Takes bytes of the stream. Call [`Decoder::next_packet`] until it gives nothing before pushing more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.at);
        self.at = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next packet that has come whole; `None` where more bytes are needed.
    pub fn next_packet(&mut self) -> Option<Packet> {
        loop {
            let rest = &self.buffer[self.at..];
            let begins = |at: usize| MAGIC.starts_with(&rest[at..rest.len().min(at + MAGIC.len())]);
            self.at += (0..rest.len()).find(|at| begins(*at)).unwrap_or(rest.len());
            let rest = &self.buffer[self.at..];
            let header: &[u8; HEADER_LEN] = rest.first_chunk()?;
            let word =
                |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let len = word(12) as usize;
            if header[9..12] != [0; 3] || len > MAX_PAYLOAD {
                self.at += 1;
                continue;
            }
            let payload = rest.get(HEADER_LEN..HEADER_LEN + len)?.to_vec();
            let packet = Packet { id: word(4), kind: header[8], payload };
            self.at += HEADER_LEN + len;
            return Some(packet);
        }
    }

    /// Whether all that has come was whole packets, and all of them were given out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at == self.buffer.len()
    }

    /// Forgets a packet that has come in part: the other side has hung up.
    pub fn reset(&mut self) {
        self.buffer.clear();
        self.at = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packets_come_through_whatever_the_cuts(
            packets in prop::collection::vec((any::<u32>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
            cut in 1usize..400,
        ) {
            let packets: Vec<Packet> = packets.into_iter().map(|(id, kind, payload)| Packet { id, kind, payload }).collect();
            let stream: Vec<u8> = packets.iter().flat_map(Packet::encode).collect();
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for piece in stream.chunks(cut) {
                decoder.push(piece);
                found.extend(std::iter::from_fn(|| decoder.next_packet()));
            }
            prop_assert_eq!(found, packets);
        }

        #[test]
        fn noise_before_a_packet_is_passed_over(noise in prop::collection::vec(any::<u8>(), 0..64)) {
            let packet = Packet { id: 7, kind: 3, payload: b"hello".to_vec() };
            let mut decoder = Decoder::default();
            // A length that noise makes up may swallow what follows, up to one packet's size: then it comes on the next try.
            let noise: Vec<u8> = noise.into_iter().map(|byte| byte & 0x5f).collect();
            decoder.push(&noise);
            while decoder.next_packet().is_some() {}
            decoder.push(&packet.encode());
            prop_assert_eq!(decoder.next_packet(), Some(packet));
        }
    }

    #[test]
    fn an_empty_packet_at_the_end_is_seen_whatever_comes_before() {
        let bytes = [&encode(1, 2, &[9; 100])[..60], &encode(7, 1, &[])].concat();
        assert_eq!(ends_with_empty(&bytes, 1), Some(7));
        assert_eq!(ends_with_empty(&bytes, 2), None);
        assert_eq!(ends_with_empty(&bytes[..75], 1), None);
        assert_eq!(ends_with_empty(&encode(7, 1, &[0]), 1), None);
        assert_eq!(ends_with_empty(&[], 1), None);
    }

    #[test]
    fn half_a_packet_is_forgotten_at_a_hang_up() {
        let packet = Packet { id: 1, kind: 2, payload: vec![9; 100] };
        let mut decoder = Decoder::default();
        decoder.push(&packet.encode()[..60]);
        assert_eq!(decoder.next_packet(), None);
        decoder.reset();
        decoder.push(&packet.encode());
        assert_eq!(decoder.next_packet(), Some(packet));
    }
}
