//! Builds the agent that runs inside guests: static, small, and embedded in the library.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let var = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let root = Path::new(&var("CARGO_MANIFEST_DIR")).join("../..");
    for path in ["crates/forkd-agent", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
    // Guests are x86-64 today. A C library that can be linked statically is part of every Rust target for Linux with a C compiler.
    let target = "x86_64-unknown-linux-gnu";
    let out = PathBuf::from(var("OUT_DIR"));
    let mut cargo = Command::new(var("CARGO"));
    cargo.current_dir(&root);
    cargo.args([
        "build",
        "--locked",
        "--quiet",
        "-p",
        "forkd-agent",
        "--profile",
        "agent",
        "--target",
        target,
    ]);
    cargo.arg("--target-dir").arg(out.join("agent"));
    // What this build was told about its own flags and wrappers is not meant for the guest.
    for name in [
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
    ] {
        cargo.env_remove(name);
    }
    // Static, and at a fixed place: an emulated processor's code is translated anew for each place that it stands at.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static\u{1f}-Crelocation-model=static");
    let status = cargo.status().unwrap_or_else(|e| panic!("cannot run cargo for the agent: {e}"));
    assert!(status.success(), "the agent does not build");
    let built = out.join("agent").join(target).join("agent/forkd-agent");
    std::fs::copy(&built, out.join("forkd-agent")).unwrap_or_else(|e| panic!("{}: {e}", built.display()));
}
