//! SeaweedFS as an S3 store.

use super::process::{ServerProcess, free_pair, is_there};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A store with the buckets `hub` and `public`, the latter to be read by everybody. Keys: `writer` with `write`, `reader` with `read`.
pub struct SeaweedFs {
    /// Its S3 interface.
    pub endpoint: String,
    dir: PathBuf,
    _process: ServerProcess,
}

const IDENTITIES: &str = r#"{"identities":[
{"name":"writer","credentials":[{"accessKey":"writer","secretKey":"write"}],"actions":["Read","Write","List","Tagging"]},
{"name":"reader","credentials":[{"accessKey":"reader","secretKey":"read"}],"actions":["Read","List"]},
{"name":"anonymous","actions":["Read:public"]}]}"#;

impl SeaweedFs {
    /// Whether it is installed.
    #[must_use]
    pub fn is_there() -> bool {
        is_there("weed", "version")
    }

    /// Starts one whose files are in a folder.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        let data = dir.join("weed");
        fs::create_dir_all(&data).unwrap();
        let identities = dir.join("s3.json");
        fs::write(&identities, IDENTITIES).unwrap();
        // Each port stands for another one, 10,000 higher.
        let [master, volume, filer, s3] = [(); 4].map(|()| free_pair());
        let mut command = Command::new("weed");
        command.args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-volume.max=20"]);
        // What it would listen to besides, on ports that do not change.
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]);
        command.arg("-master.volumeSizeLimitMB=64").arg(format!("-dir={}", data.display()));
        command.arg(format!("-master.port={master}")).arg(format!("-volume.port={volume}"));
        command.arg(format!("-filer.port={filer}")).arg(format!("-s3.port={s3}"));
        command.arg(format!("-s3.config={}", identities.display()));
        let mut process = ServerProcess::start(&mut command, &dir.join("weed.log"));
        let ready = || ["hub", "public"].iter().all(|bucket| make_bucket(filer, bucket));
        process.wait(filer, ready);
        process.wait(master, || request(master, "GET /dir/assign HTTP/1.0\r\n\r\n").contains("\"fid\""));
        process.wait(s3, || request(s3, "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1."));
        Self { endpoint: format!("http://127.0.0.1:{s3}"), dir: data, _process: process }
    }

    /// Bytes of what its volumes hold.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let files = fs::read_dir(&self.dir).unwrap().flatten();
        let volumes = files.filter(|entry| entry.path().extension().is_some_and(|end| end == "dat"));
        volumes.map(|entry| entry.metadata().unwrap().len()).sum()
    }
}

/// Its filer makes a folder of what is posted with a slash behind it; buckets are folders.
fn make_bucket(filer: u16, bucket: &str) -> bool {
    let asked = format!("POST /buckets/{bucket}/ HTTP/1.0\r\nContent-Length: 0\r\n\r\n");
    let answer = request(filer, &asked);
    answer.starts_with("HTTP/1.0 2") || answer.starts_with("HTTP/1.1 2")
}

fn request(port: u16, text: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    let mut answer = String::new();
    let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
    answer
}
