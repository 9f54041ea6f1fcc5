//! Logging in and out: credentials are tried, then kept where containers' tools keep theirs.

use crate::auth::RegistryDoor;
use crate::client::RegistryClient;
use crate::credentials::Credentials;
use crate::options::RegistryOptions;
use crate::reference::RegistryReference;
use crate::secret::Secret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use forkd_core::{Cancel, Error, Kind, Result};
use forkd_http::{HttpRequest, challenge};
use reqwest::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use url::Url;

/// Who was let in, and where that is kept.
#[derive(Debug, Clone, Serialize)]
pub struct LoginReport {
    pub host: String,
    /// The file or the credential helper that has it now.
    pub kept_in: String,
}

/// Tries credentials with a registry, and keeps them in a file, or with the helper that the file names for the host.
///
/// # Errors
/// [`Kind::Unauthorised`] where the registry does not take them; nothing is kept then.
pub fn login(
    host: &str,
    (user, password): (&str, Secret),
    keep: &Path,
    options: &RegistryOptions,
    cancel: &Cancel,
) -> Result<LoginReport> {
    let reference = RegistryReference::of_host(host)?;
    let credentials = Credentials::Password { user: user.to_owned(), password: password.clone() };
    try_out(&reference, &credentials, options, cancel)?;
    let kept_in = match crate::credentials::helper_for(keep, &reference)? {
        Some(helper) => {
            crate::credentials::store_with(&helper, reference.server(), user, &password, cancel)?;
            helper
        }
        None => {
            let auth = BASE64_STANDARD.encode(format!("{user}:{}", password.0));
            edit(keep, |auths| {
                let mut entry = Map::new();
                entry.insert("auth".into(), auth.into());
                auths.insert(reference.key().to_owned(), entry.into());
                true
            })?;
            keep.display().to_string()
        }
    };
    Ok(LoginReport { host: reference.host().to_owned(), kept_in })
}

/// Forgets a registry's credentials, in all files that have some and with their helpers; gives these.
///
/// # Errors
/// [`Kind::NotFound`] where none has.
pub fn logout(host: &str, files: &[PathBuf], cancel: &Cancel) -> Result<Vec<String>> {
    let reference = RegistryReference::of_host(host)?;
    let mut left = Vec::new();
    for file in files {
        if let Some(helper) = crate::credentials::helper_for(file, &reference)?
            && crate::credentials::erase_with(&helper, reference.server(), cancel)?
        {
            left.push(helper);
        }
        let is_own = |key: &str| crate::credentials::normal(key) == reference.host();
        let removed = edit(file, |auths| {
            let before = auths.len();
            auths.retain(|key, _| !is_own(key));
            auths.len() < before
        })?;
        if removed {
            left.push(file.display().to_string());
        }
    }
    if left.is_empty() {
        let message = format!("no credentials for {} are kept", reference.host());
        return Err(Error::new(Kind::NotFound, message));
    }
    Ok(left)
}

/// Asks the registry's root, as these users.
fn try_out(
    reference: &RegistryReference,
    credentials: &Credentials,
    options: &RegistryOptions,
    cancel: &Cancel,
) -> Result<()> {
    let client = RegistryClient::new(reference.clone(), options);
    let door = RegistryDoor::new(reference.clone(), options, "pull");
    let http = client.http()?;
    let root = format!("{}/", reference.base(door.is_plain()));
    let root =
        Url::parse(&root).map_err(|e| Error::new(Kind::Usage, format!("{}: {e}", reference.host())))?;
    let what = reference.host().to_owned();
    http.with_retries(cancel, || {
        let first = http.send(&HttpRequest::get(root.clone()), &what, cancel)?;
        if first.status() != StatusCode::UNAUTHORIZED {
            if first.status().is_success() {
                return Ok(());
            }
            return Err(client.refusal(&http, first, "", cancel));
        }
        let header = door.let_in(&http, &challenge::of(&first), (Some(credentials), None), cancel).map_err(
            |mut failed| {
                if failed.error.kind() == Kind::Unauthorised
                    && failed.error.guidance().is_none_or(|hint| !hint.contains("FORKD_"))
                {
                    failed.error = refused(&what);
                }
                failed
            },
        )?;
        let mut request = HttpRequest::get(root.clone());
        request.headers.insert(reqwest::header::AUTHORIZATION, header);
        let second = http.send(&request, &what, cancel)?;
        match second.status() {
            status if status.is_success() => Ok(()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused(&what).into()),
            _ => Err(client.refusal(&http, second, "", cancel)),
        }
    })
}

fn refused(host: &str) -> Error {
    Error::new(Kind::Unauthorised, format!("{host} does not take this name and password"))
        .hint("check both; some registries want a token in the password's place")
}

/// Changes the entries of a file of credentials, which others may read at any time; says whether anything was changed. What else is
/// in it stays.
fn edit(path: &Path, change: impl FnOnce(&mut Map<String, Value>) -> bool) -> Result<bool> {
    let wrong = || {
        Error::new(Kind::Unauthorised, format!("{}: not a file of credentials, or damaged", path.display()))
    };
    let mut all: Map<String, Value> = match std::fs::read(path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Map::new(),
        Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => Map::new(),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| wrong())?,
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    let auths = all.entry("auths").or_insert_with(|| Map::new().into()).as_object_mut().ok_or_else(wrong)?;
    if !change(auths) {
        return Ok(false);
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let failed = || Error::io("write", path);
    // Made for its owner alone.
    let mut temp = tempfile::Builder::new().prefix(".auth-").tempfile_in(dir).map_err(failed())?;
    let text = serde_json::to_string_pretty(&all).unwrap_or_default();
    temp.write_all(text.as_bytes()).map_err(failed())?;
    temp.as_file().sync_all().map_err(failed())?;
    temp.persist(path).map_err(|e| failed()(e.error))?;
    Ok(true)
}
