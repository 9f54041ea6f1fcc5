//! What makes the command line a pleasure: help in groups, completion, manual pages, tags where people write them.

use crate::common::{User, names};

#[test]
fn help_is_grouped_by_what_people_do() {
    let user = User::new();
    let help = user.ok(&["--help"]);
    let order = [
        "Usage: forkd",
        "Begin here:",
        "quickstart",
        "Find and fetch snapshots:",
        "Fork them",
        "Publish them",
        "Options:",
        "Exit codes:",
    ];
    let mut at = 0;
    for part in order {
        at += help[at..].find(part).unwrap_or_else(|| panic!("{part} is not behind the others: {help}"));
    }
    let error = user.fails(2, &["serch"]);
    assert!(error.contains("'search'"), "{error}");
}

#[test]
fn shells_complete_commands_flags_and_tags() {
    let user = User::new();
    user.with("pyagent", 1).with("pybase", 2).with("other", 3);
    let begins = [("bash", "complete"), ("zsh", "#compdef forkd"), ("fish", "complete")];
    for (shell, begin) in begins {
        let script = user.ok(&["completions", shell]);
        assert!(script.contains(begin) && script.contains("COMPLETE"), "{shell}: {script}");
    }
    // As a shell asks.
    let offers = |words: &[&str]| {
        let mut command = user.command(&[&["--", "forkd"], words].concat());
        command.env("COMPLETE", "fish");
        let output = command.output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.split('\t').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(offers(&["fork", "py"]), ["pyagent", "pybase"]);
    assert_eq!(offers(&["fork", "--tag", "pya"]), ["pyagent"]);
    assert_eq!(offers(&["rmi", "oth"]), ["other"]);
    assert!(offers(&["pub"]).contains(&"publish".to_owned()));
    // In a real one.
    let script = "source <(forkd completions bash); COMP_WORDS=(forkd pack pya); COMP_CWORD=2; COMP_LINE='forkd pack pya'; \
COMP_TYPE=9; $(complete -p forkd | sed 's/.*-F //; s/ .*//') forkd pya pack; echo \"${COMPREPLY[*]}\"";
    let bin = std::path::Path::new(env!("CARGO_BIN_EXE_forkd")).parent().unwrap().display().to_string();
    let mut command = std::process::Command::new("bash");
    let output = command
        .args(["-c", script])
        .env("XDG_DATA_HOME", user.store())
        .env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap()))
        .output()
        .unwrap();
    let seen = String::from_utf8_lossy(&output.stdout);
    assert_eq!(seen.trim(), "pyagent", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let user = User::new();
    user.ok(&["man", "man1"]);
    assert!(names(&user.path("man1"), "forkd-") > 40);
    let page = std::fs::read_to_string(user.path("man1/forkd-publish.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("release\\-assets") && page.contains("Examples"), "{page}");
    assert!(user.path("man1/forkd-hub-gc.1").exists() && user.path("man1/forkd.1").exists());
}

#[test]
fn tags_stand_where_people_write_them() {
    let user = User::new();
    user.with("py", 1).with("pyagent", 2);
    user.ok(&["pack", "py", "--out", "a"]);
    user.ok(&["pack", "--tag", "py", "--out", "b"]);
    user.fails(2, &["pack"]);
    user.fails(2, &["pack", "py", "--tag", "py"]);
    assert!(user.fails(3, &["pack", "pyagnet"]).contains("did you mean 'pyagent'?"));
    let url = format!("file://{}", user.path("c").display());
    user.ok(&["push", "py", &url]);
    user.ok(&["push", "--tag", "py", &url]);
    for words in [&["push"][..], &["push", "py"], &["push", "--tag", "py", "py", &url]] {
        user.fails(2, words);
    }
    assert!(user.fails(3, &["fork", "pi"]).contains("no snapshot 'pi'"));
    user.ok(&["rmi", "-f", "py"]);
}

#[test]
fn what_gc_would_delete_is_counted_first() {
    let user = User::new();
    user.with("py", 1);
    std::fs::create_dir_all(user.path("cache")).unwrap();
    let left = user.path("data/forkd/staging/7-0");
    std::fs::create_dir_all(&left).unwrap();
    let mut command = user.command(&["gc", "--dry-run"]);
    let seen = user.seen(&command.env("XDG_CACHE_HOME", user.path("cache")).output().unwrap());
    assert_eq!((seen.code, seen.out.as_str()), (0, "would remove # leftover(s)\n"), "{}", seen.err);
    assert!(left.exists());
    let mut command = user.command(&["gc"]);
    let seen = user.seen(&command.env("XDG_CACHE_HOME", user.path("cache")).output().unwrap());
    assert_eq!(seen.out, "✓ removed # leftover(s)\n");
    assert!(!left.exists());
}
