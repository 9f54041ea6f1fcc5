//! The `WWW-Authenticate` header (RFC 9110, 11.6.1): which kind of credentials a server wants.

use reqwest::Response;
use reqwest::header::WWW_AUTHENTICATE;

/// One way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// `bearer` or `basic`, in lower case.
    pub scheme: String,
    /// Its parameters; names in lower case.
    pub parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The ways in that an answer names.
#[must_use]
pub fn of(response: &Response) -> Vec<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE);
    headers.iter().filter_map(|value| value.to_str().ok()).flat_map(parse).collect()
}

/// Reads a header; what cannot be read is left out.
#[must_use]
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut list: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let word = rest[..end].to_ascii_lowercase();
        if word.is_empty() {
            return list;
        }
        let after = rest[end..].trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), list.last_mut()) {
            (Some(value), Some(last)) => {
                let (value, left) = parameter(value.trim_start_matches([' ', '\t']));
                last.parameters.push((word, value));
                rest = left;
            }
            (Some(_), None) => return list,
            (None, _) => {
                list.push(Challenge { scheme: word, parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let list = parse(r#"Bearer realm="https://a/t,x",service="reg\"y" , scope=a:b:c, Basic realm=x"#);
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].scheme.as_str(), list[0].get("realm")), ("bearer", Some("https://a/t,x")));
        assert_eq!((list[0].get("service"), list[0].get("scope")), (Some("reg\"y"), Some("a:b:c")));
        assert_eq!((list[1].scheme.as_str(), list[1].get("realm")), ("basic", Some("x")));
        assert_eq!(parse("Basic")[0].scheme, "basic");
        for odd in ["", "=", ",,,", "a=\"", "Bearer realm=\"x\\", "é=é"] {
            let _ = parse(odd);
        }
    }
}
