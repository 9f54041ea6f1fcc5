//! The kernel that machines really boot (`FORKD_TEST_GUESTS`: a folder with a cache). Without it this counts as ignored.
#![allow(clippy::unwrap_used, reason = "a test")]

use forkd_engine::Kernel;
use forkd_format::Digest;
use libtest_mimic::{Arguments, Trial};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let guests = std::env::var_os("FORKD_TEST_GUESTS").map(PathBuf::from);
    let ignored = guests.is_none();
    let test = move || {
        kernel(&guests.unwrap_or_default().join("cache/forkd"));
        Ok(())
    };
    let trial = Trial::test("a_kernel_is_known_by_its_digest_and_uncompressed", test);
    libtest_mimic::run(&Arguments::from_args(), vec![trial.with_ignored_flag(ignored)]).exit_code()
}

fn kernel(cache: &Path) {
    let kernel = Kernel::find(cache, &forkd_core::Silent).unwrap();
    let digest = Digest::of(&std::fs::read(&kernel.image).unwrap());
    assert_eq!(Kernel::with_digest(cache, &digest).unwrap().unwrap().image, kernel.image);
    assert!(Kernel::with_digest(cache, &Digest::of(b"")).unwrap().is_none());
    let vmlinux = kernel.vmlinux().unwrap();
    let banner = format!("Linux version {} ", kernel.release.unwrap());
    assert!(vmlinux.windows(banner.len()).any(|bytes| bytes == banner.as_bytes()));
}
