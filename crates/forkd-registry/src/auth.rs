//! What lets us into a registry: a token from the server that it names, or a password.

use crate::credentials::Credentials;
use crate::options::{RegistryOptions, locked};
use crate::reference::RegistryReference;
use crate::refusal::is_transient;
use forkd_core::{Cancel, Error, Kind, Result};
use forkd_http::challenge::Challenge;
use forkd_http::{
    Authority, Failure, HttpClient, HttpOptions, HttpRequest, SmallAnswer, Try, retry_after, same_origin,
};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Mutex;
use url::form_urlencoded::Serializer;
use url::{Host, Url};

/// The door of one repository: what lets us in; nothing until a server asks for it.
pub(crate) struct RegistryDoor {
    pub(crate) reference: RegistryReference,
    pub(crate) options: RegistryOptions,
    /// What is to be done there: `pull`, or `pull,push`.
    actions: &'static str,
    /// Other repositories of the registry that blobs may be taken over from.
    neighbours: Mutex<Vec<String>>,
    state: Mutex<DoorState>,
}

#[derive(Default)]
struct DoorState {
    header: Option<HeaderValue>,
    /// Where the credentials came from, once they have been looked for.
    from: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Authority for RegistryDoor {
    fn header(&self, url: &Url) -> Option<HeaderValue> {
        let own = Url::parse(&self.reference.base(self.is_plain())).ok()?;
        locked(&self.state).header.clone().filter(|_| same_origin(url, &own))
    }

    fn refresh(&self, challenges: &[Challenge], used: Option<&HeaderValue>) -> Try<()> {
        // Connections of its own: those that asked are at work.
        let direct = self.reference.is_loopback();
        let http = HttpClient::new(&HttpOptions { direct, ..self.options.http.clone() })?;
        self.knock(&http, challenges, used, &Cancel::default())
    }
}

impl RegistryDoor {
    pub(crate) fn new(
        reference: RegistryReference,
        options: &RegistryOptions,
        actions: &'static str,
    ) -> Self {
        let (neighbours, state) = (Mutex::default(), Mutex::default());
        Self { reference, options: options.clone(), actions, neighbours, state }
    }

    /// Whether the user asked for no TLS.
    pub(crate) fn is_plain(&self) -> bool {
        self.options.plain.iter().any(|host| host == self.reference.host())
    }

    /// From now on blobs may be taken over from another repository too: what let us in so far may not say so.
    pub(crate) fn add_neighbour(&self, repository: &str) {
        let mut neighbours = locked(&self.neighbours);
        if !neighbours.iter().any(|known| known == repository) {
            neighbours.push(repository.to_owned());
            let mut state = locked(&self.state);
            if state.header.as_ref().is_some_and(|header| header.as_bytes().starts_with(b"Bearer ")) {
                state.header = None;
            }
        }
    }

    /// Where the credentials came from that were used last.
    pub(crate) fn from(&self) -> Option<PathBuf> {
        locked(&self.state).from.clone()
    }

    /// Gets what a server asks for, unless another thread just has.
    pub(crate) fn knock(
        &self,
        http: &HttpClient,
        challenges: &[Challenge],
        used: Option<&HeaderValue>,
        cancel: &Cancel,
    ) -> Try<()> {
        let mut state = locked(&self.state);
        if state.header.is_some() && state.header.as_ref() != used {
            return Ok(());
        }
        let found = self.options.files.find(&self.reference, cancel)?;
        let (credentials, from) = found.map_or((None, None), |(c, path)| (Some(c), Some(path)));
        state.from = from;
        state.header =
            Some(self.let_in(http, challenges, (credentials.as_ref(), state.from.as_ref()), cancel)?);
        Ok(())
    }

    /// What to say to a server that asks so.
    pub(crate) fn let_in(
        &self,
        http: &HttpClient,
        challenges: &[Challenge],
        (credentials, from): (Option<&Credentials>, Option<&PathBuf>),
        cancel: &Cancel,
    ) -> Try<HeaderValue> {
        let has = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        if let Some(bearer) = has("bearer") {
            let token = self.token(http, bearer, credentials, from, cancel)?;
            return Ok(secret_header(&format!("Bearer {token}"))?);
        }
        match credentials.filter(|_| has("basic").is_some()) {
            Some(Credentials::Password { user, password }) => Ok(basic(user, &password.0)?),
            _ => Err(self.unauthorised(from).into()),
        }
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
        if !is_private(&realm, self.reference.is_loopback() || self.is_plain()) {
            return Err(general("it wants credentials sent without TLS").into());
        }
        if credentials.is_some() && !self.trusts(&realm) {
            let elsewhere = realm.host_str().unwrap_or_default();
            let message = format!(
                "{host}: its token server is on another host, {elsewhere}, which is told no password unasked"
            );
            let hint = format!("where that is right, set FORKD_TOKEN_SERVERS={elsewhere}");
            return Err(Error::new(Kind::Unauthorised, message).hint(hint).into());
        }
        let mut fields = Vec::new();
        if !self.reference.repository().is_empty() {
            fields.push(("scope", format!("repository:{}:{}", self.reference.repository(), self.actions)));
            for other in locked(&self.neighbours).iter() {
                fields.push(("scope", format!("repository:{other}:pull")));
            }
        }
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

    /// Whether a token server is the registry's own: on its host, or on the domain that its host is in, or one that the user trusts.
    fn trusts(&self, realm: &Url) -> bool {
        let Some(elsewhere) = realm.host_str() else { return false };
        let host = self.reference.host_name();
        let is_below =
            host.strip_suffix(elsewhere).is_some_and(|before| before.is_empty() || before.ends_with('.'));
        let is_hub = self.reference.is_docker_hub() && elsewhere == "auth.docker.io";
        // A domain of one label is no one's own.
        (is_below && (host == elsewhere || elsewhere.contains('.')))
            || is_hub
            || self.options.realms.iter().any(|trusted| trusted == elsewhere)
    }

    pub(crate) fn unauthorised(&self, from: Option<&PathBuf>) -> Error {
        let (host, repository) = (self.reference.host(), self.reference.repository());
        let login = format!("`forkd login {host}`");
        let (message, hint) = match from {
            Some(path) => (
                format!(
                    "{host} refuses '{repository}' to the credentials from {}: the repository does not exist, or they lack the right \
for this, or have expired",
                    path.display()
                ),
                format!("log in again by {login}"),
            ),
            None => (
                format!(
                    "{host}: '{repository}' does not exist, or needs credentials, and there are none for this host in: {}",
                    self.options.files.names()
                ),
                format!("log in by {login}"),
            ),
        };
        Error::new(Kind::Unauthorised, message).hint(hint)
    }
}

/// Whether nobody between hears what a token server is told: over TLS, or where both it and the registry are on this machine.
fn is_private(realm: &Url, registry_is_here: bool) -> bool {
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
        let may = |realm: &str, here| is_private(&realm.parse().unwrap(), here);
        assert!(may("https://auth.example/token", false) && may("https://auth.example/token", true));
        assert!(may("http://127.0.0.1:5001/token", true) && may("http://localhost/token", true));
        assert!(may("http://[::1]:5001/token", true));
        assert!(!may("http://auth.example/token", false) && !may("http://auth.example/token", true));
        assert!(!may("http://127.0.0.1/token", false));
        assert!(!may("http://127.0.0.1.example/token", true) && !may("ftp://127.0.0.1/", true));
    }
}
