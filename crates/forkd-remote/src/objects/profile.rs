//! Credentials of the AWS conventions that lie in files: `~/.aws/credentials` and `~/.aws/config`, a section a profile.

use configparser::ini::{Ini, IniDefault};
use forkd_core::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What the environment says of an S3 store: variables by their names, and where files lie.
#[derive(Debug, Clone, Default)]
pub struct AwsSettings {
    /// `AWS_…` variables.
    pub variables: BTreeMap<String, String>,
    /// The user's folder, for `~/.aws`.
    pub home: Option<PathBuf>,
}

/// Keys of a profile and the variables that say the same.
const KEYS: [(&str, &str); 5] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
    ("region", "AWS_REGION"),
    ("endpoint_url", "AWS_ENDPOINT_URL"),
];

impl AwsSettings {
    /// The variables, and what the profile adds to them. Variables go before files, but for credentials of which a part is missing.
    ///
    /// # Errors
    /// [`Kind::Unauthorised`] where a file cannot be understood, or the profile that is named is in none.
    pub(crate) fn resolved(&self) -> Result<BTreeMap<String, String>> {
        let mut all = self.variables.clone();
        let named = all.get("AWS_PROFILE").or(all.get("AWS_DEFAULT_PROFILE")).cloned();
        let profile = named.clone().unwrap_or_else(|| "default".into());
        let file = |variable: &str, name: &str| {
            let named = self.variables.get(variable).map(PathBuf::from);
            named.or_else(|| self.home.as_ref().map(|home| home.join(".aws").join(name)))
        };
        let section = if profile == "default" { profile.clone() } else { format!("profile {profile}") };
        let mut found = false;
        for (path, section) in [
            (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), profile.clone()),
            (file("AWS_CONFIG_FILE", "config"), section),
        ] {
            let Some(values) = path.map_or(Ok(None), |path| read(&path, &section))? else { continue };
            found = true;
            for (key, variable) in KEYS {
                if let Some(value) = values.get(key) {
                    all.entry(variable.to_owned()).or_insert_with(|| value.clone());
                }
            }
        }
        match named {
            Some(name) if !found => {
                let message = format!("AWS_PROFILE names '{}', which no file has", name.escape_debug());
                Err(Error::new(Kind::Unauthorised, message).hint("see ~/.aws/credentials and ~/.aws/config"))
            }
            _ => Ok(all),
        }
    }
}

/// One section of a file.
fn read(path: &Path, section: &str) -> Result<Option<BTreeMap<String, String>>> {
    let text = match std::fs::read_to_string(path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        text => text.map_err(Error::io("read", path))?,
    };
    let mut defaults = IniDefault::default();
    defaults.case_sensitive = true;
    defaults.delimiters = vec!['='];
    // A secret may hold what begins a comment elsewhere.
    defaults.inline_comment_symbols = Some(Vec::new());
    let mut ini = Ini::new_from_defaults(defaults);
    // The parser's own words may quote a secret.
    let wrong = |_| Error::new(Kind::Unauthorised, format!("{}: not a file of profiles", path.display()));
    let mut all = ini.read(text).map_err(wrong)?;
    let found = all.remove(section);
    Ok(found.map(|found| found.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_go_before_profiles() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let put = |name: &str, text: &str| std::fs::write(home.path().join(".aws").join(name), text).unwrap();
        put(
            "credentials",
            "[default]\naws_access_key_id = A\naws_secret_access_key = s/+=#x\n[w]\naws_access_key_id=W\n",
        );
        put("config", "[default]\nregion = eu-1\n[profile w]\nregion=w-1\nendpoint_url = http://h\n");
        let resolved = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            AwsSettings { variables: variables.collect(), home: Some(home.path().to_owned()) }.resolved()
        };
        let all = resolved(&[]).unwrap();
        assert_eq!((all["AWS_ACCESS_KEY_ID"].as_str(), all["AWS_REGION"].as_str()), ("A", "eu-1"));
        assert_eq!(all["AWS_SECRET_ACCESS_KEY"], "s/+=#x");
        let all = resolved(&[("AWS_PROFILE", "w"), ("AWS_REGION", "mine")]).unwrap();
        assert_eq!((all["AWS_ACCESS_KEY_ID"].as_str(), all["AWS_REGION"].as_str()), ("W", "mine"));
        assert_eq!(all["AWS_ENDPOINT_URL"], "http://h");
        assert_eq!(resolved(&[("AWS_PROFILE", "none")]).unwrap_err().kind(), Kind::Unauthorised);
    }
}
