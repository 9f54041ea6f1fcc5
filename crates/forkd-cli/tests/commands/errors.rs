//! How failures look: for people on one line that begins with our name, for programs as one document on standard error.

use crate::common::User;
use serde_json::{Value, json};

/// What a command leaves on standard error, and its exit code.
fn failed(user: &User, args: &[&str]) -> (String, i32) {
    let output = user.command(args).output().unwrap();
    assert!(output.stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    (String::from_utf8(output.stderr).unwrap(), output.status.code().unwrap())
}

fn document(user: &User, args: &[&str]) -> Value {
    let (text, code) = failed(user, args);
    let document: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"));
    assert_eq!(document["error"]["exit_code"], code, "{text}");
    document["error"].clone()
}

#[test]
fn a_failure_is_a_document_where_json_is_asked_for() {
    let user = User::new();
    for args in
        [["rmi", "nothing", "--json"], ["--json", "rmi", "nothing"], ["--format=json", "rmi", "nothing"]]
    {
        let error = document(&user, &args);
        assert_eq!((&error["kind"], &error["exit_code"]), (&json!("not_found"), &json!(3)));
        assert!(error["message"].as_str().unwrap().starts_with("no snapshot 'nothing' in "), "{error}");
        assert_eq!(error["hint"], "see `forkd images`");
    }
    let keys: Vec<String> =
        document(&user, &["rmi", "nothing", "--json"]).as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["kind", "message", "hint", "exit_code"]);
    let error = document(&user, &["pull", "http://127.0.0.1:1/x", "--json"]);
    assert_eq!((&error["kind"], &error["hint"]), (&json!("transient"), &json!("try again")), "{error}");
}

#[test]
fn what_people_read_is_the_message_and_the_hint() {
    let user = User::new();
    let error = document(&user, &["verify", "nothing", "--json"]);
    let (text, code) = failed(&user, &["verify", "nothing"]);
    let hint = error["hint"].as_str().map(|hint| format!("; {hint}")).unwrap_or_default();
    assert_eq!(text, format!("forkd: {}{hint}\n", error["message"].as_str().unwrap()));
    assert_eq!(code, 3);
}

#[test]
fn usage_errors_begin_like_all_others() {
    let user = User::new();
    let cases: [&[&str]; 4] =
        [&["pull"], &["pull", "--no-such-flag", "x"], &["nonsense"], &["inspect", "a", "b"]];
    for args in cases {
        let (text, code) = failed(&user, args);
        assert_eq!(code, 2, "{text}");
        assert!(text.starts_with("forkd: ") && !text.contains("error:"), "{text}");
        let error = document(&user, &[args, &["--json"]].concat());
        assert_eq!(error["kind"], "usage");
        assert!(
            text.starts_with(&format!("forkd: {}", error["message"].as_str().unwrap())),
            "{error}\n{text}"
        );
    }
    // What may be a secret in a URL is not repeated.
    let (text, _) = failed(&user, &["pull", "a/b", "https://host/p?X-Amz-Signature=secret"]);
    assert!(text.contains("https://host/p?…") && !text.contains("secret"), "{text}");
    let (text, _) = failed(&user, &["nonsense"]);
    assert!(text.contains("--help"), "{text}");
    // A flag behind the dashes is somebody else's.
    let (text, _) = failed(&user, &["fork", "--nonsense", "--", "--json"]);
    assert!(text.starts_with("forkd: "), "{text}");
}

#[test]
fn help_and_versions_are_no_errors() {
    let user = User::new();
    for args in [["--help"], ["--version"]] {
        let output = user.command(&args).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty());
    }
}
