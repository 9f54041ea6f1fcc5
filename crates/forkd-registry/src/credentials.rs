//! User names and passwords from where docker and podman keep them.

use crate::reference::RegistryReference;
use crate::secret::Secret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use forkd_core::{Cancel, Error, Kind, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const MAX_FILE: u64 = 4 << 20;
/// A helper may ask the user to unlock a keyring.
const HELPER_TIME: Duration = Duration::from_secs(60);

/// The files that are looked into, in this order: docker's `config.json` and podman's `auth.json` alike.
#[derive(Debug, Clone, Default)]
pub struct CredentialFiles(pub Vec<PathBuf>);

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    Password {
        user: String,
        password: Secret,
    },
    /// What a login gave in place of a password, good for tokens only.
    Identity(Secret),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    auths: Option<HashMap<String, Entry>>,
    creds_store: Option<String>,
    cred_helpers: Option<HashMap<String, String>>,
}

#[derive(Deserialize, Default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl CredentialFiles {
    /// For messages: which files were looked into.
    pub(crate) fn names(&self) -> String {
        if self.0.is_empty() {
            return "no file of credentials".into();
        }
        self.0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The first credentials for a reference, and the file that named them.
    ///
    /// # Errors
    /// [`Kind::Unauthorised`] where a file or helper cannot be understood.
    pub(crate) fn find(
        &self,
        reference: &RegistryReference,
        cancel: &Cancel,
    ) -> Result<Option<(Credentials, PathBuf)>> {
        for path in &self.0 {
            let wrong = |why: &str| Error::new(Kind::Unauthorised, format!("{}: {why}", path.display()));
            let mut bytes = Vec::new();
            match File::open(path) {
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
                file => {
                    let file = file.map_err(Error::io("open", path))?;
                    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
                }
            }
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            // The parser's own words may quote what it stumbled over.
            let raw: Raw =
                serde_json::from_slice(&bytes).map_err(|_| wrong("not a file of credentials, or damaged"))?;
            if let Some(found) = search(raw, reference, &wrong, cancel)? {
                return Ok(Some((found, path.clone())));
            }
        }
        Ok(None)
    }
}

fn search(
    raw: Raw,
    reference: &RegistryReference,
    wrong: &dyn Fn(&str) -> Error,
    cancel: &Cancel,
) -> Result<Option<Credentials>> {
    let host = reference.host();
    let server = reference.server();
    let ask = |name: &str| {
        let program =
            helper_program(name).ok_or_else(|| wrong("the name of a credential helper is not one"))?;
        run_helper(&OsString::from(program), server, HELPER_TIME, cancel)
    };
    let mut helpers = raw.cred_helpers.unwrap_or_default().into_iter();
    if let Some((_, name)) = helpers.find(|(key, _)| normal(key) == host)
        && let Some(found) = ask(&name)?
    {
        return Ok(Some(found));
    }
    // podman: the entry for the longest part of the name goes first.
    let whole = format!("{host}/{}", reference.repository());
    let mut entries: Vec<(String, Entry)> =
        raw.auths.unwrap_or_default().into_iter().map(|(key, entry)| (normal(&key), entry)).collect();
    entries.retain(|(key, _)| {
        whole.strip_prefix(key.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    entries.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
    for (_, entry) in entries {
        if let Some(token) = entry.identitytoken.filter(|token| !token.is_empty()) {
            return Ok(Some(Credentials::Identity(Secret(token))));
        }
        if let Some(auth) = entry.auth.filter(|auth| !auth.is_empty()) {
            let decoded = BASE64_STANDARD.decode(auth.trim()).ok().and_then(|b| String::from_utf8(b).ok());
            let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
            let (user, password) = pair.ok_or_else(|| wrong("an 'auth' is not base64 of user:password"))?;
            let password = Secret(password.trim_end_matches('\0').to_owned());
            return Ok(Some(Credentials::Password { user: user.to_owned(), password }));
        }
        if let (Some(user), Some(password)) = (entry.username, entry.password) {
            return Ok(Some(Credentials::Password { user, password: Secret(password) }));
        }
    }
    raw.creds_store.filter(|name| !name.is_empty()).map_or(Ok(None), |name| ask(&name))
}

/// A key as hosts are named here: Docker's are URLs.
pub(crate) fn normal(key: &str) -> String {
    let key = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or(key.strip_suffix("/v2")).unwrap_or(key);
    match key.split_once('/').map_or((key, ""), |(host, rest)| (host, rest)) {
        ("index.docker.io" | "registry-1.docker.io", "") => "docker.io".to_owned(),
        _ => key.to_owned(),
    }
}

/// The program of a helper. Its name must not become a path.
fn helper_program(name: &str) -> Option<String> {
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    is_name.then(|| format!("docker-credential-{name}"))
}

/// The helper that a file names for a registry, if it names one.
pub(crate) fn helper_for(path: &Path, reference: &RegistryReference) -> Result<Option<String>> {
    let wrong = |why: &str| Error::new(Kind::Unauthorised, format!("{}: {why}", path.display()));
    let bytes = match std::fs::read(path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        bytes => bytes.map_err(Error::io("read", path))?,
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let raw: Raw =
        serde_json::from_slice(&bytes).map_err(|_| wrong("not a file of credentials, or damaged"))?;
    let mut helpers = raw.cred_helpers.unwrap_or_default().into_iter();
    let own = helpers.find(|(key, _)| normal(key) == reference.host()).map(|(_, name)| name);
    let name = own.or(raw.creds_store).filter(|name| !name.is_empty());
    name.map(|name| helper_program(&name).ok_or_else(|| wrong("the name of a credential helper is not one")))
        .transpose()
}

/// Gives a helper a password to keep.
pub(crate) fn store_with(
    program: &str,
    server: &str,
    user: &str,
    password: &Secret,
    cancel: &Cancel,
) -> Result<()> {
    let input =
        serde_json::json!({ "ServerURL": server, "Username": user, "Secret": password.0 }).to_string();
    let (status, _) = talk(&OsString::from(program), "store", &input, HELPER_TIME, cancel)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(Kind::Unauthorised, format!("{program} ended with {status}")))
}

/// Has a helper forget a password; says whether it had one.
pub(crate) fn erase_with(program: &str, server: &str, cancel: &Cancel) -> Result<bool> {
    let (status, _) = talk(&OsString::from(program), "erase", server, HELPER_TIME, cancel)?;
    Ok(status.success())
}

/// Asks a credential helper for what it keeps for a server.
fn run_helper(
    program: &OsString,
    server: &str,
    limit: Duration,
    cancel: &Cancel,
) -> Result<Option<Credentials>> {
    let name = Path::new(program).display().to_string();
    let failed = |why: String| Error::new(Kind::Unauthorised, format!("{name} {why}"));
    let (status, bytes) = talk(program, "get", server, limit, cancel)?;
    if !status.success() {
        // The one failure that the protocol gives words for.
        return if String::from_utf8_lossy(&bytes).contains("credentials not found") {
            Ok(None)
        } else {
            Err(failed(format!("ended with {status}")))
        };
    }
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| failed("gave no JSON answer".into()))?;
    let secret = Secret(answer.secret);
    Ok(Some(if answer.username == "<token>" {
        Credentials::Identity(secret)
    } else {
        Credentials::Password { user: answer.username, password: secret }
    }))
}

/// Speaks to a credential helper (docker-credential-helpers' protocol): one word as its argument, a question on its input, an answer on
/// its output.
fn talk(
    program: &OsString,
    word: &str,
    question: &str,
    limit: Duration,
    cancel: &Cancel,
) -> Result<(ExitStatus, Vec<u8>)> {
    let name = Path::new(program).display().to_string();
    let failed = |why: String| Error::new(Kind::Unauthorised, format!("{name} {why}"));
    let mut child = Command::new(program)
        .arg(word)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(format!("cannot be started ({e}), and a file of credentials names it")))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper may end without reading; its answer counts.
        let _ = input.write_all(question.as_bytes());
    }
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = output.map(|output| output.take(1 << 20).read_to_end(&mut bytes));
        bytes
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| failed(format!("cannot be waited for: {e}")))? {
            break status;
        }
        if cancel.is_cancelled() || begun.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            cancel.check()?;
            return Err(failed(format!("gave no answer in {} s", limit.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Ok((status, reader.join().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn find(json: &str, reference: &str) -> Result<Option<Credentials>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        std::fs::write(&path, json).unwrap();
        let files = CredentialFiles(vec![dir.path().join("none"), path]);
        Ok(files.find(&reference.parse().unwrap(), &Cancel::default())?.map(|(found, _)| found))
    }

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { user: user.into(), password: Secret(password.into()) })
    }

    #[test]
    fn entries_are_found_under_all_their_names() {
        // "u:p:q"
        let auth = r#"{"auth":"dTpwOnE="}"#;
        for (key, reference, found) in [
            ("ghcr.io", "ghcr.io/a/b", true),
            ("https://ghcr.io/v2/", "ghcr.io/a/b", true),
            ("ghcr.io/a", "ghcr.io/a/b", true),
            ("ghcr.io/a", "ghcr.io/ab/c", false),
            ("https://index.docker.io/v1/", "python", true),
            ("docker.io", "user/x", true),
            ("localhost:5000", "localhost:5000/x", true),
            ("localhost", "localhost:5000/x", false),
        ] {
            let json = format!(r#"{{"auths":{{"{key}":{auth}}}}}"#);
            assert_eq!(find(&json, reference).unwrap(), password("u", "p:q").filter(|_| found), "{key}");
        }
        let json = r#"{"auths":{"h.io":{"auth":"dTpwOnE="},"h.io/a":{"username":"x","password":"y"}}}"#;
        assert_eq!(find(json, "h.io/a/b").unwrap(), password("x", "y"));
        let json = r#"{"auths":{"h.io":{"identitytoken":"t"}},"credsStore":""}"#;
        assert_eq!(find(json, "h.io/a").unwrap(), Some(Credentials::Identity(Secret("t".into()))));
        assert_eq!(find("", "h.io/a").unwrap(), None);
        for bad in [
            r#"{"auths":{"h.io":{"auth":"c2VjcmV0"}}}"#,
            r#"{"auths": "hunter2"}"#,
            r#"{"credsStore":"../x"}"#,
        ] {
            let error = find(bad, "h.io/a").unwrap_err();
            assert_eq!(error.kind(), Kind::Unauthorised);
            assert!(!error.to_string().contains("c2VjcmV0") && !error.to_string().contains("hunter2"));
        }
        assert!(!format!("{:?}", password("u", "hunter2")).contains("hunter2"));
    }

    #[test]
    fn helpers_are_asked() {
        let dir = tempfile::tempdir().unwrap();
        let ask = |script: &str| {
            // Each in its own file, written by another process: one that this one still holds open cannot be run.
            let path = dir.path().join(Digest::of(script.as_bytes()).short());
            let made = path.with_extension("new");
            std::fs::write(&made, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&made, std::fs::Permissions::from_mode(0o755)).unwrap();
            assert!(Command::new("cp").arg(&made).arg(&path).status().unwrap().success());
            run_helper(&path.into_os_string(), "h.io", Duration::from_secs(2), &Cancel::default())
        };
        use forkd_format::Digest;
        let script =
            r#"read -r host; echo "{\"ServerURL\":\"$host\",\"Username\":\"u\",\"Secret\":\"of $host\"}""#;
        assert_eq!(ask(script).unwrap(), password("u", "of h.io"));
        let token = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        assert_eq!(ask(token).unwrap(), Some(Credentials::Identity(Secret("t".into()))));
        assert_eq!(ask("echo credentials not found in native keychain; exit 1").unwrap(), None);
        for (bad, words) in
            [("exit 3", "exit status: 3"), ("echo hunter2", "no JSON"), ("exec sleep 30", "no answer")]
        {
            let error = ask(bad).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("hunter2"), "{error}");
        }
    }
}
