//! Serves a folder on loopback for the demo and the benchmarks: prints its address and runs until its standard input ends.
#![allow(clippy::print_stdout, reason = "the address is its output")]

use std::io::Read;

fn main() {
    let Some(dir) = std::env::args_os().nth(1) else {
        println!("usage: forkd-testhub DIR");
        std::process::exit(2);
    };
    let hub = forkd_testing::TestHub::start(dir.as_ref());
    println!("{}", hub.address);
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
