//! Layers that say little and mean much: what a stranger may make us spend is bounded by what was declared.
#![allow(clippy::unwrap_used, reason = "tests")]

use forkd_core::{Cancel, Env, Error, Kind, Silent};
use forkd_image::{DiskOptions, LayerSource, build_disk};
use std::io::{Cursor, Read, repeat};

fn header(name: &str, kind: tar::EntryType, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn pax(record: impl Fn(usize) -> String) -> Vec<u8> {
    let body: Vec<u8> = (0..12_000).flat_map(|n| record(n).into_bytes()).collect();
    let mut bytes = header("x", tar::EntryType::XHeader, body.len() as u64);
    bytes.extend(&body);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// What a layer comes to whose tar stream `open` gives.
fn refused<R: Read + Send + 'static>(open: impl Fn() -> R + Send + Sync + 'static) -> Error {
    let open = move || -> forkd_core::Result<Box<dyn Read + Send>> { Ok(Box::new(open())) };
    let layer = LayerSource { open: Box::new(open), diff_id: None, name: "it".into() };
    let (file, cancel) = (tempfile::tempfile().unwrap(), Cancel::default());
    let env = Env { progress: &Silent, cancel: &cancel, jobs: 2 };
    build_disk(&[layer], &file, &DiskOptions::default(), env).unwrap_err()
}

#[test]
fn extended_headers_of_one_entry_share_a_bound() {
    let error = refused(|| {
        let many: Vec<u8> =
            (0..40).flat_map(|_| pax(|n| format!("39 SCHILY.xattr.user.{n:09}=0123456\n"))).collect();
        Cursor::new([many, header("a", tar::EntryType::Regular, 0), vec![0; 1024]].concat())
    });
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(
        error.to_string().contains("extended headers of one entry take more than 1048576 bytes"),
        "{error}"
    );
}

#[test]
fn zeros_behind_the_end_have_an_end() {
    let error =
        refused(|| Cursor::new(header("a", tar::EntryType::Regular, 0)).chain(repeat(0).take(1 << 40)));
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(error.to_string().contains("bytes follow the archive's end"), "{error}");
}

#[test]
fn headers_without_end_have_one() {
    /// The same file again and again: it takes no room on the disk, and its header compresses to nothing.
    struct Again(Vec<u8>, usize);
    impl Read for Again {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let len = buffer.len().min(self.0.len() - self.1);
            buffer[..len].copy_from_slice(&self.0[self.1..self.1 + len]);
            self.1 = (self.1 + len) % self.0.len();
            Ok(len)
        }
    }
    let unit: Vec<u8> =
        [pax(|n| format!("30 comment{n:09}=012345678\n")), header("a", tar::EntryType::Fifo, 0)].concat();
    let error = refused(move || Again(unit.repeat(4), 0));
    assert_eq!(error.kind(), Kind::Integrity);
    assert!(error.to_string().contains("bytes of headers and names"), "{error}");
}
