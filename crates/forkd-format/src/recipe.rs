//! `recipe.toml`: what a snapshot is made of and how it is tested (`docs/recipes.md`).

use crate::error::FormatError;
use serde::Deserialize;

/// The name of the file in a recipe's folder.
pub const RECIPE: &str = "recipe.toml";

/// What `recipe.toml` says (`docs/recipes.md`); a key that is not known is an error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What it makes, in one line.
    pub description: String,
    /// Debian packages, on a minimal Debian.
    #[serde(default)]
    pub debian: Vec<String>,
    /// A container image; this or `debian`.
    pub image: Option<String>,
    /// Memory of the guest in MiB, 64 to 1,048,576; 512 where absent.
    #[serde(default = "default_memory")]
    pub memory_mib: u64,
    /// Size of the root disk in MiB; where absent, what is on it and 1 GiB.
    pub disk_mib: Option<u64>,
    /// Put on the disk before `setup` runs.
    #[serde(default)]
    pub files: Vec<RecipeFile>,
    /// Shell commands run as root in a guest with a network; what they change on the disk stays.
    #[serde(default)]
    pub setup: Vec<String>,
    /// Who runs `warm` and `ready`; empty for the image's user, else root.
    #[serde(default)]
    pub user: String,
    /// A shell command run in the guest that is to be frozen; what it leaves running is frozen with it.
    pub warm: Option<String>,
    /// A shell command run again and again until it succeeds.
    pub ready: Option<String>,
    /// How long the guest may take to boot, and until it is ready, in seconds.
    #[serde(default = "default_wait")]
    pub wait_secs: u64,
    /// Run one after another in a child of the result.
    #[serde(default)]
    pub tests: Vec<RecipeTest>,
}

/// A file that a recipe puts on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeFile {
    /// Its path below the recipe's folder or `../`, whose bytes are taken.
    pub from: Option<String>,
    /// What it holds, where that is text in the recipe; this or `from`.
    pub content: Option<String>,
    /// Its absolute path in the guest.
    pub to: String,
    /// Permission bits in octal digits, `0644` where absent.
    #[serde(default = "default_mode")]
    pub mode: String,
}

/// What a child of the result must answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeTest {
    /// An expression for the eval endpoint.
    pub eval: Option<String>,
    /// A shell command; this or `eval`. It must succeed.
    pub run: Option<String>,
    /// What the answer, or standard output without white space around it, must be.
    pub expect: Option<String>,
    /// A part that the answer must have.
    pub contains: Option<String>,
}

fn default_memory() -> u64 {
    512
}

fn default_wait() -> u64 {
    300
}

fn default_mode() -> String {
    "0644".into()
}

impl Recipe {
    /// The largest recipe that is read, in bytes.
    pub const MAX_LEN: u64 = 1 << 20;

    /// Reads `recipe.toml`.
    ///
    /// # Errors
    /// [`FormatError::Recipe`].
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        let recipe: Self =
            toml::from_str(text).map_err(|e| FormatError::Recipe(e.to_string().trim_end().into()))?;
        recipe.check().map_err(FormatError::Recipe)?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        if self.debian.is_empty() == self.image.is_none() {
            return Err("expected either debian = [packages] or image = \"reference\"".into());
        }
        if let Some(wrong) = self.debian.iter().find(|name| !is_package(name)) {
            return Err(format!("debian: {wrong:?} is no package name"));
        }
        if !(64..=1 << 20).contains(&self.memory_mib) {
            return Err(format!("memory_mib is {}; expected 64 to 1048576", self.memory_mib));
        }
        if self.disk_mib.is_some_and(|mib| !(16..=1 << 24).contains(&mib)) {
            return Err("disk_mib: expected 16 to 16777216".into());
        }
        if self.wait_secs == 0 || self.wait_secs > 86_400 {
            return Err(format!("wait_secs is {}; expected 1 to 86400", self.wait_secs));
        }
        self.files.iter().try_for_each(RecipeFile::check)?;
        self.tests.iter().try_for_each(RecipeTest::check)
    }
}

impl RecipeFile {
    fn check(&self) -> Result<(), String> {
        let to = &self.to;
        if self.from.is_some() == self.content.is_some() {
            return Err(format!("files: {to:?} wants either from = \"path\" or content = \"text\""));
        }
        let parts = to.strip_prefix('/').map(|path| path.split('/'));
        if !parts
            .is_some_and(|mut parts| parts.all(|part| !matches!(part, "" | "." | "..")) && !to.contains('\0'))
        {
            return Err(format!("files: to = {to:?} is not the absolute path of a file"));
        }
        if let Some(from) = &self.from {
            // One step out is the folder of recipes, where what several need lies.
            let inner = from.strip_prefix("../").unwrap_or(from);
            if inner.is_empty() || inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
                return Err(format!("files: from = {from:?} leaves the folder of recipes"));
            }
        }
        self.mode().map(drop)
    }

    /// The permission bits as a number.
    ///
    /// # Errors
    /// Where `mode` is not octal, in words.
    pub fn mode(&self) -> Result<u32, String> {
        let mode = u32::from_str_radix(&self.mode, 8).ok().filter(|mode| *mode <= 0o7777);
        mode.ok_or_else(|| format!("files: mode = {:?} is not octal, as \"0755\"", self.mode))
    }
}

impl RecipeTest {
    fn check(&self) -> Result<(), String> {
        if self.eval.is_some() == self.run.is_some() {
            return Err("tests: each wants either eval = \"expression\" or run = \"command\"".into());
        }
        Ok(())
    }

    /// Compares an answer with what is expected.
    ///
    /// # Errors
    /// What was expected and what came, in words.
    pub fn judge(&self, answer: &str) -> Result<(), String> {
        let answer = answer.trim();
        let shown = || crate::error::shorten(answer);
        if let Some(expect) = self.expect.as_ref().filter(|expect| expect.trim() != answer) {
            return Err(format!("expected '{}', found '{}'", crate::error::shorten(expect.trim()), shown()));
        }
        if let Some(part) = self.contains.as_ref().filter(|part| !answer.contains(part.as_str())) {
            return Err(format!("expected '{}' in '{}'", crate::error::shorten(part), shown()));
        }
        Ok(())
    }
}

/// Whether a name may stand in a list of packages for a package manager: no option, no path, no shell.
#[must_use]
pub fn is_package(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric();
    let later = |c: char| first(c) || "+-.:=~_".contains(c);
    name.len() <= 200 && name.starts_with(first) && name.chars().all(later)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_recipe_is_read() {
        let recipe = Recipe::parse(
            r#"
            description = "A test"
            debian = ["python3", "g++"]
            files = [ { from = "../common/a.py", to = "/srv/a.py", mode = "0755" }, { content = "x", to = "/etc/x" } ]
            warm = "true"
            [[tests]]
            eval = "1"
            expect = "1"
            [[tests]]
            run = "echo hi"
            contains = "h"
            "#,
        );
        let recipe = recipe.unwrap();
        assert_eq!((recipe.memory_mib, recipe.wait_secs, recipe.disk_mib), (512, 300, None));
        assert_eq!((recipe.files[0].mode(), recipe.files[1].mode()), (Ok(0o755), Ok(0o644)));
        assert_eq!(recipe.tests[0].judge(" 1\n"), Ok(()));
        assert_eq!(recipe.tests[0].judge("2"), Err("expected '1', found '2'".into()));
        assert_eq!(recipe.tests[1].judge("ok"), Err("expected 'h' in 'ok'".into()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("", "description"),
            ("description = 'x'", "either debian"),
            ("description = 'x'\ndebian = ['a']\nimage = 'b'", "either debian"),
            ("description = 'x'\ndebian = ['-o']", "no package name"),
            ("description = 'x'\nimage = 'a'\nmemory = 5", "unknown field"),
            ("description = 'x'\nimage = 'a'\nmemory_mib = 5", "memory_mib is 5"),
            ("description = 'x'\nimage = 'a'\ndisk_mib = 5", "disk_mib"),
            ("description = 'x'\nimage = 'a'\nwait_secs = 0", "wait_secs"),
            (
                "description = 'x'\nimage = 'a'\nfiles = [{ from = '../../a', to = '/a' }]",
                "leaves the folder",
            ),
            (
                "description = 'x'\nimage = 'a'\nfiles = [{ from = '/etc/passwd', to = '/a' }]",
                "leaves the folder",
            ),
            ("description = 'x'\nimage = 'a'\nfiles = [{ from = 'a', to = 'a' }]", "absolute"),
            ("description = 'x'\nimage = 'a'\nfiles = [{ from = 'a', to = '/../a' }]", "absolute"),
            ("description = 'x'\nimage = 'a'\nfiles = [{ to = '/a' }]", "either from"),
            ("description = 'x'\nimage = 'a'\nfiles = [{ from = 'a', to = '/a', mode = '9' }]", "octal"),
            ("description = 'x'\nimage = 'a'\n[[tests]]\nexpect = '1'", "either eval"),
        ] {
            let error = Recipe::parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
