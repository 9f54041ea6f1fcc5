//! A bucket.

use crate::common::{Seen, User, names};
use crate::{content, other, publisher};
use forkd_testing::SeaweedFs;
use std::process::Command;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("bucket::a_base_is_stored_and_moved_once", a_base_is_stored_and_moved_once),
    ("bucket::everybody_reads_a_public_one", everybody_reads_a_public_one),
    ("bucket::credentials", credentials),
    ("bucket::packs_by_presigned_urls", packs_by_presigned_urls),
];

/// Runs as a user with keys.
pub(crate) fn run(user: &User, store: &SeaweedFs, key: &str, secret: &str, args: &[&str]) -> Seen {
    let mut command = user.command(args);
    command.env("AWS_ENDPOINT_URL", &store.endpoint).env("AWS_EC2_METADATA_DISABLED", "true");
    if !key.is_empty() {
        command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret);
    }
    user.seen(&command.output().unwrap())
}

#[track_caller]
pub(crate) fn json(user: &User, store: &SeaweedFs, args: &[&str]) -> serde_json::Value {
    let mut command = user.command(&[&["--json"], args].concat());
    command.env("AWS_ENDPOINT_URL", &store.endpoint).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_ACCESS_KEY_ID", "writer").env("AWS_SECRET_ACCESS_KEY", "write");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn a_base_is_stored_and_moved_once() {
    let (user, tags) = publisher(4, 24 << 20);
    let dir = tempfile::tempdir().unwrap();
    let store = SeaweedFs::start(dir.path());
    let place = |tag: &str| format!("s3://hub/pre/acme/chain:{tag}");
    let mut grown = Vec::new();
    for tag in &tags {
        let before = store.bytes();
        json(&user, &store, &["push", "--tag", tag, &place(tag)]);
        grown.push(store.bytes() - before);
    }
    let again = json(&user, &store, &["push", "--tag", &tags[3], &place(&tags[3])]);
    assert_eq!(again["sent_bytes"], 0);
    let (to, fresh) = (other(), other());
    json(&to, &store, &["pull", &place(&tags[0])]);
    let report = json(&to, &store, &["pull", &place(&tags[3])]);
    let delta: u64 = grown[1..].iter().sum();
    assert!(report["downloaded_bytes"].as_u64().unwrap() <= delta + delta / 20, "{report} {grown:?}");
    json(&fresh, &store, &["pull", "acme/chain@link3", "--hub", "s3://hub/pre"]);
    for tag in &tags {
        assert_eq!(content(&to, tag), content(&user, tag));
        assert_eq!(content(&fresh, tag), content(&user, tag));
    }
    let listed = json(&user, &store, &["tags", "s3://hub/pre/acme/chain"]);
    assert_eq!(listed["tags"].as_array().unwrap().len(), 4);
    json(&user, &store, &["rmi", "--remote", &place("link3")]);
    let gone = run(&to, &store, "reader", "read", &["pull", &place("link3")]);
    assert!(gone.code == 3 && gone.err.contains("there are: link#, link#, link#"), "{}", gone.err);
    // What only the last one had goes; the others stay whole.
    let counted = json(&user, &store, &["hub", "gc", "s3://hub/pre", "--grace", "0"]);
    assert!(counted["dry_run"] == true && counted["deleted_blobs"].as_u64().unwrap() > 0, "{counted}");
    let young = json(&user, &store, &["hub", "gc", "s3://hub/pre", "--delete"]);
    assert!(young["deleted_blobs"] == 0 && young["young_blobs"] == counted["deleted_blobs"], "{young}");
    let deleted = json(&user, &store, &["hub", "gc", "s3://hub/pre", "--grace", "0", "--delete"]);
    assert_eq!(deleted["deleted_blobs"], counted["deleted_blobs"]);
    let left = other();
    json(&left, &store, &["pull", &place("link2")]);
    assert_eq!(content(&left, "link2"), content(&user, "link2"));
}

fn everybody_reads_a_public_one() {
    let (user, tags) = publisher(1, 4 << 20);
    let dir = tempfile::tempdir().unwrap();
    let store = SeaweedFs::start(dir.path());
    json(&user, &store, &["push", "--tag", &tags[0], "acme/x@v1", "--hub", "s3://public/hub"]);
    let registry = format!("{}/public/hub/registry.json", store.endpoint);
    let to = other();
    to.ok_noted(&["pull", "acme/x@v1", "--hub", &registry]);
    assert_eq!(content(&to, &tags[0]), content(&user, &tags[0]));
    let error = to.fails(3, &["pull", "acme/x", "--hub", &registry]);
    assert!(error.contains("has no 'latest'") && error.contains("there are: v#"), "{error}");
    // To another kind of hub, and back.
    let folder = to.path("folder").display().to_string();
    let first = to.json(&["mirror", &registry, &folder, "acme/x"]);
    assert_eq!(first[0]["there_bytes"], 0);
    let second = to.json(&["mirror", &registry, &folder]);
    assert_eq!(second[0]["moved_bytes"], 0);
    json(&to, &store, &["mirror", &folder, "s3://hub"]);
    let back = other();
    json(&back, &store, &["pull", "s3://hub/acme/x:v1"]);
    assert_eq!(content(&back, &tags[0]), content(&user, &tags[0]));
    to.fails(2, &["mirror", &folder, &registry]);
}

fn credentials() {
    let (user, tags) = publisher(1, 2 << 20);
    let dir = tempfile::tempdir().unwrap();
    let store = SeaweedFs::start(dir.path());
    let push = ["push", "--tag", &tags[0], "s3://hub/acme/x:v1"];
    let none = run(&user, &store, "", "", &push);
    assert!(none.code == 4 && none.err.contains("wants credentials, and there are none"), "{}", none.err);
    for (key, secret) in [("reader", "read"), ("writer", "hunter2"), ("nobody", "hunter2")] {
        let seen = run(&user, &store, key, secret, &push);
        assert!(seen.code == 4 && seen.err.contains("refuses these credentials"), "{key}: {}", seen.err);
        assert!(!seen.err.contains("hunter2") && !seen.err.contains("Signature"), "{}", seen.err);
    }
    let missing = run(&user, &store, "writer", "write", &["push", "--tag", &tags[0], "s3://none/acme/x:v1"]);
    // SeaweedFS does not tell a bucket that is missing from one that is not for this user.
    assert!(matches!(missing.code, 3 | 4), "{}", missing.err);
    // A profile in place of variables.
    std::fs::create_dir_all(user.path(".aws")).unwrap();
    let text = "[work]\naws_access_key_id = writer\naws_secret_access_key = write\n";
    std::fs::write(user.path(".aws/credentials"), text).unwrap();
    let mut command = user.command(&push);
    command.env("AWS_ENDPOINT_URL", &store.endpoint).env("AWS_PROFILE", "work");
    assert!(command.output().unwrap().status.success());
    assert_eq!(run(&user, &store, "reader", "read", &["tags", "s3://hub/acme/x"]).out, "v#\n");
    let mut command = user.command(&["tags", "s3://hub/acme/x"]);
    command.env("AWS_ENDPOINT_URL", &store.endpoint).env("AWS_PROFILE", "none");
    assert_eq!(command.output().unwrap().status.code(), Some(4));
    // A store that is not there.
    let mut command = user.command(&push);
    command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:9").env("AWS_PROFILE", "work");
    assert_eq!(command.output().unwrap().status.code(), Some(5));
}

/// Signs one PUT for `one`, and parts of 5 MiB for `two`; what follows is a URL to read each.
const SIGN: &str = r#"
import boto3, json, sys
s3 = boto3.client("s3", endpoint_url=sys.argv[1], aws_access_key_id="writer", aws_secret_access_key="write", region_name="us-east-1")
sign = s3.generate_presigned_url
of = lambda key, **more: dict(Bucket="hub", Key=key, **more)
upload = s3.create_multipart_upload(**of("two"))["UploadId"]
parts = [sign("upload_part", Params=of("two", UploadId=upload, PartNumber=n)) for n in range(1, 9)]
complete = sign("complete_multipart_upload", Params=of("two", UploadId=upload), HttpMethod="POST")
print(json.dumps({
    "put": sign("put_object", Params=of("one")),
    "expired": sign("put_object", Params=of("late"), ExpiresIn=-100),
    "parts": {"part_bytes": 5 << 20, "parts": parts, "complete": complete},
    "get": [sign("get_object", Params=of(key)) for key in ("one", "two")],
}))
"#;

fn packs_by_presigned_urls() {
    let boto = Command::new("python3").args(["-c", "import boto3"]).output().unwrap().status.success();
    if std::env::var_os("FORKD_TEST_GUESTS").is_none() && !boto {
        return;
    }
    let (user, tags) = publisher(1, 96 << 20);
    let dir = tempfile::tempdir().unwrap();
    let store = SeaweedFs::start(dir.path());
    let output = Command::new("python3").args(["-c", SIGN, &store.endpoint]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let signed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    user.ok(&["push", "--tag", &tags[0], signed["put"].as_str().unwrap()]);
    let parts = user.path("parts.json");
    std::fs::write(&parts, signed["parts"].to_string()).unwrap();
    let seen = user.ok(&["push", "--tag", &tags[0], "--parts", parts.to_str().unwrap()]);
    assert!(seen.contains("✓ pushed # MiB") && !seen.contains("Signature"), "{seen}");
    for url in signed["get"].as_array().unwrap() {
        let to = other();
        to.ok_noted(&["pull", url.as_str().unwrap()]);
        assert_eq!(content(&to, &tags[0]), content(&user, &tags[0]));
    }
    let error = user.fails(4, &["push", "--tag", &tags[0], signed["expired"].as_str().unwrap()]);
    assert!(error.contains("may have expired") && !error.contains("Signature"), "{error}");
    let mut few = signed["parts"].clone();
    few["parts"].as_array_mut().unwrap().truncate(1);
    std::fs::write(&parts, few.to_string()).unwrap();
    let error = user.fails(2, &["push", "--tag", &tags[0], "--parts", parts.to_str().unwrap()]);
    assert!(error.contains("there are URLs for #") && !error.contains("Signature"), "{error}");
    std::fs::write(&parts, "{}").unwrap();
    user.fails(2, &["push", "--tag", &tags[0], "--parts", parts.to_str().unwrap()]);
    assert_eq!(names(&user.tmp(), "forkd-push-"), 0);
}
