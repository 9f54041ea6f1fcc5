//! `forkd search`, `show` and several hubs.

use crate::common::User;
use forkd_testing::TestHub;
use serde_json::json;
use std::time::{Duration, Instant};

fn hub_of(packages: &[(&str, &str)]) -> String {
    let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let entry = json!({ "url": "p", "sha256": digest, "size_bytes": 1 << 20, "memory_mib": 512 });
    let packages: serde_json::Map<String, serde_json::Value> = packages
        .iter()
        .map(|(name, description)| {
            (
                (*name).to_owned(),
                json!({ "description": description, "versions": { "latest": entry, "v1": entry } }),
            )
        })
        .collect();
    json!({ "schema_version": 1, "packages": packages }).to_string()
}

#[test]
fn packages_are_found_by_words() {
    let user = User::new();
    let text =
        hub_of(&[("acme/numpy", "Python with NumPy"), ("acme/pg", "Postgres 16"), ("zoo/py", "Python only")]);
    std::fs::write(user.path("registry.json"), text).unwrap();
    let hub = user.path("registry.json").display().to_string();
    assert_eq!(
        user.ok(&["search", "PYTHON", "--hub", &hub]),
        "NAME        LATEST            SIZE  DESCRIPTION
acme/numpy  v#             # MiB  Python with NumPy
zoo/py      v#             # MiB  Python only
"
    );
    assert_eq!(user.ok(&["-q", "search", "python", "numpy", "--hub", &hub]), "acme/numpy\n");
    assert_eq!(
        user.ok(&["search", "nothing", "--hub", &hub]),
        "nothing found for 'nothing' in file://~/registry.json\n"
    );
    assert_eq!(user.json(&["search", "--hub", &hub])["hubs"][0]["packages"].as_array().unwrap().len(), 3);
    // In pipes lines are whole.
    let long = "x".repeat(500);
    std::fs::write(user.path("registry.json"), hub_of(&[("a/b", &long)])).unwrap();
    assert!(user.ok(&["search", "--hub", &hub]).contains(&long));
    // What a publisher writes steers no terminal.
    std::fs::write(user.path("registry.json"), hub_of(&[("a/b", "\u{1b}[31mred\u{7}\r\n")])).unwrap();
    let seen = user.ok(&["search", "--hub", &hub]);
    assert!(!seen.contains('\u{1b}') && !seen.contains('\u{7}') && seen.lines().count() == 2, "{seen:?}");
}

#[test]
fn several_hubs_are_asked_in_order() {
    let user = User::new();
    user.with("one", 1).with("two", 2);
    user.ok(&["publish", "one", "acme/one@v1", "--to", "first"]);
    user.ok(&["publish", "one", "acme/both@v1", "--to", "first"]);
    user.ok(&["publish", "two", "acme/both@v1", "--to", "second"]);
    user.ok(&["publish", "two", "acme/two@v1", "--to", "second"]);
    let both = format!("{},{}", user.path("first").display(), user.path("second").display());
    let consumer = User::new();
    consumer.ok_noted(&["pull", "acme/two", "--hub", &both]);
    consumer.ok_noted(&["pull", "acme/both", "--hub", &both]);
    let tags = consumer.json(&["images"]);
    let tags: Vec<&str> =
        tags["snapshots"].as_array().unwrap().iter().map(|one| one["tag"].as_str().unwrap()).collect();
    assert_eq!(tags, ["one", "two"]);
    let error = consumer.fails(3, &["pull", "acme/none", "--hub", &both]);
    assert!(error.contains("no 'acme/none@latest' in file://"), "{error}");
    // By the file that says it once for all commands; a mirror stands in for a hub that is away.
    let config = consumer.path(".config/forkd");
    std::fs::create_dir_all(&config).unwrap();
    let text = format!(
        "hubs = [\"http://127.0.0.1:1/registry.json\", \"{}\"]\n[[mirror]]\nof = \"http://127.0.0.1:1/registry.json\"\nat = [\"{}\"]\n",
        user.path("second").display(),
        user.path("first").display()
    );
    std::fs::write(config.join("config.toml"), &text).unwrap();
    consumer.ok(&["rmi", "one", "two"]);
    consumer.ok_noted(&["pull", "acme/both"]);
    assert!(consumer.snapshot("one", "memory.bin").exists());
    // A name is not looked up behind a hub that is away and has no mirror: it may mean something else there.
    std::fs::write(config.join("config.toml"), text.split("[[").next().unwrap()).unwrap();
    consumer.fails(5, &["pull", "acme/two"]);
    std::fs::write(config.join("config.toml"), "hub = 1\n").unwrap();
    let error = consumer.fails(2, &["pull", "acme/two"]);
    assert!(error.contains("config.toml") && error.contains("unknown field `hub`"), "{error}");
    let mut command = consumer.command(&["pull", "acme/two"]);
    let seen = consumer.seen(&command.env("FORKD_HUB_URL", "no/such/place").output().unwrap());
    assert!(seen.code == 2 && seen.err.contains("FORKD_HUB_URL ('no/such/place')"), "{}", seen.err);
}

#[test]
fn a_package_is_shown_with_its_cost_here() {
    let user = User::new();
    user.with("py", 1);
    user.ok(&["publish", "py", "acme/py@v1", "--to", "hub", "--description", "warm"]);
    let consumer = User::new();
    let hub = user.path("hub").display().to_string();
    let shown = consumer.ok(&["show", "acme/py", "--hub", &hub]);
    for line in
        ["acme/py", "  description warm", "  memory      # MiB", "  here        no; a pull would fetch # MiB"]
    {
        assert!(shown.lines().any(|found| found == line), "{line}\n{shown}");
    }
    consumer.ok_noted(&["pull", "acme/py", "--hub", &hub]);
    assert!(consumer.ok(&["show", "acme/py", "--hub", &hub]).contains("  here        yes, as 'py'"));
    let error = consumer.fails(3, &["show", "acme/pi", "--hub", &hub]);
    assert!(error.contains("no 'acme/pi'"), "{error}");
}

#[test]
fn malformed_registries_are_refused_in_bounded_time_and_memory() {
    let user = User::new();
    let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let latest = format!(r#"{{"latest":{{"url":"u","sha256":"{digest}","size_bytes":1}}}}"#);
    let entry = |more: &str| format!(r#"{{"url":"u","sha256":"{digest}","size_bytes":1{more}}}"#);
    let junk = format!(",\"artifacts\":[{}1]", "[[[[1]]]],".repeat(6_000_000));
    let registry = |packages: &str| format!(r#"{{"schema_version":1,"packages":{packages}}}"#);
    let path = user.path("registry.json");
    let hub = path.display().to_string();
    for (text, code) in [
        (registry("7"), 6),
        (registry("[]"), 6),
        (registry(r#"{"a/b":7}"#), 6),
        (registry(r#"{"a/b":{"versions":{}}}"#), 6),
        (registry(r#"{"a/b":{"versions":{"latest":"v1"}}}"#), 6),
        (registry(r#"{"a/b":{"versions":{"latest":{"url":1,"sha256":2}}}}"#), 6),
        (registry(&format!(r#"{{"a/b":{{"description":{{}},"versions":{latest}}}}}"#)), 6),
        (registry(&format!(r#"{{"a/b":{{"versions":{{"latest":{}}}}}}}"#, entry(&junk))), 3),
        (
            registry(&format!(
                r#"{{"a/b":{{"versions":{{"latest":{}}}}}}}"#,
                entry(&junk.replace("artifacts", "engine"))
            )),
            3,
        ),
        (
            registry(&format!(
                r#"{{"a/b":{{"versions":{{"latest":{}}}}}}}"#,
                entry(&junk.replace("artifacts", "variants"))
            )),
            3,
        ),
        (
            registry(&format!(
                r#"{{"a/b":{{"versions":{{"latest":{}}}}}}}"#,
                entry(&junk.replace("artifacts", "other"))
            )),
            3,
        ),
        (format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), 6),
        (" ".repeat(65 << 20), 6),
    ] {
        std::fs::write(&path, &text).unwrap();
        let begun = Instant::now();
        let name = &text[..text.len().min(80)];
        for args in [["pull", "a/b"], ["show", "a/b"], ["inspect", "a/b"], ["search", "a/b"]] {
            // In a GiB of address space, with all that a program's threads take of that.
            let mut command = std::process::Command::new("sh");
            let own = user.command(&[&args[..], &["--hub", &hub]].concat());
            command
                .args(["-c", "ulimit -v 1048576; exec \"$0\" \"$@\""])
                .arg(own.get_program())
                .args(own.get_args());
            command.current_dir(user.dir.path());
            for (name, value) in own.get_envs() {
                command.env(name, value.unwrap_or_default());
            }
            let seen = user.seen(&command.output().unwrap());
            let is_search = args[0] == "search";
            let wanted = if is_search && code == 3 { 0 } else { code };
            // What is wrong with a version is the business of who asks for it.
            assert!(
                seen.code == wanted || (is_search && seen.code == 0),
                "{args:?} {name}: {} {}",
                seen.code,
                seen.err
            );
            assert!(seen.err.len() < 2000, "{}", seen.err);
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{name}");
    }
}

#[test]
fn an_index_that_is_here_serves_without_a_server() {
    let user = User::new();
    user.with("py", 1);
    user.ok(&["publish", "py", "acme/py@v1", "--to", "hub", "--description", "warm"]);
    let server = TestHub::start(&user.path("hub"));
    let url = server.url("unsigned/registry.json");
    let consumer = User::new();
    std::fs::create_dir(consumer.path("cache")).unwrap();
    let run = |args: &[&str], offline: bool| {
        let mut command = consumer.command(args);
        command.env("XDG_CACHE_HOME", consumer.path("cache")).env("FORKD_HUB_URL", &url);
        if offline {
            command.env("FORKD_OFFLINE", "1");
        }
        consumer.seen(&command.output().unwrap())
    };
    let seen = run(&["search"], true);
    assert!(seen.code == 5 && seen.err.contains("FORKD_OFFLINE"), "{}{}", seen.out, seen.err);
    assert_eq!(run(&["search"], false).code, 0);
    let asked = server.requests().len();
    assert_eq!(run(&["search"], false).code, 0);
    // Unchanged, it costs one request without a body.
    assert_eq!(server.requests().len(), asked + 1);
    let seen = run(&["search", "warm"], true);
    assert!(seen.code == 0 && seen.out.contains("acme/py"), "{}", seen.err);
    assert_eq!(server.requests().len(), asked + 1);
    assert_eq!(run(&["pull", "acme/py"], true).code, 5);
    assert_eq!(run(&["pull", "acme/py"], false).code, 0);
    let seen = run(&["pull", "acme/py"], true);
    assert!(seen.code == 0 && seen.out.contains("nothing to download"), "{}", seen.err);
}
