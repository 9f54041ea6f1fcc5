//! What a guest sends is read without a panic, in any cuts, and what is read as a message is written as it was.
#![no_main]
use forkd_agent::message::{Exec, Exit, Forked, Hello, Kind, Put, Woken};
use forkd_agent::wire::Decoder;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let whole = {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        std::iter::from_fn(|| decoder.next_frame()).collect::<Vec<_>>()
    };
    let mut decoder = Decoder::default();
    let mut parts = Vec::new();
    for part in bytes.chunks(7) {
        decoder.push(part);
        parts.extend(std::iter::from_fn(|| decoder.next_frame()));
    }
    assert_eq!(whole, parts);
    for payload in whole.iter().map(|frame| frame.payload.as_slice()).chain([bytes]) {
        let _ = (Hello::decode(payload), Woken::decode(payload), Exit::decode(payload));
        if let Ok(put) = Put::decode(payload) {
            assert_eq!(put.encode(), payload);
        }
        if let Ok(forked) = Forked::decode(payload) {
            assert_eq!(Forked::decode(&forked.encode()), Ok(forked));
        }
        if let Ok(exec) = Exec::decode(payload) {
            assert_eq!(Exec::decode(&exec.encode()), Ok(exec));
        }
    }
    let _ = bytes.first().map(|kind| Kind::from_u8(*kind));
});
