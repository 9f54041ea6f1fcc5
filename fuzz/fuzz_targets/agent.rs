//! What a guest sends is read without a panic, in any cuts, and what is read as a message is written as it was.
#![no_main]
use forkd_agent::message::{Exec, Exit, Hello, Identity, MessageKind, Put, WakeReport};
use forkd_agent::wire::Decoder;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let whole = {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        std::iter::from_fn(|| decoder.next_packet()).collect::<Vec<_>>()
    };
    let mut decoder = Decoder::default();
    let mut parts = Vec::new();
    for part in bytes.chunks(7) {
        decoder.push(part);
        parts.extend(std::iter::from_fn(|| decoder.next_packet()));
    }
    assert_eq!(whole, parts);
    for payload in whole.iter().map(|packet| packet.payload.as_slice()).chain([bytes]) {
        let _ = (Hello::decode(payload), WakeReport::decode(payload), Exit::decode(payload));
        if let Ok(put) = Put::decode(payload) {
            assert_eq!(put.encode(), payload);
        }
        if let Ok(identity) = Identity::decode(payload) {
            assert_eq!(Identity::decode(&identity.encode()), Ok(identity));
        }
        if let Ok(exec) = Exec::decode(payload) {
            assert_eq!(Exec::decode(&exec.encode()), Ok(exec));
        }
    }
    let _ = bytes.first().map(|kind| MessageKind::from_u8(*kind));
});
