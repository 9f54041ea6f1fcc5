//! Images from registries: Debian's docker-registry, filled by umoci and skopeo, and a small server that misbehaves. The real ones are
//! ignored where a program is missing, unless `FORKD_TEST_GUESTS` says that `./test` has installed all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test")]

mod faulty;
mod real;

use forkd_core::cache::Cache;
use forkd_core::{Cancel, Env, Result, Silent};
use forkd_image::{CredentialFiles, FetchReport, HttpOptions, Image, Platform, RegistryOptions, Sources};
use libtest_mimic::{Arguments, Failed, Trial};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let missing = !real::installed() && std::env::var_os("FORKD_TEST_GUESTS").is_none();
    let trial = |(name, test): &(&'static str, fn()), ignored: bool| {
        let test = *test;
        Trial::test(*name, move || std::panic::catch_unwind(test).map_err(|_| Failed::from("see above")))
            .with_ignored_flag(ignored)
    };
    let faulty = faulty::TESTS.iter().map(|test| trial(test, false));
    let real = real::TESTS.iter().map(|test| trial(test, missing));
    libtest_mimic::run(&Arguments::from_args(), faulty.chain(real).collect()).exit_code()
}

/// Impatient, so that failures come soon.
fn sources(root: &Path) -> Sources {
    Sources {
        registry: RegistryOptions {
            http: HttpOptions {
                connect_timeout: Duration::from_secs(2),
                stall_timeout: Duration::from_millis(400),
                tries: 3,
                backoff: Duration::from_millis(10),
                ..HttpOptions::default()
            },
            files: CredentialFiles(vec![root.join("auth.json")]),
            ..RegistryOptions::default()
        },
        cache: Cache::new(&root.join("cache")),
    }
}

fn pull_for(sources: &Sources, name: &str, platform: &str) -> Result<(Image, FetchReport)> {
    let cancel = Cancel::default();
    let env = Env { progress: &Silent, cancel: &cancel, jobs: 2 };
    let platform: Platform = platform.parse()?;
    let resolved = sources.resolve(&name.parse()?, &platform, env)?;
    sources.fetch(resolved, env)
}

fn pull(sources: &Sources, name: &str) -> Result<(Image, FetchReport)> {
    pull_for(sources, name, "linux/amd64")
}

/// All layers, read to their ends and so checked.
fn bytes(image: &Image) -> Vec<Vec<u8>> {
    let read = |layer: &forkd_image::Layer| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut layer.open().unwrap(), &mut bytes).unwrap();
        bytes
    };
    image.layers.iter().map(read).collect()
}
