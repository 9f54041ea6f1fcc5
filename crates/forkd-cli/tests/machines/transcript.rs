//! The transcript of docs/publishing.md, run line by line.

use crate::common::User;
use crate::{bake, busybox};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("the_publishing_transcript_is_true", the_publishing_transcript_is_true)];

/// A command of the transcript, and what is printed under it.
struct Step {
    command: String,
    printed: Vec<String>,
}

/// The steps of the section that is said to be run.
fn steps() -> Vec<Step> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/publishing.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("\n## ").nth(1).unwrap();
    let (mut steps, mut inside) = (Vec::<Step>::new(), false);
    for line in section.lines() {
        match line.strip_prefix("$ ") {
            _ if line.starts_with("```") => inside = line == "```console",
            _ if !inside => {}
            Some(command) => steps.push(Step { command: command.to_owned(), printed: Vec::new() }),
            None => steps.last_mut().unwrap().printed.push(line.to_owned()),
        }
    }
    steps
}

fn the_publishing_transcript_is_true() {
    let user = User::new();
    for (tag, version) in [("tools", "1"), ("tools-2", "2")] {
        let warm = format!("echo {version} > /run/version");
        assert_eq!(bake(&user, tag, &busybox(), &["--warm", &warm]).code, 0);
    }
    assert_eq!(bake(&user, "base", &busybox(), &[]).code, 0);
    for (tag, version) in [("agent", "1"), ("agent-2", "2")] {
        let exec = format!("echo {version} > /run/version");
        user.ok_noted(&["snapshot-diff", "--from", "base", "--tag", tag, "--exec", &exec]);
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut command = Command::new("bash");
    let bin = Path::new(env!("CARGO_BIN_EXE_forkd")).parent().unwrap();
    for (name, value) in user.command(&[]).get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    // What forkd says of itself is in the same order as what it answers.
    let mut shell = command
        .env("PATH", path)
        .current_dir(user.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut input = shell.stdin.take().unwrap();
    let mut lines = BufReader::new(shell.stdout.take().unwrap()).lines();
    let all = steps();
    assert!(all.len() > 20, "{}", all.len());
    for Step { command, printed } in &all {
        let typed = command.replace("8000", &port);
        writeln!(input, "{typed}\necho \"--ended $?\"").unwrap();
        if typed.ends_with('&') {
            writeln!(input, "until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))'; do sleep 0.1; done").unwrap();
        }
        let mut found = Vec::new();
        let code = loop {
            let line = lines.next().unwrap_or_else(|| panic!("{command}: the shell has ended")).unwrap();
            match line.strip_prefix("--ended ") {
                Some(code) => break code.to_owned(),
                None => found.push(user.plain(&line.replace(&port, "8000"))),
            }
        };
        println!("$ {command}\n{}", found.join("\n"));
        assert_eq!(code, "0", "{command}");
        compare(command, &found, &printed.iter().map(|line| user.plain(line)).collect::<Vec<_>>());
    }
    writeln!(input, "kill %1").unwrap();
    drop(input);
    shell.wait().unwrap();
}

/// Lines are as they are printed, whatever their numbers and blanks are; `  …` stands for any.
fn compare(command: &str, found: &[String], printed: &[String]) {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let open = printed.last().is_some_and(|line| line.trim() == "…");
    let wanted = &printed[..printed.len() - usize::from(open)];
    if !open {
        assert_eq!(found.len(), wanted.len(), "{command}: {found:#?}");
    }
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(words(found), words(wanted), "{command}");
    }
    assert!(found.len() >= wanted.len(), "{command}: {found:#?}");
}
