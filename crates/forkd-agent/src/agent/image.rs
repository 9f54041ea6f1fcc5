//! What the guest's image says of how its programs run: `/etc/forkd/image` (docs/agent.md), and its users.

use forkd_agent::image_settings::ImageSettings;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

/// As docker has it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static IMAGE: OnceLock<ImageSettings> = OnceLock::new();

/// Read once, when the guest boots: no child waits for its disk.
pub(super) fn image() -> &'static ImageSettings {
    IMAGE.get_or_init(|| {
        fs::read(ImageSettings::PATH).map(|bytes| ImageSettings::parse(&bytes)).unwrap_or_default()
    })
}

/// The environment of a program of an image, run by this user: what a container has, then what the image adds and replaces.
pub(super) fn environment(image: &ImageSettings, user: &User) -> Vec<(String, String)> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let given = [("PATH", PATH), ("HOSTNAME", &host), ("HOME", &user.home)];
    // The image's HOME is that of the image's user.
    let own = image.env.iter().filter_map(|text| text.split_once('='));
    given.into_iter().chain(own).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Who a program runs as.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

impl User {
    pub(super) fn root() -> Self {
        Self { uid: 0, gid: 0, groups: vec![0], home: "/root".into() }
    }

    /// Whether it is who the agent is.
    pub(super) fn is_root(&self) -> bool {
        (self.uid, self.gid, self.groups.as_slice()) == (0, 0, &[0])
    }

    /// `name`, `uid`, `name:group`, `uid:gid` and so on, as an image's `User` has it. A number need not be in `/etc/passwd`.
    pub(super) fn find(spec: &str) -> Result<Self, String> {
        let (passwd, group) = (read("/etc/passwd"), read("/etc/group"));
        // Where nobody is listed, root is known all the same.
        let spec = match spec {
            "" | "root" => "0",
            "root:root" => "0:0",
            other => other,
        };
        Self::find_in(spec, &passwd, &group)
    }

    fn find_in(spec: &str, passwd: &str, group: &str) -> Result<Self, String> {
        let (name, group_name) =
            spec.split_once(':').map_or((spec, None), |(name, group)| (name, Some(group)));
        let number = name.parse::<u32>().ok();
        let entry = lines(passwd)
            .find(|fields| fields.first() == Some(&name) || (number.is_some() && field(fields, 2) == number));
        let uid = entry.as_ref().and_then(|fields| field(fields, 2)).or(number);
        let uid = uid.ok_or_else(|| format!("no user '{name}' in /etc/passwd"))?;
        let mut gid = entry.as_ref().and_then(|fields| field(fields, 3)).unwrap_or(0);
        let mut groups = Vec::new();
        if let Some(group_name) = group_name.filter(|name| !name.is_empty()) {
            let found = lines(group).find(|fields| fields.first() == Some(&group_name));
            let found = found.and_then(|fields| field(&fields, 2)).or_else(|| group_name.parse().ok());
            gid = found.ok_or_else(|| format!("no group '{group_name}' in /etc/group"))?;
        } else if let Some(own) = entry.as_ref().and_then(|fields| fields.first()) {
            let member =
                |fields: &Vec<&str>| fields.get(3).is_some_and(|all| all.split(',').any(|one| one == *own));
            groups.extend(lines(group).filter(member).filter_map(|fields| field(&fields, 2)));
        }
        if !groups.contains(&gid) {
            groups.insert(0, gid);
        }
        let home = entry.and_then(|fields| fields.get(5).map(|home| (*home).to_owned()));
        Ok(Self {
            uid,
            gid,
            groups,
            home: home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".into()),
        })
    }
}

fn read(path: &str) -> String {
    fs::read(Path::new(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.trim().split(':').collect())
}

fn field(fields: &[&str], at: usize) -> Option<u32> {
    fields.get(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nannie:x:1000:100:A:/home/annie:/bin/sh\nodd:x:7:7\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nwheel:x:10:root,annie\nvideo:x:44:bannie\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let find = |spec| User::find_in(spec, PASSWD, GROUP);
        let user = |uid, gid, groups: &[u32], home: &str| {
            Ok(User { uid, gid, groups: groups.to_vec(), home: home.into() })
        };
        assert_eq!(find("0"), user(0, 0, &[0, 10], "/root"));
        assert_eq!(find("0:0"), user(0, 0, &[0], "/root"));
        assert_eq!(User::find_in("0", "", ""), user(0, 0, &[0], "/"));
        assert_eq!(find("annie"), user(1000, 100, &[100, 10], "/home/annie"));
        assert_eq!(find("1000"), user(1000, 100, &[100, 10], "/home/annie"));
        assert_eq!(find("annie:wheel"), user(1000, 10, &[10], "/home/annie"));
        assert_eq!(find("annie:99"), user(1000, 99, &[99], "/home/annie"));
        assert_eq!(find("1234"), user(1234, 0, &[0], "/"));
        assert_eq!(find("1234:5"), user(1234, 5, &[5], "/"));
        assert_eq!(find("odd"), user(7, 7, &[7], "/"));
        assert_eq!(find("nobody"), Err("no user 'nobody' in /etc/passwd".into()));
        assert_eq!(find("annie:none"), Err("no group 'none' in /etc/group".into()));
    }

    #[test]
    fn the_image_may_replace_what_is_given() {
        let (image, root) = (ImageSettings::parse(b"env PATH=/x\0env HOME=/y\0"), User::root());
        let all: std::collections::HashMap<_, _> = environment(&image, &root).into_iter().collect();
        assert_eq!((all["PATH"].as_str(), all["HOME"].as_str()), ("/x", "/y"));
        assert!(!all["HOSTNAME"].is_empty() && !all.contains_key("TERM"));
    }
}
