//! `/etc/forkd/image` (docs/agent.md): how an image's programs run. Whoever makes a root disk writes it, the agent reads it.

/// What an image says of how its programs run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSettings {
    /// `NAME=VALUE`, what programs get.
    pub env: Vec<String>,
    /// Where they run; empty for `/`.
    pub folder: String,
    /// Who runs them: a name or number, and a group's after a colon; empty for root.
    pub user: String,
    /// What a container of the image runs, before `cmd`.
    pub entrypoint: Vec<String>,
    /// Its arguments, or the program itself.
    pub cmd: Vec<String>,
}

impl ImageSettings {
    /// Where it is in a guest.
    pub const PATH: &str = "/etc/forkd/image";

    /// Records of a key, a space, a value and a NUL. A value with a NUL in it, which no program could be given, is left out.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let one = |value| std::slice::from_ref(value);
        let folder = if self.folder.is_empty() { &[] } else { one(&self.folder) };
        let user = if self.user.is_empty() { &[] } else { one(&self.user) };
        let all = [
            ("env", self.env.as_slice()),
            ("folder", folder),
            ("user", user),
            ("entrypoint", &self.entrypoint),
            ("cmd", &self.cmd),
        ];
        let records = all.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
        let sound = records.filter(|(_, value)| !value.contains('\0'));
        sound.map(|(key, value)| format!("{key} {value}\0")).collect::<String>().into_bytes()
    }

    /// Reads what [`ImageSettings::to_bytes`] makes. What is not as it should be is passed over: a guest without its image's settings
    /// is of more use than none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut image = Self::default();
        for record in bytes.split(|byte| *byte == 0) {
            let Some((key, value)) = std::str::from_utf8(record).ok().and_then(|text| text.split_once(' '))
            else {
                continue;
            };
            match key {
                "env" if value.contains('=') => image.env.push(value.into()),
                "folder" => image.folder = value.into(),
                "user" => image.user = value.into(),
                "entrypoint" => image.entrypoint.push(value.into()),
                "cmd" => image.cmd.push(value.into()),
                _ => {}
            }
        }
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_file_is_records_of_a_key_and_a_value() {
        let image = ImageSettings::parse(
            b"env A=1=2\0env B=two\nlines\0folder /srv/x y\0user annie:wheel\0later 1\0env none\0\xff\0",
        );
        assert_eq!(image.env, ["A=1=2", "B=two\nlines"]);
        assert_eq!((image.folder.as_str(), image.user.as_str()), ("/srv/x y", "annie:wheel"));
        assert_eq!(ImageSettings::parse(b""), ImageSettings::default());
    }

    #[test]
    fn a_value_does_not_become_a_record() {
        let image = ImageSettings { env: vec!["A=1\0user root".into(), "B=2".into()], ..Default::default() };
        assert_eq!(image.to_bytes(), b"env B=2\0");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            env in prop::collection::vec("[A-Z]{1,5}=[^\0]{0,9}", 0..4),
            words in prop::collection::vec("[^\0]{0,9}", 6),
        ) {
            let [folder, user] = [words[0].clone(), words[1].clone()];
            let (entrypoint, cmd) = (words[2..4].to_vec(), words[4..].to_vec());
            let image = ImageSettings { env, folder, user, entrypoint, cmd };
            prop_assert_eq!(ImageSettings::parse(&image.to_bytes()), image);
        }
    }
}
