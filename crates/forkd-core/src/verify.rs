use crate::cache::folder::Cache;
use crate::digest::block_sums::differing;
use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::description::{memory_digest, parse_description, put};
use crate::pack::pack_file::open_pack;
use crate::pack::sidecar::{open_sidecar, read_sidecar};
use crate::pack::stream::content::Sink;
use crate::pack::stream::read::PackStream;
use crate::store::lock::LockKind;
use crate::store::record::{HashedFile, Record};
use crate::store::root::Store;
use crate::store::staged::write_sealed;
use crate::store::stored::StoredSnapshot;
use crate::unpack::plan::UnpackOptions;
use forkd_format::manifest::SNAPSHOT_JSON;
use forkd_format::reader::FileId;
use forkd_format::{Digest, Manifest, Tag};
use serde::Serialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Something that is not as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    #[serde(serialize_with = "crate::json::path")]
    pub path: PathBuf,
    /// The byte ranges that differ; empty where it is not a matter of bytes.
    pub ranges: Vec<(u64, u64)>,
    /// What was expected and found.
    pub message: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.message)?;
        for (i, (from, to)) in self.ranges.iter().take(8).enumerate() {
            write!(f, "{}{from}..{to}", if i == 0 { "; damaged bytes " } else { ", " })?;
        }
        match self.ranges.len() {
            0..=8 => Ok(()),
            more => write!(f, " and {} ranges more", more - 8),
        }
    }
}

/// What was verified.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// Links whose bytes were read.
    pub links: usize,
    /// Files whose digest was computed again.
    pub files: usize,
    /// Bytes that were checked.
    pub bytes: u64,
    /// All damage found; empty means whole.
    pub damage: Vec<Damage>,
    /// Snapshots that no digest was ever recorded for: only their chain edges could be checked.
    pub unrecorded: Vec<Tag>,
    /// Files with the right bytes and another time than was recorded, as in a copied store; the new time is recorded now, so that
    /// forks need not read them again.
    pub renewed_times: usize,
}

/// Computes every digest of a snapshot and its ancestors again and holds them against the records and the chain's edges.
///
/// # Errors
/// [`Kind::NotFound`] and what the disk says. Damage is no error here: it is in the report.
pub fn verify_tag(store: &Store, tag: &Tag, env: Env<'_>) -> Result<VerifyReport> {
    let tags: Vec<Tag> = store.chain(tag)?.into_iter().map(|link| link.tag).collect();
    let _locks = store.lock_all(&tags, LockKind::Shared, env)?;
    let chain = store.chain(tag)?;
    let total = chain
        .iter()
        .flat_map(StoredSnapshot::bodies)
        .filter_map(|(_, path)| path.metadata().ok())
        .map(|m| m.len())
        .sum();
    env.progress.start("verifying", Some(total));
    let report = verify_chain(&chain, env);
    env.progress.finish();
    let (mut report, times) = report?;
    report.renewed_times = times.iter().map(Vec::len).sum();
    for (stored, times) in chain.iter().zip(times).filter(|(_, times)| !times.is_empty()) {
        renew_times(store, stored, &times, env)?;
    }
    Ok(report)
}

/// A file of a snapshot, and when it was last written.
type FileTime<'a> = (&'a str, i64);

/// Records when files were last written whose bytes are as recorded.
fn renew_times(store: &Store, stored: &StoredSnapshot, times: &[FileTime<'_>], env: Env<'_>) -> Result<()> {
    let Some(mut record) = stored.record.clone() else { return Ok(()) };
    for file in &mut record.files {
        let found = times.iter().find(|(name, _)| *name == file.path);
        file.mtime_ns = found.map_or(file.mtime_ns, |(_, mtime_ns)| *mtime_ns);
    }
    let text = serde_json::to_vec(&record).map_err(|e| Error::new(Kind::General, e.to_string()))?;
    let (work, disk, target) = (store.stage(env)?, store.disk(), stored.dir.join(Record::NAME));
    let new = work.path().join(Record::NAME);
    write_sealed(disk, &new, &text)?;
    disk.replace(&new, &target).map_err(Error::io("replace", &target))?;
    disk.sync_dir(&stored.dir).map_err(Error::io("sync", &stored.dir))
}

/// A file that is to be read again.
struct Check<'a> {
    link: usize,
    name: &'a str,
    path: PathBuf,
}

/// What was found and, of each link, the times that are not those that were recorded.
fn verify_chain<'a>(
    chain: &'a [StoredSnapshot],
    env: Env<'_>,
) -> Result<(VerifyReport, Vec<Vec<FileTime<'a>>>)> {
    let mut checks = Vec::new();
    for (link, stored) in chain.iter().enumerate() {
        let names = stored.record.iter().flat_map(|record| &record.files).map(|file| file.path.as_str());
        let mut files: Vec<Check<'_>> =
            stored.bodies().into_iter().map(|(name, path)| Check { link, name, path }).collect();
        let known: Vec<&str> = files.iter().map(|check| check.name).collect();
        files.extend(names.filter(|name| !known.contains(name)).map(|name| Check {
            link,
            name,
            path: stored.dir.join(name),
        }));
        checks.extend(files);
    }
    let found = read_all(&checks, env)?;
    let mut report = VerifyReport { links: chain.len(), ..VerifyReport::default() };
    let mut memories: Vec<Option<Digest>> = vec![None; chain.len()];
    let mut times: Vec<Vec<FileTime<'_>>> = vec![Vec::new(); chain.len()];
    for (check, hashed) in checks.iter().zip(found) {
        let stored = &chain[check.link];
        let hashed = match hashed {
            Ok(hashed) => hashed,
            Err(error) if error.kind() == Kind::Interrupted => return Err(error),
            Err(error) => {
                report.damage.push(Damage {
                    path: check.path.clone(),
                    ranges: Vec::new(),
                    message: error.to_string(),
                });
                continue;
            }
        };
        report.files += 1;
        report.bytes += hashed.size;
        if check.name == forkd_format::manifest::MEMORY {
            memories[check.link] = Some(hashed.sha256);
        }
        let Some(recorded) = stored.record.as_ref().and_then(|record| record.file(check.name)) else {
            continue;
        };
        if recorded.sha256 == hashed.sha256 && hashed.is(recorded) {
            if recorded.mtime_ns != hashed.mtime_ns {
                times[check.link].push((check.name, hashed.mtime_ns));
            }
        } else {
            let message = if hashed.is(recorded) {
                format!(
                    "sha256 is {}; the pack that it came in declares {}, and its frames make what is here",
                    hashed.sha256, recorded.sha256
                )
            } else if recorded.size == hashed.size {
                format!("sha256 is {}; recorded was {}", hashed.sha256, recorded.sha256)
            } else {
                format!("{} bytes; recorded were {}", hashed.size, recorded.size)
            };
            let ranges = differing(&recorded.blocks, &hashed.blocks, recorded.size.max(hashed.size));
            report.damage.push(Damage { path: check.path.clone(), ranges, message });
        }
    }
    report.unrecorded =
        chain.iter().filter(|stored| stored.record.is_none()).map(|stored| stored.tag.clone()).collect();
    report.damage.extend(broken_edges(chain, &memories)?);
    Ok((report, times))
}

fn broken_edges(chain: &[StoredSnapshot], memories: &[Option<Digest>]) -> Result<Vec<Damage>> {
    let mut damage = Vec::new();
    for (i, stored) in chain.iter().enumerate().skip(1) {
        let parent = stored.snapshot.parent().map_err(Error::malformed(stored.dir.display().to_string()))?;
        let Some(expected) = parent.and_then(|parent| parent.content_hash) else { continue };
        let found = match memories[i - 1] {
            Some(found) => found,
            None => memory_digest(&chain[i - 1])?,
        };
        if found != expected {
            let message =
                format!("parent_content_hash is {expected}, but '{}' has {found}", chain[i - 1].tag);
            damage.push(Damage { path: stored.dir.join(SNAPSHOT_JSON), ranges: Vec::new(), message });
        }
    }
    Ok(damage)
}

/// Reads files with as many threads as there are jobs, a file a thread.
fn read_all(checks: &[Check<'_>], env: Env<'_>) -> Result<Vec<Result<HashedFile>>> {
    let next = Mutex::new(0..checks.len());
    let results: Mutex<Vec<Option<Result<HashedFile>>>> = Mutex::new(checks.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..env.jobs.clamp(1, 16) {
            scope.spawn(|| {
                while let Some(i) = next.lock().ok().and_then(|mut next| next.next()) {
                    let hashed = HashedFile::read(&checks[i].path, &mut |bytes| {
                        env.progress.advance(bytes);
                        env.cancel.check()
                    });
                    if let Ok(mut results) = results.lock() {
                        results[i] = Some(hashed);
                    }
                }
            });
        }
    });
    env.cancel.check()?;
    let results = results.into_inner().unwrap_or_default();
    let missing = || Err(Error::new(Kind::General, "internal error: a reader stopped"));
    Ok(results.into_iter().map(|result| result.unwrap_or_else(missing)).collect())
}

/// Checks a pack file as unpacking would, and keeps nothing. What a version 3 pack refers to is looked for in the store and the cache.
///
/// # Errors
/// [`Kind::NotFound`], and [`Kind::Integrity`] naming the first damage by file and offset.
pub fn verify_file(store: &Store, file: &Path, cache: Option<&Cache>, env: Env<'_>) -> Result<VerifyReport> {
    let name = file.display().to_string();
    let input = open_pack(file)?;
    let incoming = PackStream::open(input, &name, env)?;
    let manifest = incoming.manifest().clone();
    env.progress.start("verifying", Some(manifest.unpacked_size()));
    if manifest.format().is_paged() {
        let options = UnpackOptions { cache: cache.cloned(), ..UnpackOptions::default() };
        let verified = crate::unpack::paged::verify_file(store, file, incoming, &options, env);
        env.progress.finish();
        verified?;
        return Ok(VerifyReport {
            links: manifest.links.len(),
            files: manifest.files().count(),
            bytes: manifest.unpacked_size(),
            ..VerifyReport::default()
        });
    }
    let descriptions = manifest.links.iter().map(|_| Vec::new()).collect();
    let sink = Discard { env, manifest: &manifest, descriptions: Mutex::new(descriptions) };
    let received = incoming.receive(&sink, env);
    env.progress.finish();
    received?;
    let descriptions = sink.descriptions.into_inner().unwrap_or_default();
    for (link, description) in manifest.links.iter().zip(descriptions) {
        parse_description(link, &description)?;
    }
    let mut files = manifest.links.iter().map(|link| link.files.len()).sum();
    if let Some(rootfs) = &manifest.rootfs {
        read_sidecar(rootfs, open_sidecar(file, &rootfs.file_name())?, env, &mut |_, _| Ok(()))?;
        files += 1;
    }
    Ok(VerifyReport {
        links: manifest.links.len(),
        files,
        bytes: manifest.unpacked_size(),
        ..VerifyReport::default()
    })
}

/// A sink that keeps descriptions only: the reader checks every digest on the way.
struct Discard<'a> {
    env: Env<'a>,
    manifest: &'a Manifest,
    descriptions: Mutex<Vec<Vec<u8>>>,
}

impl Sink for Discard<'_> {
    fn start(&self, _file: FileId) -> Result<()> {
        Ok(())
    }

    fn write(&self, id: FileId, offset: u64, bytes: &[u8]) -> Result<()> {
        if self.manifest.links[id.link].files[id.file].path == SNAPSHOT_JSON
            && let Ok(mut descriptions) = self.descriptions.lock()
        {
            put(&mut descriptions[id.link], offset, bytes);
        }
        Ok(())
    }

    fn written(&self, _file: FileId, _blocks: String) {}

    fn advance(&self, bytes: u64) {
        self.env.progress.advance(bytes);
    }
}
