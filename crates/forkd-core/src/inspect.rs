use crate::env::Env;
use crate::error::{Error, Result};
use crate::pack::paged::header::{PagedHeader, read_exact};
use crate::pack::stream::read::PackStream;
use crate::store::record::Provenance;
use crate::store::root::Store;
use crate::store::stored::{missing_file, parent_of};
use forkd_format::manifest::{Base, RootfsSidecar, SNAPSHOT_JSON};
use forkd_format::paged::{Plan, RunKind, StoredFrame, parse_data_frame};
use forkd_format::{Digest, Manifest, PAGE_SIZE, PackFormat, Tag};
use serde::{Serialize, Serializer};
use std::io::Read;
use std::path::Path;

/// What is known of a snapshot or a pack.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The header's tag.
    pub tag: Tag,
    /// The pack format; `None` for a snapshot in the store.
    pub pack_version: Option<u32>,
    /// Size of the pack file in bytes.
    #[serde(rename = "pack_bytes")]
    pub pack_size: Option<u64>,
    /// For people.
    pub description: Option<String>,
    /// The container image behind the rootfs.
    pub base_image: Option<String>,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// The forkd that packed.
    pub forkd_version: Option<String>,
    /// The pack that a snapshot in the store came in.
    #[serde(serialize_with = "named_pack")]
    pub source: Option<Provenance>,
    /// A root disk beside the pack.
    #[serde(serialize_with = "sidecar_file")]
    pub rootfs: Option<RootfsSidecar>,
    /// The links, root first.
    pub links: Vec<LinkFacts>,
    /// What a version 3 pack is made of.
    #[serde(rename = "frames")]
    pub paged: Option<PagedFacts>,
}

/// What a version 3 pack is made of.
#[derive(Debug, Clone, Serialize)]
pub struct PagedFacts {
    /// Its files in order.
    pub files: Vec<FrameFacts>,
    /// The pages that a fork needs first.
    pub working_set: SetFacts,
    /// How deep frames need each other.
    pub depth: u32,
    /// What a registry says of it.
    pub artifact: ArtifactFacts,
}

/// What a registry says of a version 3 pack, but for where it lies (`docs/format/registry.md`).
#[derive(Debug, Clone, Serialize)]
pub struct ArtifactFacts {
    /// 3.
    pub format: PackFormat,
    /// SHA-256 of its manifest, which names the pack.
    pub manifest_sha256: Digest,
    /// Size of the pack file in bytes.
    pub size_bytes: u64,
    /// Bytes before the first frame: manifest and index.
    pub head_bytes: u64,
    /// Files that frames refer to and it does not hold.
    pub bases: Vec<Base>,
}

/// The working set of a version 3 pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetFacts {
    /// Its pages; 0 where nothing was recorded.
    pub pages: usize,
    /// Bytes that they take in the pack.
    #[serde(rename = "stored_bytes")]
    pub bytes: u64,
}

/// The frames of one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FrameFacts {
    /// The file's name in the pack.
    pub name: String,
    /// Frames that stand in the pack.
    #[serde(rename = "stored_frames")]
    pub stored: usize,
    /// Frames of zeros, which do not.
    #[serde(rename = "zero_frames")]
    pub zero: usize,
    /// Bytes of the stored ones.
    #[serde(rename = "stored_bytes")]
    pub bytes: u64,
    /// Pages that are stored.
    pub data_pages: u64,
    /// Pages that are copied from others.
    pub copied_pages: u64,
    /// Pages of others that stored ones are compressed with.
    pub similar_pages: u64,
    /// How deep its frames need others.
    pub depth: u32,
    /// Bytes of a frame and of all that it needs, on average; `None` where they need too many to be counted.
    pub mean_closure_bytes: Option<u64>,
    /// The same, at most.
    pub largest_closure_bytes: Option<u64>,
}

/// One link.
#[derive(Debug, Clone, Serialize)]
pub struct LinkFacts {
    pub tag: Tag,
    pub parent: Option<Tag>,
    /// The digest that its parent's memory must have.
    pub parent_content_hash: Option<Digest>,
    pub files: Vec<FileFacts>,
}

/// One file.
#[derive(Debug, Clone, Serialize)]
pub struct FileFacts {
    pub path: String,
    /// Its size in bytes.
    #[serde(rename = "size_bytes")]
    pub size: u64,
    /// Bytes that it takes on the disk, for a snapshot in the store.
    #[serde(rename = "disk_bytes")]
    pub disk_size: Option<u64>,
    /// Its digest; `None` where nobody has recorded one.
    pub sha256: Option<Digest>,
}

fn named_pack<S: Serializer>(
    source: &Option<Provenance>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct NamedPack<'a> {
        name: &'a str,
        sha256: Option<Digest>,
    }
    let named = source
        .as_ref()
        .map(|source| NamedPack { name: &source.name, sha256: source.id.map(|id| id.digest()) });
    named.serialize(serializer)
}

fn sidecar_file<S: Serializer>(
    rootfs: &Option<RootfsSidecar>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct SidecarFile {
        file: String,
        size_bytes: u64,
        sha256: Digest,
    }
    let file = |rootfs: &RootfsSidecar| SidecarFile {
        file: rootfs.file_name(),
        size_bytes: rootfs.size,
        sha256: rootfs.sha256,
    };
    rootfs.as_ref().map(file).serialize(serializer)
}

/// Reads the manifest of a pack file and, of version 3, the index and the plans of its frames; nothing else behind it.
///
/// # Errors
/// [`crate::error::Kind::NotFound`], [`crate::error::Kind::Integrity`].
pub fn inspect_file(file: &Path, env: Env<'_>) -> Result<Inspection> {
    let input = crate::pack::pack_file::open_pack(file)?;
    let size = input.metadata().map_err(Error::io("open", file))?.len();
    let name = file.display().to_string();
    let stream = PackStream::open(input, &name, env)?;
    if !stream.manifest().format().is_paged() {
        return Ok(of_manifest(stream.manifest(), Some(size)));
    }
    let (header, mut rest) = PagedHeader::read(stream, &name)?;
    header.check_size(size, &name)?;
    let paged = paged_facts(&header, size, &mut rest, &name, env)?;
    Ok(Inspection { paged: Some(paged), ..of_manifest(&header.manifest, Some(size)) })
}

/// Reads the plan of every frame, and no page.
fn paged_facts(
    header: &PagedHeader,
    size: u64,
    frames: &mut impl Read,
    name: &str,
    env: Env<'_>,
) -> Result<PagedFacts> {
    let mut files: Vec<FrameFacts> = Vec::new();
    let set = header.frames_of(header.set_file());
    for (file, table) in header.files.iter().chain([set]).enumerate() {
        let stored = table.frames.iter().flatten().count();
        let zero = table.frames.len() - stored;
        files.push(FrameFacts {
            name: header.member(file),
            stored,
            zero,
            mean_closure_bytes: Some(0),
            ..FrameFacts::default()
        });
    }
    let bases = header.manifest.bases.iter().map(|base| base.size);
    // A description is in no file that could be referred to.
    let own = header.manifest.files().map(|(_, file)| if file.path == SNAPSHOT_JSON { 0 } else { file.size });
    let sources: Vec<u64> = bases.chain(own).chain([set.size]).collect();
    let mut closures = Closures::default();
    for id in 0..header.frames() {
        env.cancel.check()?;
        let (frame, (file, _)) = (header.stored(id), header.place(id));
        let mut bytes = vec![0; frame.len as usize];
        read_exact(frames, &mut bytes, name)?;
        let pages = |source: usize| {
            let known = sources.get(source)? / PAGE_SIZE as u64;
            header.pages_before(id, source, known)
        };
        let plan = parse_data_frame(&bytes).and_then(|body| Plan::parse(body, header.len(id), pages));
        let checked = plan.and_then(|(plan, _)| header.needs(id, &plan).map(|_| plan));
        let plan = checked.map_err(Error::malformed(format!("{name}: {}", files[file].name)))?;
        closures.add(frame);
        let facts = &mut files[file];
        facts.depth = facts.depth.max(closures.depth(id));
        facts.largest_closure_bytes = facts.largest_closure_bytes.max(closures.bytes(id));
        facts.mean_closure_bytes =
            facts.mean_closure_bytes.zip(closures.bytes(id)).map(|(sum, more)| sum + more);
        facts.bytes += u64::from(frame.len);
        let data = plan.runs.iter().filter(|run| run.kind == RunKind::Data);
        facts.data_pages += data.map(|run| run.count as u64).sum::<u64>();
        for (run, similar) in plan.references() {
            *if similar { &mut facts.similar_pages } else { &mut facts.copied_pages } += run.count as u64;
        }
    }
    for facts in &mut files {
        facts.mean_closure_bytes = facts.mean_closure_bytes.map(|sum| sum / facts.stored.max(1) as u64);
    }
    let working_set = files.pop().unwrap_or_default();
    let depth = files.iter().map(|file| file.depth).max().unwrap_or(0);
    let bases = header.manifest.bases.iter().filter(|base| !base.is_unused());
    let artifact = ArtifactFacts {
        format: PackFormat::Paged,
        manifest_sha256: header.id.id().digest(),
        size_bytes: size,
        head_bytes: header.header_len,
        bases: bases.cloned().collect(),
    };
    let pages = header.set.pages().len();
    Ok(PagedFacts { files, working_set: SetFacts { pages, bytes: working_set.bytes }, depth, artifact })
}

/// Frames that are counted for all closures together, so that a stranger's pack costs little.
const COUNTED: usize = 4 << 20;

/// What must come before each frame, as far as the frames are known.
#[derive(Default)]
struct Closures {
    frames: Vec<Closure>,
    counted: usize,
}

struct Closure {
    /// `None` where they were too many.
    needs: Option<Vec<u32>>,
    depth: u32,
    len: u32,
}

impl Closures {
    fn add(&mut self, frame: &StoredFrame) {
        let below = || frame.needs.iter().map(|need| &self.frames[*need as usize]);
        let depth = below().map(|closure| closure.depth + 1).max().unwrap_or(0);
        let mut needs = Some(frame.needs.to_vec());
        for closure in below() {
            needs = needs.zip(closure.needs.as_ref()).map(|(mut all, more)| {
                all.extend(more);
                all.sort_unstable();
                all.dedup();
                all
            });
        }
        let needs = needs.filter(|needs| self.counted + needs.len() <= COUNTED);
        self.counted += needs.as_ref().map_or(0, Vec::len);
        self.frames.push(Closure { needs, depth, len: frame.len });
    }

    fn depth(&self, id: usize) -> u32 {
        self.frames[id].depth
    }

    /// Bytes of the frame and of all that it needs.
    fn bytes(&self, id: usize) -> Option<u64> {
        let needs = self.frames[id].needs.as_ref()?;
        let with = needs.iter().map(|need| u64::from(self.frames[*need as usize].len));
        Some(u64::from(self.frames[id].len) + with.sum::<u64>())
    }
}

fn of_manifest(manifest: &Manifest, pack_size: Option<u64>) -> Inspection {
    let links = manifest.links.iter().map(|link| LinkFacts {
        tag: link.tag.clone(),
        parent: link.parent_tag.clone(),
        parent_content_hash: link.parent_content_hash,
        files: link
            .files
            .iter()
            .map(|file| FileFacts {
                path: file.path.clone(),
                size: file.size,
                disk_size: None,
                sha256: Some(file.sha256),
            })
            .collect(),
    });
    Inspection {
        tag: manifest.tag.clone(),
        pack_version: Some(manifest.version),
        pack_size,
        description: manifest.description.clone(),
        base_image: manifest.base_image.clone(),
        created_at: manifest.created_at.clone(),
        forkd_version: manifest.forkd_version.clone(),
        source: None,
        rootfs: manifest.rootfs.clone(),
        links: links.collect(),
        paged: None,
    }
}

/// Tells what the store knows of a snapshot and its ancestors, without reading their bytes.
///
/// # Errors
/// [`crate::error::Kind::NotFound`], [`crate::error::Kind::Integrity`].
pub fn inspect_tag(store: &Store, tag: &Tag) -> Result<Inspection> {
    let chain = store.chain(tag)?;
    let mut links = Vec::new();
    for stored in &chain {
        let mut paths = vec![(SNAPSHOT_JSON, stored.dir.join(SNAPSHOT_JSON))];
        paths.extend(stored.bodies());
        let files = paths.into_iter().map(|(name, path)| {
            let metadata = path.metadata().map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => missing_file(&stored.tag, &path),
                _ => Error::io("read", &path)(e),
            })?;
            let recorded = stored.record.as_ref().and_then(|record| record.file(name));
            Ok(FileFacts {
                path: name.to_owned(),
                size: metadata.len(),
                disk_size: Some(forkd_sys::allocated(&metadata)),
                sha256: recorded.map(|file| file.sha256),
            })
        });
        let parent = stored.snapshot.parent().map_err(Error::malformed(stored.dir.display().to_string()))?;
        links.push(LinkFacts {
            tag: stored.tag.clone(),
            parent: parent_of(Some(stored))?,
            parent_content_hash: parent.and_then(|parent| parent.content_hash),
            files: files.collect::<Result<_>>()?,
        });
    }
    let record = chain.into_iter().last().and_then(|stored| stored.record).unwrap_or_default();
    Ok(Inspection {
        tag: tag.clone(),
        pack_version: None,
        pack_size: None,
        description: record.description,
        base_image: record.base_image,
        created_at: record.created_at,
        forkd_version: None,
        source: record.source,
        rootfs: None,
        links,
        paged: None,
    })
}
