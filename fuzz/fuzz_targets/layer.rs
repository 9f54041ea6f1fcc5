//! A layer's tar stream, applied and written as a disk.
#![no_main]
use forkd_core::{Cancel, Env, Silent};
use forkd_image::{DiskOptions, ExtraFile, LayerSource, build_disk};
use std::io::Cursor;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Two layers, so that the upper one meets what the lower one left.
    let (lower, upper) = bytes.split_at(bytes.len() / 1024 * 512);
    let layer = |bytes: &[u8]| {
        let bytes = bytes.to_vec();
        LayerSource {
            open: Box::new(move || Ok(Box::new(Cursor::new(bytes.clone())))),
            diff_id: None,
            name: "x".into(),
        }
    };
    let extra = ExtraFile { path: "/etc/forkd/image".into(), mode: 0o644, contents: b"x".to_vec() };
    let folders = vec!["/etc/passwd/x".into(), "/data/./deep".into()];
    let options = DiskOptions { size: Some(4 << 20), folders, extra: vec![extra] };
    let env = Env { progress: &Silent, cancel: &Cancel::default(), jobs: 1 };
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    let _ = build_disk(&[layer(lower), layer(upper)], &file, &options, env);
});
