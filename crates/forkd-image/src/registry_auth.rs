//! What lets us into a registry: a token from the server that it names, or a password.

use crate::credentials::Credentials;
use crate::registry::{RegistryClient, is_transient, locked};
use forkd_core::{Cancel, Error, Kind, Result};
use forkd_http::challenge::{self, Challenge};
use forkd_http::{Failure, HttpClient, HttpRequest, SmallAnswer, Try, retry_after};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use std::path::PathBuf;
use url::form_urlencoded::Serializer;
use url::{Host, Url};

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl RegistryClient {
    /// Gets what a server asks for, unless another thread just has.
    pub(crate) fn authorise(
        &self,
        http: &HttpClient,
        response: &Response,
        used: Option<&HeaderValue>,
        cancel: &Cancel,
    ) -> Try<()> {
        let mut auth = locked(&self.auth);
        if auth.header.as_ref() != used {
            return Ok(());
        }
        let asked = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges: Vec<Challenge> =
            asked.iter().filter_map(|v| v.to_str().ok()).flat_map(challenge::parse).collect();
        let found = self.files.find(&self.reference, cancel)?;
        let (credentials, from) = found.map_or((None, None), |(c, path)| (Some(c), Some(path)));
        auth.from = from;
        let has = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        if let Some(bearer) = has("bearer") {
            let from = auth.from.clone();
            let token = self.token(http, bearer, credentials.as_ref(), from.as_ref(), cancel)?;
            auth.header = Some(secret_header(&format!("Bearer {token}"))?);
        } else if has("basic").is_some() {
            let Some(Credentials::Password { user, password }) = &credentials else {
                return Err(self.unauthorised(auth.from.as_ref()).into());
            };
            auth.header = Some(basic(user, &password.0)?);
        } else {
            return Err(self.unauthorised(auth.from.as_ref()).into());
        }
        Ok(())
    }

    /// Asks the registry's token server.
    fn token(
        &self,
        http: &HttpClient,
        bearer: &Challenge,
        credentials: Option<&Credentials>,
        from: Option<&PathBuf>,
        cancel: &Cancel,
    ) -> Try<String> {
        let host = self.reference.host();
        let general = |why: &str| Error::new(Kind::General, format!("{host}: {why}"));
        let realm = bearer.get("realm").and_then(|realm| Url::parse(realm).ok());
        let mut realm = realm.ok_or_else(|| general("it asks for a token without saying where"))?;
        if !may_have_credentials(&realm, self.reference.is_loopback()) {
            return Err(general("it wants credentials sent without TLS").into());
        }
        let mut fields = vec![("scope", format!("repository:{}:pull", self.reference.repository()))];
        fields.extend(bearer.get("service").map(|service| ("service", service.to_owned())));
        let request = match credentials {
            Some(Credentials::Identity(token)) => {
                fields.extend([
                    ("grant_type", "refresh_token".to_owned()),
                    ("client_id", "forkd".to_owned()),
                    ("refresh_token", token.0.clone()),
                ]);
                let form = Serializer::new(String::new()).extend_pairs(fields).finish();
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind)]);
                HttpRequest { method: Method::POST, headers, form: Some(form), ..HttpRequest::get(realm) }
            }
            other => {
                realm.query_pairs_mut().extend_pairs(fields);
                let mut request = HttpRequest::get(realm);
                if let Some(Credentials::Password { user, password }) = other {
                    request.headers.insert(AUTHORIZATION, basic(user, &password.0)?);
                }
                request
            }
        };
        let what = format!("{host}: the token server");
        let small = SmallAnswer { limit: 1 << 20, deadline: http.answer_deadline() };
        let request = HttpRequest { deadline: Some(small.deadline), ..request };
        let response = http.send(&request, &what, cancel)?;
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.unauthorised(from).into()),
            status if !status.is_success() => {
                let kind = if is_transient(status) { Kind::Transient } else { Kind::General };
                let wait = retry_after(response.headers());
                return Err(Failure {
                    error: Error::new(kind, format!("{what} answers {status}")),
                    retry_after: wait,
                });
            }
            _ => {}
        }
        let bytes = http.read_small(response, small, &what, cancel)?;
        let token: Option<Token> = serde_json::from_slice(&bytes).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        token.ok_or_else(|| general("the token server's answer has no token").into())
    }

    pub(crate) fn unauthorised(&self, from: Option<&PathBuf>) -> Error {
        let (host, repository) = (self.reference.host(), self.reference.repository());
        let login = format!("`docker login {host}` or `podman login {host}`");
        let (message, hint) = match from {
            Some(path) => (
                format!(
                    "{host} refuses '{repository}' to the credentials from {}: the repository does not exist, or they may not read \
it or have expired",
                    path.display()
                ),
                format!("log in again by {login}"),
            ),
            None => (
                format!(
                    "{host}: '{repository}' does not exist, or needs credentials, and there are none for this host in: {}",
                    self.files.names()
                ),
                format!("log in by {login}"),
            ),
        };
        Error::new(Kind::Unauthorised, message).hint(hint)
    }
}

/// Whether a token server may be told who we are: over TLS, or where both it and the registry are on this machine.
fn may_have_credentials(realm: &Url, registry_is_here: bool) -> bool {
    let here = match realm.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    realm.scheme() == "https" || (realm.scheme() == "http" && registry_is_here && here)
}

fn basic(user: &str, password: &str) -> Result<HeaderValue> {
    use base64::Engine;
    secret_header(&format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"))))
}

/// A header that no log shows.
fn secret_header(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Error::new(Kind::General, "a token with characters that no header may hold"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_go_over_tls_or_nowhere_else() {
        let may = |realm: &str, here| may_have_credentials(&realm.parse().unwrap(), here);
        assert!(may("https://auth.example/token", false) && may("https://auth.example/token", true));
        assert!(may("http://127.0.0.1:5001/token", true) && may("http://localhost/token", true));
        assert!(may("http://[::1]:5001/token", true));
        assert!(!may("http://auth.example/token", false) && !may("http://auth.example/token", true));
        assert!(!may("http://127.0.0.1/token", false));
        assert!(!may("http://127.0.0.1.example/token", true) && !may("ftp://127.0.0.1/", true));
    }
}
