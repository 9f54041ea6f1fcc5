//! A registry with a token server: who may do what, and where credentials are kept.

use crate::common::User;
use crate::{content, other, publisher};
use forkd_testing::{DockerRegistry, TokenServer};
use std::io::Write;
use std::process::Stdio;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("login::passwords_are_tried_and_kept", passwords_are_tried_and_kept),
    ("login::accounts_may_do_what_they_may", accounts_may_do_what_they_may),
    ("login::tokens_that_expire_are_got_anew", tokens_that_expire_are_got_anew),
];

fn login(user: &User, host: &str, name: &str, password: &str) -> (i32, String) {
    let mut command = user.command(&["login", host, "--username", name, "--password-stdin"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{password}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

fn passwords_are_tried_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = TokenServer::start(dir.path());
    let registry = DockerRegistry::with_tokens(dir.path(), &tokens);
    let user = other();
    let (code, text) = login(&user, &registry.host, "writer", "hunter2");
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("does not take this name and password") && !text.contains("hunter2"), "{text}");
    let file = user.path(".config/containers/auth.json");
    assert!(!file.exists());
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, r#"{"auths":{"other.example":{"auth":"eDp5"}},"odd":1}"#).unwrap();
    let (code, text) = login(&user, &registry.host, "writer", "write");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("~/.config/containers/auth.json") && !text.contains("write\n"), "{text}");
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&kept["odd"], &kept["auths"]["other.example"]["auth"]), (&1.into(), &"eDp5".into()));
    assert_eq!(kept["auths"][&registry.host]["auth"], "d3JpdGVyOndyaXRl");
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(user.ok(&["logout", &registry.host]).contains("removed the credentials from ~/.config"));
    assert!(!std::fs::read_to_string(&file).unwrap().contains(&registry.host));
    user.fails(3, &["logout", &registry.host]);
    user.fails(2, &["login", &registry.host, "--username", "x"]);
    user.fails(2, &["login", "not a host", "--username", "x", "--password-stdin"]);
}

fn accounts_may_do_what_they_may() {
    let (user, tags) = publisher(1, 2 << 20);
    let dir = tempfile::tempdir().unwrap();
    let tokens = TokenServer::start(dir.path());
    let registry = DockerRegistry::with_tokens(dir.path(), &tokens);
    let place = |name: &str| format!("oci://{}/{name}:v1", registry.host);
    let tag = &tags[0];
    let error = user.fails(4, &["push", "--tag", tag, &place("acme/x")]);
    assert!(
        error.contains("needs credentials, and there are none") && error.contains("forkd login"),
        "{error}"
    );
    assert_eq!(login(&user, &registry.host, "reader", "read").0, 0);
    let error = user.fails(4, &["push", "--tag", tag, &place("acme/x")]);
    assert!(error.contains("refuses 'acme/x' to the credentials from"), "{error}");
    assert_eq!(login(&user, &registry.host, "writer", "write").0, 0);
    user.ok(&["push", "--tag", tag, &place("acme/x")]);
    user.ok(&["push", "--tag", tag, &place("public/x")]);
    assert!(
        tokens.asked().iter().any(|query| query.contains("acme%2Fx%3Apull%2Cpush")),
        "{:?}",
        tokens.asked()
    );
    // Everybody may read the one, and some the other.
    let to = other();
    to.ok_noted(&["pull", &place("public/x")]);
    assert_eq!(content(&to, tag), content(&user, tag));
    let to = other();
    to.fails(4, &["pull", &place("acme/x")]);
    assert!(to.is_untouched());
    assert_eq!(login(&to, &registry.host, "reader", "read").0, 0);
    to.ok_noted(&["pull", &place("acme/x")]);
    assert_eq!(to.ok(&["tags", &format!("oci://{}/acme/x", registry.host)]), "v#\n");
    to.fails(4, &["rmi", "--remote", &place("acme/x")]);
    // A password that was changed since.
    let file = to.path(".config/containers/auth.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("cmVhZGVyOnJlYWQ=", "cmVhZGVyOm9sZA==")).unwrap();
    let error = to.fails(4, &["tags", &format!("oci://{}/acme/x", registry.host)]);
    assert!(error.contains("have expired") && !error.contains("old"), "{error}");
}

fn tokens_that_expire_are_got_anew() {
    let (user, tags) = publisher(1, 16 << 20);
    let dir = tempfile::tempdir().unwrap();
    let tokens = TokenServer::start(dir.path());
    let registry = DockerRegistry::with_tokens(dir.path(), &tokens);
    assert_eq!(login(&user, &registry.host, "writer", "write").0, 0);
    let place = format!("oci://{}/public/x:v1", registry.host);
    user.ok(&["push", "--tag", &tags[0], &place]);
    let before = tokens.asked().len();
    other().ok_noted(&["pull", "--jobs", "4", &place]);
    assert!(tokens.asked().len() - before <= 2, "{:?}", tokens.asked());
    // One that has ended before it is used lets nobody in, and nothing is half done.
    tokens.set_lifetime(-300);
    let to = other();
    let error = to.fails(4, &["pull", &place]);
    assert!(error.contains("needs credentials"), "{error}");
    assert!(to.is_untouched());
    let error = user.fails(4, &["push", "--tag", &tags[0], &place]);
    assert!(error.contains("have expired"), "{error}");
}
