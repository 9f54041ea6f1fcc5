//! From an image, a recipe or a root disk to a snapshot.

use crate::app::App;
use crate::bake_summary::{BakeSummary, RecipeTestReport};
use crate::baker::{Baker, MachineRequest};
use crate::guest_eval::eval;
use crate::lines::KeptOutput;
use crate::narrator::Event;
use crate::recipe::RecipeFolder;
use crate::root_disk::{DiskBase, DiskPlan};
use forkd_core::machine::{BakeOptions, Exec, Guest, Machine, Network, Streams};
use forkd_core::{Error, Kind, Result};
use forkd_format::Tag;
use forkd_format::recipe::{self, RecipeTest};
use forkd_image::{ImageSource, Platform};
use serde_json::{Map, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a recipe's test may take.
const TEST_LIMIT: Duration = Duration::from_secs(600);

/// A root disk to bake.
#[derive(Debug, Clone)]
pub struct SnapshotRequest {
    pub tag: Tag,
    pub machine: MachineRequest,
    /// An ext4 image, which is copied.
    pub rootfs: PathBuf,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// How long the guest may take to boot, and how long until it is ready.
    pub boot_wait: Duration,
    /// Run in the guest once it has booted.
    pub warm: Option<String>,
    /// Run again and again until it succeeds.
    pub ready: Option<String>,
    /// Added to the kernel's command line.
    pub append: String,
    /// A tap interface of this host's for the guest's network card.
    pub tap: Option<String>,
}

/// A container image to bake.
#[derive(Debug, Clone)]
pub struct FromImageRequest {
    pub tag: Tag,
    pub machine: MachineRequest,
    pub image: ImageSource,
    /// Which of an image for several.
    pub platform: Platform,
    /// Packages that the image's own package manager installs, in a guest with a network.
    pub packages: Vec<String>,
    /// Size of the root disk in MiB; `None` for what it needs and some room.
    pub size_mib: Option<u64>,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// How long the guest may take to boot, and how long until it is ready.
    pub boot_wait: Duration,
    /// Run in the guest once it has booted.
    pub warm: Option<String>,
    /// Run again and again until it succeeds.
    pub ready: Option<String>,
    /// Whether to use no root disk that was made before.
    pub fresh: bool,
}

impl App<'_> {
    /// Bakes a root disk.
    ///
    /// # Errors
    /// As [`forkd_core::machine::bake`]; [`Kind::Usage`] for a tap that is no interface of this host.
    pub fn snapshot(&self, request: &SnapshotRequest) -> Result<BakeSummary> {
        self.require_free(&request.tag)?;
        if let Some(tap) = &request.tap
            && !is_interface(tap)
        {
            let message = format!("--tap: '{tap}' is no network interface of this host");
            return Err(Error::new(Kind::Usage, message));
        }
        let baker = Baker::open(*self, &request.machine)?;
        let options = BakeOptions {
            tag: request.tag.clone(),
            machine: Machine {
                append: request.append.clone(),
                network: request.tap.clone().map_or(Network::None, Network::Tap),
                ..baker.machine(request.memory_mib)
            },
            rootfs: request.rootfs.clone(),
            boot_wait: request.boot_wait,
            user: String::new(),
            warm: request.warm.clone(),
            ready: request.ready.clone(),
            origin: Map::new(),
            created_at: self.settings.timestamp.clone(),
        };
        let bake = baker.bake(&options, &mut |_| Ok(()))?;
        Ok(self.tell_of(BakeSummary { bake, time: baker.begun.elapsed(), image: None, tests: None }))
    }

    /// Makes a root disk of a container image and bakes it.
    ///
    /// # Errors
    /// As [`forkd_core::machine::bake`]; what the registry says; [`Kind::Incompatible`] for another platform than guests have.
    pub fn from_image(&self, request: &FromImageRequest) -> Result<BakeSummary> {
        self.require_free(&request.tag)?;
        let platform = &request.platform;
        if !platform.accepts(&"linux/amd64".parse()?) {
            let message = format!("--platform {platform}: guests are linux/amd64");
            return Err(Error::new(Kind::Incompatible, message));
        }
        let setup = install(&request.packages)?.into_iter().collect();
        let baker = Baker::open(*self, &request.machine)?;
        let plan = DiskPlan {
            base: DiskBase::Image(request.image.clone(), platform.clone()),
            size: request.size_mib.map(|mib| mib << 20),
            files: Vec::new(),
            setup,
            memory_mib: request.memory_mib,
            boot_wait: request.boot_wait,
            fresh: request.fresh,
        };
        let disk = self.root_disk(plan, &baker)?;
        let image = Some(disk.origin.get("image").cloned().unwrap_or_default());
        let options = BakeOptions {
            tag: request.tag.clone(),
            machine: baker.machine(request.memory_mib),
            rootfs: disk.path.clone(),
            boot_wait: request.boot_wait,
            user: String::new(),
            warm: request.warm.clone(),
            ready: request.ready.clone(),
            origin: disk.origin.clone(),
            created_at: self.settings.timestamp.clone(),
        };
        let bake = baker.bake(&options, &mut |_| Ok(()))?;
        let summary = self.tell_of(BakeSummary { bake, time: baker.begun.elapsed(), image, tests: None });
        drop(disk);
        self.trim_cache()?;
        Ok(summary)
    }

    /// Makes a root disk as a recipe says, bakes it, and runs the recipe's tests in a fork before anyone sees the tag.
    ///
    /// # Errors
    /// As [`forkd_core::machine::bake`]; [`Kind::General`] where a test fails.
    pub fn bake(
        &self,
        folder: RecipeFolder,
        tag: &Tag,
        machine: &MachineRequest,
        fresh: bool,
    ) -> Result<BakeSummary> {
        self.require_free(tag)?;
        let RecipeFolder { name, recipe, files } = folder;
        let base = match &recipe.image {
            Some(image) => DiskBase::Image(image.parse()?, "linux/amd64".parse()?),
            None => DiskBase::Debian(recipe.debian.clone()),
        };
        let baker = Baker::open(*self, machine)?;
        let boot_wait = Duration::from_secs(recipe.wait_secs);
        let plan = DiskPlan {
            base,
            size: recipe.disk_mib.map(|mib| mib << 20),
            files,
            setup: recipe.setup.clone(),
            memory_mib: recipe.memory_mib,
            boot_wait,
            fresh,
        };
        let disk = self.root_disk(plan, &baker)?;
        let mut origin = disk.origin.clone();
        origin.insert("recipe".into(), json!({ "name": name, "description": recipe.description }));
        let options = BakeOptions {
            tag: tag.clone(),
            machine: baker.machine(recipe.memory_mib),
            rootfs: disk.path.clone(),
            boot_wait,
            user: recipe.user.clone(),
            warm: recipe.warm.clone(),
            ready: recipe.ready.clone(),
            origin,
            created_at: self.settings.timestamp.clone(),
        };
        let mut reports = Vec::new();
        let bake = baker.bake(&options, &mut |trial| {
            if trial.is_rehearsal() {
                return recipe
                    .tests
                    .first()
                    .map_or(Ok(()), |test| ask(test, trial.guest, &recipe.user).map(drop));
            }
            for (number, test) in (1..).zip(&recipe.tests) {
                reports.push(self.run_test(number, test, trial.guest, &recipe.user)?);
                // The first answer is what whoever forks it waits for.
                trial.stop_recording();
            }
            Ok(())
        })?;
        let (time, tests) = (baker.begun.elapsed(), Some(reports));
        let summary = self.tell_of(BakeSummary { bake, time, image: None, tests });
        drop(disk);
        self.trim_cache()?;
        Ok(summary)
    }

    fn tell_of(&self, summary: BakeSummary) -> BakeSummary {
        self.narrator.tell(&Event::BakeDone(&summary));
        summary
    }

    /// Refuses a tag that is taken, before anything is fetched.
    fn require_free(&self, tag: &Tag) -> Result<()> {
        let store = &self.settings.store;
        if store.contains(tag) {
            let message = format!("'{tag}' is already at {}", self.settings.shown(&store.dir(tag)));
            return Err(Error::new(Kind::General, message).hint(format!("`forkd rmi {tag}` first")));
        }
        Ok(())
    }

    fn run_test(
        &self,
        number: usize,
        test: &RecipeTest,
        guest: &mut Guest,
        user: &str,
    ) -> Result<RecipeTestReport> {
        let begun = Instant::now();
        let answer = ask(test, guest, user);
        let judge = |answer: String| test.judge(&answer).map_err(|e| Error::new(Kind::General, e));
        answer.and_then(judge).map_err(|e| e.within(format!("test {number} of the recipe")))?;
        let asked = test.eval.as_ref().or(test.run.as_ref()).map_or("", String::as_str);
        let time = begun.elapsed();
        let first = asked.lines().next().unwrap_or_default();
        self.narrator.tell(&Event::TestPassed { number, test: first, time });
        Ok(RecipeTestReport { test: asked.to_owned(), time })
    }
}

fn ask(test: &RecipeTest, guest: &mut Guest, user: &str) -> Result<String> {
    if let Some(expression) = &test.eval {
        return eval(guest, expression, Some(TEST_LIMIT));
    }
    let command = test.run.clone().unwrap_or_default();
    let exec = Exec {
        argv: ["/bin/sh".into(), "-c".into(), command.clone()].to_vec(),
        user: user.to_owned(),
        limit_ms: TEST_LIMIT.as_millis() as u64,
        ..Exec::default()
    };
    let mut said = KeptOutput::default();
    let mut output = |stream, bytes: &[u8]| {
        said.push(stream, bytes);
        Ok(())
    };
    let exit = guest.exec(&exec, &mut Streams { input: None, output: &mut output, controls: None })?;
    let [out, err] = said.texts();
    if exit.code != 0 {
        let last = err.lines().chain(out.lines()).rfind(|line| !line.trim().is_empty()).unwrap_or("nothing");
        let message = format!("exit code {} of {command}; it said: {last}", exit.code);
        return Err(Error::new(Kind::General, message));
    }
    Ok(out)
}

/// The command by which a guest installs packages.
fn install(packages: &[String]) -> Result<Option<String>> {
    if let Some(wrong) = packages.iter().find(|name| !recipe::is_package(name)) {
        return Err(Error::new(Kind::Usage, format!("--extra: '{wrong}' is no package name")));
    }
    let names = packages.join(" ");
    Ok((!packages.is_empty()).then(|| {
        format!(
            "set -e; if command -v apt-get >/dev/null; then \
             apt-get -q update; apt-get -q install -y --no-install-recommends {names}; apt-get clean; rm -rf /var/lib/apt/lists/*; \
             elif command -v apk >/dev/null; then apk add --no-cache {names}; \
             else echo 'the image has neither apt-get nor apk, so --extra cannot install: {names}' >&2; exit 69; fi"
        )
    }))
}

fn is_interface(name: &str) -> bool {
    !name.contains('/') && !name.contains(',') && std::path::Path::new("/sys/class/net").join(name).exists()
}
