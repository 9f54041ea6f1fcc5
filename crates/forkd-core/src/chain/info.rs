use crate::chain::link::stored_pages;
use crate::error::{Error, Result};
use crate::store::root::Store;
use crate::store::stored::{StoredSnapshot, parent_of};
use forkd_format::Tag;
use forkd_format::manifest::MEMORY;
use serde::Serialize;
use serde_json::Value;

/// What is known of a chain.
#[derive(Debug, Clone, Serialize)]
pub struct ChainInfo {
    pub tag: Tag,
    /// What the head was frozen on, where it says.
    pub engine: Option<EngineFields>,
    /// Whether the head's memory is there, put together; `None` for a flat snapshot.
    pub assembled: Option<bool>,
    /// The links, root first; one for a flat snapshot.
    pub links: Vec<LinkInfo>,
}

/// What a snapshot was frozen on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EngineFields {
    /// Such as `qemu`.
    pub name: Option<String>,
    pub version: Option<String>,
    pub machine: Option<String>,
    /// How instructions are run.
    pub accel: Option<String>,
    /// The processor that the guest sees.
    pub cpu: Option<String>,
}

/// One link.
#[derive(Debug, Clone, Serialize)]
pub struct LinkInfo {
    pub tag: Tag,
    pub parent: Option<Tag>,
    /// Guest memory in bytes.
    #[serde(rename = "memory_bytes")]
    pub memory: u64,
    /// Pages that its memory file holds.
    pub stored_pages: u64,
    /// Pages that it makes zero.
    pub zero_pages: u64,
    /// Bytes that its memory file takes on the disk.
    #[serde(rename = "memory_disk_bytes")]
    pub memory_disk: u64,
    /// Bytes that its root disk takes on the disk; `None` without one.
    #[serde(rename = "rootfs_disk_bytes")]
    pub rootfs_disk: Option<u64>,
    /// RFC 3339, as recorded.
    pub created_at: Option<String>,
}

/// Tells what the store knows of a chain, without reading its bytes.
///
/// # Errors
/// [`crate::error::Kind::NotFound`], [`crate::error::Kind::Integrity`].
pub fn chain_info(store: &Store, tag: &Tag) -> Result<ChainInfo> {
    let chain = store.chain(tag)?;
    let links = chain.iter().map(link).collect::<Result<Vec<_>>>()?;
    let head = chain.last().map(|head| &head.snapshot);
    let cached = |(size, digest)| store.cached(&digest, size).is_some();
    let engine = head.and_then(|head| head.get("engine")).filter(|engine| engine.is_object());
    Ok(ChainInfo {
        tag: tag.clone(),
        engine: engine.map(fields),
        assembled: (links.len() > 1).then(|| head.and_then(|head| head.frozen("memory")).is_some_and(cached)),
        links,
    })
}

fn fields(engine: &Value) -> EngineFields {
    let text = |key: &str| engine.get(key).and_then(Value::as_str).map(str::to_owned);
    EngineFields {
        name: text("name"),
        version: text("version"),
        machine: text("machine"),
        accel: text("accel"),
        cpu: text("cpu"),
    }
}

fn link(stored: &StoredSnapshot) -> Result<LinkInfo> {
    let path = stored.dir.join(MEMORY);
    let failed = || Error::io("read", &path);
    let file = stored.open(&path)?;
    let metadata = file.metadata().map_err(failed())?;
    let zeros = stored.snapshot.zero_pages().map_err(Error::malformed(stored.dir.display().to_string()))?;
    let rootfs = stored.rootfs().and_then(|path| path.metadata().ok());
    Ok(LinkInfo {
        tag: stored.tag.clone(),
        parent: parent_of(Some(stored))?,
        memory: metadata.len(),
        stored_pages: stored_pages(&file, metadata.len()).map_err(failed())?,
        zero_pages: zeros.iter().map(|(_, count)| count).sum(),
        memory_disk: forkd_sys::allocated(&metadata),
        rootfs_disk: rootfs.map(|metadata| forkd_sys::allocated(&metadata)),
        created_at: stored.record.as_ref().and_then(|record| record.created_at.clone()),
    })
}
