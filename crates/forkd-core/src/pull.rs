use crate::check::{CheckedBody, Expected};
use crate::receive::Incoming;
use crate::remote::{Download, Location, Remote, get_small};
use crate::store::{LockKind, Source};
use crate::unpack::{LinkReport, Origin, Outcome, unpack};
use crate::{Env, Error, Kind, Result, Store, UnpackOptions, UnpackReport};
use forkd_format::manifest::RootfsSidecar;
use forkd_format::registry::{MAX_REGISTRY, Missing, Version};
use forkd_format::{Digest, Reference, Registry};
use std::io::Read;

/// What to pull.
#[derive(Debug, Clone)]
pub enum Target {
    /// A pack at a URL.
    Url(Location),
    /// A name in a registry.
    Reference {
        /// The name.
        reference: Reference,
        /// The registry.
        hub: Location,
    },
}

/// How to pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// What.
    pub target: Target,
    /// Tag and force.
    pub unpack: UnpackOptions,
}

/// What was pulled.
#[derive(Debug, Clone)]
pub struct PullReport {
    /// Bytes of the pack that were downloaded.
    pub downloaded: u64,
    /// The digest that the whole pack was checked against; `None` where none was known.
    pub sha256: Option<Digest>,
    /// What is in the store now.
    pub unpack: UnpackReport,
}

/// Looks a name up in a registry.
///
/// # Errors
/// [`Kind::NotFound`] with what is there instead; [`Kind::Integrity`] where the registry is malformed.
pub fn resolve(
    remote: &dyn Remote,
    reference: &Reference,
    hub: &Location,
    env: Env<'_>,
) -> Result<(Location, Version)> {
    let bytes = get_small(remote, hub, MAX_REGISTRY, env.cancel)?;
    let registry = Registry::parse(&bytes).map_err(Error::malformed(hub.to_string()))?;
    let version = registry.resolve(reference).map_err(|missing| {
        let message = match missing {
            Missing::Package(similar) if similar.is_empty() => format!("no '{}' in {hub}", reference.package),
            Missing::Package(similar) => {
                format!("no '{}' in {hub}; similar: {}", reference.package, similar.join(", "))
            }
            Missing::Version(there) => {
                format!(
                    "'{}' has no version '{}' in {hub}; there are: {}",
                    reference.package,
                    reference.version,
                    there.join(", ")
                )
            }
        };
        Error::new(Kind::NotFound, message)
    })?;
    let wrong = |why: String| Error::new(Kind::Integrity, format!("{hub}: '{}': {why}", reference.package));
    let location = hub.join(&version.url).map_err(|e| wrong(e.to_string()))?;
    if location.url().scheme() == "file" && hub.url().scheme() != "file" {
        return Err(wrong("its url names a file of this host, which a registry elsewhere may not".into()));
    }
    Ok((location, version.clone()))
}

/// Downloads a pack, checks it while it comes, and unpacks it. Nothing is visible before every digest holds.
///
/// # Errors
/// As [`resolve`], [`Remote::get`] and [`crate::unpack_file`].
pub fn pull(store: &Store, remote: &dyn Remote, options: &PullOptions, env: Env<'_>) -> Result<PullReport> {
    let (location, name, expected) = match &options.target {
        Target::Url(location) => (
            location.clone(),
            location.to_string(),
            Expected { sha256: location.pinned_digest()?, size: None },
        ),
        Target::Reference { reference, hub } => {
            let (location, version) = resolve(remote, reference, hub, env)?;
            if let Some(pinned) = reference.digest.filter(|pinned| *pinned != version.sha256) {
                let message = format!(
                    "{hub}: '{}' has sha256 {}; the reference pins {pinned}",
                    reference.package, version.sha256
                );
                return Err(Error::new(Kind::Integrity, message));
            }
            let expected = Expected { sha256: Some(version.sha256), size: Some(version.size_bytes) };
            (location, reference.to_string(), expected)
        }
    };
    // Of several who want the same pack, one downloads; the others find it done.
    let key = expected.sha256.unwrap_or_else(|| Digest::of(location.url().as_str().as_bytes()));
    let _lock = store.lock_name(
        &format!("pull-{key}"),
        &format!("the download of {name}"),
        LockKind::Exclusive,
        env,
    )?;
    if let Some(here) = already_here(store, expected.sha256, &options.unpack)? {
        return Ok(PullReport { downloaded: 0, sha256: expected.sha256, unpack: here });
    }
    let Download { size, body, .. } = remote.get(&location, env.cancel)?;
    if let (Some(declared), Some(offered)) = (expected.size, size)
        && declared != offered
    {
        let message =
            format!("{location}: the server offers {offered} bytes; the registry declares {declared}");
        return Err(Error::new(Kind::Integrity, message));
    }
    env.progress.start("pulling", expected.size.or(size));
    let report = receive(store, remote, &location, &name, expected, body, options, env);
    env.progress.finish();
    report
}

#[allow(clippy::too_many_arguments, reason = "one call, split from its caller so that progress always ends")]
fn receive(
    store: &Store,
    remote: &dyn Remote,
    location: &Location,
    name: &str,
    expected: Expected,
    body: Box<dyn Read + Send>,
    options: &PullOptions,
    env: Env<'_>,
) -> Result<PullReport> {
    let sha256 = expected.sha256;
    let body = CheckedBody::new(body, &location.to_string(), expected, env.progress, env.cancel);
    let incoming = Incoming::open(body, &location.to_string(), env)?;
    let mut sidecar =
        |rootfs: &RootfsSidecar| Ok(remote.get(&location.join(&rootfs.file_name())?, env.cancel)?.body);
    let source = Source { name: name.to_owned(), head: None, sha256 };
    let mut origin = Origin {
        source,
        sidecar: &mut sidecar,
        trust_manifest: !options.unpack.force && sha256.is_none(),
        count_content: false,
    };
    let mut downloaded = 0;
    let check = |body: CheckedBody<'_>| body.verify().map(|count| downloaded = count);
    let unpack = unpack(store, incoming, &options.unpack, &mut origin, check, env)?;
    Ok(PullReport { downloaded, sha256, unpack })
}

/// The snapshots that a pack of this digest was unpacked to, where they are all still here under the tags that a pull would give
/// them now. Untouched files are believed; `read` has them read again.
fn already_here(
    store: &Store,
    sha256: Option<Digest>,
    options: &UnpackOptions,
) -> Result<Option<UnpackReport>> {
    let Some(sha256) = sha256 else { return Ok(None) };
    for tag in store.tags()? {
        let Ok(stored) = store.load(&tag) else { continue };
        let Some(source) = stored.record.as_ref().and_then(|record| record.source.as_ref()) else { continue };
        if source.sha256 != Some(sha256) || options.tag.as_ref().or(source.head.as_ref()) != Some(&tag) {
            continue;
        }
        let Ok(chain) = store.chain(&tag) else { continue };
        // A chain keeps its tags: another one for its head is refused when the pack is read.
        let renamed = chain.len() > 1 && options.tag.is_some();
        if renamed || !chain.iter().all(|link| is_untouched(link, options.force)) {
            continue;
        }
        let links = chain.iter().map(|link| LinkReport {
            tag: link.tag.clone(),
            local_tag: link.tag.clone(),
            path: link.dir.clone(),
            parent: crate::store::parent_of(Some(link)).ok().flatten(),
            outcome: Outcome::Kept,
        });
        let unpacked_size =
            chain.iter().filter_map(|link| link.record.as_ref()).flat_map(|r| &r.files).map(|f| f.size).sum();
        return Ok(Some(UnpackReport {
            links: links.collect(),
            chain: chain.len() > 1,
            head: tag,
            unpacked_size,
        }));
    }
    Ok(None)
}

/// Whether every recorded file is as it was recorded: by its size and time, or, where `read` is set, by its bytes.
fn is_untouched(stored: &crate::store::Stored, read: bool) -> bool {
    let untouched = |file: &crate::store::RecordedFile| {
        let path = stored.dir.join(&file.path);
        let size = path.metadata().map(|metadata| metadata.len());
        size.is_ok_and(|size| size == file.size)
            && stored.digest(&file.path, &path, read).is_ok_and(|found| found == file.sha256)
    };
    stored.record.as_ref().is_some_and(|record| record.files.iter().all(untouched))
}
