//! Who we are to plain web servers: a token for one of them, and passwords of a `.netrc` for others.

use crate::authority::Authority;
use crate::challenge::Challenge;
use crate::failure::Try;
use crate::redirect::same_origin;
use reqwest::header::HeaderValue;
use std::collections::HashMap;
use url::{Host, Url};

/// What is said to web servers.
#[derive(Default)]
pub struct WebAuthority {
    /// A URL of the server that is told the token.
    token: Option<(Url, HeaderValue)>,
    /// By host; the empty one stands for all others.
    passwords: HashMap<String, HeaderValue>,
}

impl WebAuthority {
    /// With a token for the server of a URL, and the text of a `.netrc`. What cannot be said in a header is left out.
    #[must_use]
    pub fn new(token: Option<(&Url, &str)>, netrc: &str) -> Self {
        let secret = |text: String| {
            let mut value = HeaderValue::try_from(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        };
        let token = token.and_then(|(url, token)| Some((url.clone(), secret(format!("Bearer {token}"))?)));
        let passwords = entries(netrc).into_iter().filter_map(|entry| {
            let pair = base64::Engine::encode(
                &base64::prelude::BASE64_STANDARD,
                format!("{}:{}", entry.login, entry.password),
            );
            Some((entry.machine, secret(format!("Basic {pair}"))?))
        });
        Self { token, passwords: passwords.collect() }
    }

    /// Whether it says nothing to anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.token.is_none() && self.passwords.is_empty()
    }
}

/// Whether nobody between hears what a server is told.
fn is_private(url: &Url) -> bool {
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || here
}

impl Authority for WebAuthority {
    fn header(&self, url: &Url) -> Option<HeaderValue> {
        // A URL may say it itself, in its user information or its signature.
        if !is_private(url) || !url.username().is_empty() || url.query().is_some() {
            return None;
        }
        if let Some((known, token)) = &self.token
            && same_origin(known, url)
        {
            return Some(token.clone());
        }
        self.passwords.get(url.host_str()?).or(self.passwords.get("")).cloned()
    }

    fn refresh(&self, _: &[Challenge], _: Option<&HeaderValue>) -> Try<()> {
        Ok(())
    }
}

#[derive(Default)]
struct NetrcEntry {
    machine: String,
    login: String,
    password: String,
}

/// The entries of a `.netrc`; macros and accounts are passed over.
fn entries(text: &str) -> Vec<NetrcEntry> {
    let mut words =
        text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    let mut found: Vec<NetrcEntry> = Vec::new();
    while let Some(word) = words.next() {
        match (word, found.last_mut()) {
            ("default", _) => found.push(NetrcEntry::default()),
            ("machine", _) => {
                let machine = words.next().unwrap_or_default().to_owned();
                found.push(NetrcEntry { machine, ..NetrcEntry::default() });
            }
            ("login", Some(entry)) => entry.login = words.next().unwrap_or_default().to_owned(),
            ("password", Some(entry)) => entry.password = words.next().unwrap_or_default().to_owned(),
            ("account", _) => drop(words.next()),
            _ => {}
        }
    }
    // Of several for one machine the first counts.
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_told_what_is_for_it() {
        let hub: Url = "https://hub.example/registry.json".parse().unwrap();
        let netrc = "machine a.example login u password p\nmachine a.example login x password y\n# machine c.example\n\
machine b.example\n  login v\n  password w";
        let authority = WebAuthority::new(Some((&hub, "t0k")), netrc);
        let said = |url: &str| {
            let header = authority.header(&url.parse().unwrap());
            header.map(|header| header.to_str().unwrap().to_owned())
        };
        assert_eq!(said("https://hub.example/x").as_deref(), Some("Bearer t0k"));
        assert_eq!(said("https://a.example/x").as_deref(), Some("Basic dTpw"));
        assert_eq!(said("https://b.example/x").as_deref(), Some("Basic djp3"));
        for url in [
            "https://other.example/",
            "http://a.example/",
            "http://hub.example/",
            "https://hub.example:8443/",
            "https://me@a.example/",
            "https://a.example/x?X-Amz-Signature=1",
            "https://c.example/",
        ] {
            assert_eq!(said(url), None, "{url}");
        }
        assert!(WebAuthority::new(None, "").is_empty());
        let all = WebAuthority::new(None, "default login a password b");
        assert!(all.header(&"https://x.example/".parse().unwrap()).is_some());
    }
}
