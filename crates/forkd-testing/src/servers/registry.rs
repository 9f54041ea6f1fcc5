//! Debian's docker-registry.

use super::process::{ServerProcess, free_port, is_there};
use super::tokens::TokenServer;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A registry whose storage is a folder.
pub struct DockerRegistry {
    /// `127.0.0.1:PORT`.
    pub host: String,
    storage: PathBuf,
    _process: ServerProcess,
}

impl DockerRegistry {
    /// Whether it is installed.
    #[must_use]
    pub fn is_there() -> bool {
        is_there("docker-registry", "--version")
    }

    /// One that lets everybody in.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        Self::with(dir, "")
    }

    /// One that lets in whom a token server lets in.
    #[must_use]
    pub fn with_tokens(dir: &Path, tokens: &TokenServer) -> Self {
        let auth = format!(
            "auth:\n  token:\n    realm: {}\n    service: test\n    issuer: test\n    rootcertbundle: {}\n",
            tokens.realm(),
            tokens.certificate.display()
        );
        Self::with(dir, &auth)
    }

    fn with(dir: &Path, auth: &str) -> Self {
        let port = free_port();
        let storage = dir.join("storage");
        fs::create_dir_all(&storage).unwrap();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
http:\n  addr: 127.0.0.1:{port}\n{auth}",
            storage.display()
        );
        let path = dir.join("registry.yml");
        fs::write(&path, config).unwrap();
        let mut command = Command::new("docker-registry");
        let mut process = ServerProcess::start(command.arg("serve").arg(&path), &dir.join("registry.log"));
        process.wait(port, || true);
        Self { host: format!("127.0.0.1:{port}"), storage, _process: process }
    }

    /// Bytes of all its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        bytes_below(&self.storage)
    }

    /// The file of a blob.
    #[must_use]
    pub fn blob(&self, hex: &str) -> PathBuf {
        self.storage.join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

/// Bytes of all files below a folder.
fn bytes_below(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let metadata = entry.metadata().unwrap();
        sum += if metadata.is_dir() { bytes_below(&entry.path()) } else { metadata.len() };
    }
    sum
}
