use crate::config;
use crate::context::Context;
use crate::output::{Format, Printer};
use anyhow::Result;
use forkd_core::{Error, Kind, Store};
use forkd_format::Tag;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::Command;

/// See it work: bake a warm Python, publish it to a folder, pull it back, fork it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each step is a command of forkd's, shown as it is run. A second time only the last one is needed.\n\n\
                  Example:\n  forkd quickstart -n 8 -y"
)]
pub(crate) struct QuickstartArgs {
    /// How many children
    #[arg(short, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    n: u16,
    /// Install what is missing without asking
    #[arg(short, long)]
    yes: bool,
}

const TAG: &str = "quickstart";
const NAME: &str = "quickstart/python-numpy";
const QUESTION: &str = "round(np.random.rand(), 6), os.uname().nodename, int(np.arange(1000).sum())";

/// The recipe `python-numpy`, as it was when this program was built.
const RECIPE: [(&str, &str); 4] = [
    ("python-numpy/recipe.toml", include_str!("../../../../recipes/python-numpy/recipe.toml")),
    ("python-numpy/warm.py", include_str!("../../../../recipes/python-numpy/warm.py")),
    ("common/eval-server.py", include_str!("../../../../recipes/common/eval-server.py")),
    ("common/reseed.py", include_str!("../../../../recipes/common/reseed.py")),
];

/// Programs, and the Debian packages that they are in.
const NEEDED: [(&str, &str); 3] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("mmdebstrap", "mmdebstrap"), ("newuidmap", "uidmap")];

pub(crate) fn run(args: &QuickstartArgs, context: &Context<'_>) -> Result<()> {
    // One document only: that of the last step.
    let quiet = Printer::new(Format::Text, true, context.env().cancel);
    let silent = context.printing_to(&quiet);
    let telling = if context.output.is_json() { &silent } else { context };
    let say = |words: &[&str], context: &Context<'_>| {
        telling.output.line(&format!("\n$ forkd {}", shown(words)));
        (context.run_line)(words, context)
    };
    let tag: Tag = TAG.parse()?;
    let store = config::store()?;
    if store.contains(&tag) {
        require_ours(&store, &tag)?;
        telling
            .output
            .line(&format!("'{TAG}' is here from before; `forkd rmi {TAG}` to see all of it again"));
    } else {
        install(args.yes, telling)?;
        let folder = tempfile::Builder::new().prefix("forkd-quickstart-").tempdir();
        let folder = folder.map_err(Error::io("create a folder in", &std::env::temp_dir()))?;
        let (recipes, hub) = (folder.path().join("recipes"), folder.path().join("hub"));
        for (name, text) in RECIPE {
            let path = recipes.join(name);
            let dir = path.parent().unwrap_or(&recipes);
            std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
            forkd_core::write_whole(&path, text.as_bytes())?;
        }
        let recipe = recipes.join("python-numpy").display().to_string();
        say(&["bake", &recipe, "--tag", TAG], telling)?;
        let hub = hub.display().to_string();
        let version = format!("{NAME}@v1");
        say(&["publish", TAG, &version, "--to", &hub, "--description", "Python and NumPy, warm"], telling)?;
        say(&["rmi", TAG], telling)?;
        say(&["pull", NAME, "--hub", &hub], telling)?;
    }
    let n = args.n.to_string();
    say(&["fork", TAG, "-n", &n, "--eval", QUESTION], context)?;
    telling.output.line(&format!(
        "\nEach child is a virtual machine of its own, from one boot and one import.\n  next: forkd run {TAG} -- python3; forkd fork {TAG} --detach; forkd ls"
    ));
    Ok(())
}

/// Whoever else has made a snapshot of that name keeps it, and does not see it forked for another.
fn require_ours(store: &Store, tag: &Tag) -> Result<()> {
    let record = store.load(tag).ok().and_then(|stored| stored.record);
    if record.and_then(|record| record.source).is_some_and(|source| is_ours(&source.name)) {
        return Ok(());
    }
    let message = format!(
        "'{tag}' is here, and is not what quickstart pulls: it may be somebody's, or an interrupted run's"
    );
    let hint = format!("`forkd rmi {tag}`; to keep it, `forkd tag {tag} <OTHER>` first");
    Err(Error::new(Kind::General, message).hint(hint).into())
}

/// Whether a pull of ours is recorded so: by the reference, with its version.
fn is_ours(source: &str) -> bool {
    source.split('@').next() == Some(NAME)
}

/// Sees that what is needed is there; installs it where the user says so.
fn install(yes: bool, context: &Context<'_>) -> Result<()> {
    let root = config::is_root();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let present = |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| !present(program) && (*program != "newuidmap" || !root))
        .map(|(_, package)| *package)
        .collect();
    let lists = present("apt-cache")
        && Command::new("apt-cache")
            .args(["show", "python3-numpy"])
            .output()
            .is_ok_and(|shown| shown.status.success());
    if missing.is_empty() && lists {
        return Ok(());
    }
    let sudo = if root { "" } else { "sudo " };
    let what = match missing.as_slice() {
        [] => format!("{sudo}apt-get update"),
        names => format!(
            "{sudo}apt-get update && {sudo}apt-get install -y --no-install-recommends {}",
            names.join(" ")
        ),
    };
    let refuse = |why: &str| {
        let message = format!("{why}; on Debian or Ubuntu:\n  {what}\nor let `forkd quickstart -y` do it");
        Err(Error::new(Kind::Incompatible, message).into())
    };
    let why = if missing.is_empty() {
        "apt has no package lists".into()
    } else {
        format!("missing: {}", missing.join(", "))
    };
    if !present("apt-get") {
        return refuse(&why);
    }
    if !yes {
        if !std::io::stdin().is_terminal() {
            return refuse(&why);
        }
        eprint_now(&format!("{why}. Run `{what}`? [y/N] "));
        let mut answer = String::new();
        let _ = std::io::stdin().read_line(&mut answer);
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return refuse(&why);
        }
    }
    context.output.line(&format!("$ {what}"));
    let status = Command::new("sh")
        .args(["-c", &what])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(Error::io("run", Path::new("sh")))?;
    if status.success() { Ok(()) } else { refuse("that failed") }
}

fn eprint_now(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// A command line as a shell would want it.
fn shown(words: &[&str]) -> String {
    let plain = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c))
    };
    let quoted = words.iter().map(|word| if plain(word) { (*word).to_owned() } else { format!("'{word}'") });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_pulled_is_known_again() {
        let pulled: forkd_format::Reference = NAME.parse().unwrap();
        assert!(is_ours(&pulled.to_string()) && !is_ours("quickstart/python-numpy-2@latest"));
    }

    #[test]
    fn the_recipe_comes_with_all_its_files() {
        let recipe = forkd_format::Recipe::parse(RECIPE[0].1).unwrap();
        for from in recipe.files.iter().filter_map(|file| file.from.as_deref()) {
            let name = from.strip_prefix("../").map_or_else(|| format!("python-numpy/{from}"), str::to_owned);
            assert!(RECIPE.iter().any(|(known, _)| *known == name), "{name}");
        }
    }
}
