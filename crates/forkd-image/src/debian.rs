//! A root filesystem of Debian packages, made by mmdebstrap: as root, or in a user namespace by anyone else.

use forkd_core::{Env, Error, Kind, Result};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = "mmdebstrap";
/// What no program reads, and what the package manager fetches again.
const LEFT_OUT: [&str; 7] = ["doc", "man", "info", "locale", "lintian", "bash-completion", "doc-base"];
/// Made on the disk last of all. Python's modules are compiled: no child has to. mmdebstrap itself clears away apt's lists and caches and
/// `/tmp`, and needs its own files there until then: without them its apt would clear away this host's lists.
const FINISH: &str = r#"cd "$1" || exit 1
if [ -x usr/bin/python3 ]; then
    chroot . python3 -m compileall -q /usr/lib/python3 /usr/lib/python3.* >/dev/null 2>&1 || true
fi
rm -rf var/cache/debconf/*-old var/log/* var/lib/dpkg/*-old
rm -f etc/resolv.conf etc/machine-id
echo forkd > etc/hostname
echo '127.0.0.1 localhost' > etc/hosts
"#;

/// This host's Debian: its release and its mirrors are those of the guests.
#[derive(Debug)]
pub struct Debian {
    program: PathBuf,
    pub release: String,
    sources: String,
    apt: String,
}

impl Debian {
    /// Looks at this host.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] with what is missing.
    pub fn find(path: Option<&OsStr>) -> Result<Self> {
        let incompatible = |message: &str| Error::new(Kind::Incompatible, message);
        let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |name: &str| {
            let line = system.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        let (Some(id), Some(release)) = (field("ID"), field("VERSION_CODENAME")) else {
            return Err(incompatible("Debian packages need a host with apt (Debian, Ubuntu)")
                .hint("use an image instead, as in `forkd from-image debian:stable-slim`"));
        };
        let find = |name: &str| {
            let mut dirs = path.map(std::env::split_paths).into_iter().flatten();
            dirs.find_map(|dir| Some(dir.join(name)).filter(|program| program.is_file()))
        };
        let program = find(PROGRAM);
        let program = program.ok_or_else(|| {
            incompatible("mmdebstrap is not installed (Debian: apt-get install mmdebstrap uidmap)")
        })?;
        // Who is not root needs a range of users of their own, which these hand out.
        if forkd_sys::user_id() != 0 && find("newuidmap").is_none() {
            return Err(incompatible("newuidmap is not installed").hint("apt-get install uidmap"));
        }
        let sources = sources(&id, &release)?;
        let apt = run(Command::new("apt-config").args(["dump", "Acquire"]))?;
        let kept = ["Acquire::http::", "Acquire::https::", "Acquire::Retries", "Acquire::Check-"];
        let apt = apt.lines().filter(|line| kept.iter().any(|start| line.starts_with(start)));
        let apt = apt.map(|line| format!("{line}\n")).collect();
        Ok(Self { program, release, sources, apt })
    }

    /// Makes a namespace of users as a bake will, which only root does without.
    ///
    /// # Errors
    /// [`Kind::Incompatible`] with what the program says.
    pub fn try_users(&self) -> Result<()> {
        if forkd_sys::user_id() == 0 {
            return Ok(());
        }
        let tried = Command::new(&self.program)
            .args(["--unshare-helper", "true"])
            .stdin(Stdio::null())
            .output()
            .map_err(Error::io("run", &self.program))?;
        if tried.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&tried.stderr).into_owned();
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says no more");
        let message = format!("no namespace of users can be made: {}", last.trim());
        let hint =
            "give yourself ranges in /etc/subuid and /etc/subgid (usermod --add-subuids, --add-subgids)";
        Err(Error::new(Kind::Incompatible, message).hint(hint))
    }

    /// Installs packages on the smallest Debian there is; writes it as tar.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for packages that are not there, with what apt says; [`Kind::Interrupted`].
    pub fn build(
        &self,
        packages: &[String],
        tar: &File,
        env: Env<'_>,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        let failed = || Error::io("run", &self.program);
        let keep = |text: &str| -> Result<tempfile::NamedTempFile> {
            let mut file = tempfile::NamedTempFile::new().map_err(failed())?;
            file.write_all(text.as_bytes()).map_err(failed())?;
            Ok(file)
        };
        let (sources, apt) = (keep(&self.sources)?, keep(&self.apt)?);
        let mode = if forkd_sys::user_id() == 0 { "root" } else { "unshare" };
        let mut command = Command::new(&self.program);
        // A guest has its devices from its kernel.
        command.args([&format!("--mode={mode}"), "--variant=essential", "--format=tar", "--skip=output/dev"]);
        command.arg(format!("--include={}", packages.join(",")));
        command.arg(format!("--aptopt={}", apt.path().display()));
        command.args(LEFT_OUT.map(|name| format!("--dpkgopt=path-exclude=/usr/share/{name}/*")));
        command.arg("--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr");
        command.arg(format!("--customize-hook={FINISH}"));
        command.args([self.release.as_str(), "-"]).arg(sources.path());
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command.stdout(tar.try_clone().map_err(failed())?);
        let mut child = command.spawn().map_err(failed())?;
        let mut log = child.stderr.take();
        let said = std::thread::spawn(move || {
            let mut said = Vec::new();
            let _ = log.as_mut().map(|log| log.read_to_end(&mut said));
            said
        });
        let status = wait(&mut child, env).map_err(|e| match e.kind() {
            std::io::ErrorKind::Interrupted => Error::Interrupted,
            _ => failed()(e),
        })?;
        let said = said.join().unwrap_or_default();
        if status {
            return Ok(());
        }
        output(&said);
        let said = String::from_utf8_lossy(&said);
        let missing = said.lines().find(|line| {
            line.contains("Unable to locate package") || line.contains("has no installation candidate")
        });
        if let Some(line) = missing {
            let line = line.trim_start_matches("E: ");
            return Err(Error::new(Kind::NotFound, format!("{line} (in Debian {})", self.release)));
        }
        let last = said.lines().rev().find(|line| line.starts_with("E: ")).unwrap_or("it says no more");
        Err(Error::new(Kind::General, format!("{} failed: {last}", self.program.display())))
    }
}

/// Waits for a program's end; says whether it succeeded. It is asked to end, and cleans up, where the user stops us.
fn wait(child: &mut Child, env: Env<'_>) -> std::io::Result<bool> {
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return if asked { Err(std::io::ErrorKind::Interrupted.into()) } else { Ok(status.success()) };
        }
        if env.cancel.is_cancelled() && !asked {
            forkd_sys::terminate(child.id())?;
            asked = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(command: &mut Command) -> Result<String> {
    let name = PathBuf::from(command.get_program());
    let output = command.output().map_err(Error::io("run", Path::new(&name)))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::new(Kind::General, format!("{} failed: {words}", name.display())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The lines for sources.list that name this host's own release, and nothing of third parties.
fn sources(id: &str, release: &str) -> Result<String> {
    let format = "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)|$(SIGNED_BY)";
    let targets =
        run(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let lines = select(&targets, id, release);
    if lines.is_empty() {
        let message = format!("apt has no package lists of {id} {release}: run apt-get update, as root");
        return Err(Error::new(Kind::Incompatible, message));
    }
    Ok(lines)
}

fn select(targets: &str, id: &str, release: &str) -> String {
    let mut lines: Vec<String> = targets
        .lines()
        .filter_map(|line| {
            let [origin, suite, component, uri, key] = line.split('|').collect::<Vec<_>>().try_into().ok()?;
            let update = suite.strip_prefix(release).is_some_and(|rest| {
                rest.is_empty()
                    || (rest.starts_with('-')
                        && !rest.starts_with("-backports")
                        && !rest.starts_with("-proposed"))
            });
            let key = if key.starts_with('/') { format!("[signed-by={key}] ") } else { String::new() };
            (origin.eq_ignore_ascii_case(id) && update)
                .then(|| format!("deb {key}{uri} {suite} {component}\n"))
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::select;

    #[test]
    fn only_the_hosts_own_release_is_taken() {
        let targets = "Debian|bookworm|main|http://a/debian|/usr/share/keyrings/k.gpg\n\
                       Debian|bookworm|main|http://a/debian|/usr/share/keyrings/k.gpg\n\
                       Debian|bookworm-updates|main|http://a/debian|\n\
                       Debian|bookworm-backports|main|http://a/debian|\n\
                       Debian|bookworm-proposed-updates|main|http://a/debian|\n\
                       Debian|bookwormish|main|http://a/debian|\n\
                       Debian|trixie|main|http://a/debian|\n\
                       Other|bookworm|main|http://b|\nodd line\n";
        let expected = "deb [signed-by=/usr/share/keyrings/k.gpg] http://a/debian bookworm main\n\
                        deb http://a/debian bookworm-updates main\n";
        assert_eq!(select(targets, "debian", "bookworm"), expected);
    }
}
