//! What a registry says of a version (`docs/format/registry.md`).

use crate::error::Result;
use crate::hub::catalogue::Catalogue;
use crate::publish::PublishOptions;
use crate::publish::packs::{PackKind, PublishedPack};
use crate::store::root::Store;
use forkd_format::manifest::MEMORY;
use forkd_format::registry::Artifact;
use forkd_format::{PackFormat, PackId, Snapshot};
use serde_json::{Map, Value};

/// What is told of a snapshot.
pub(super) struct Described {
    pub(super) description: Option<String>,
    base_image: Option<String>,
    memory_mib: u64,
    snapshot: Snapshot,
    /// Its chain, root first.
    tags: Vec<String>,
}

impl Described {
    pub(super) fn of(store: &Store, options: &PublishOptions) -> Result<Self> {
        let chain = store.chain(&options.pack.tag)?;
        let tags = chain.iter().map(|link| link.tag.to_string()).collect();
        let stored = store.load(&options.pack.tag)?;
        let record = stored.record.unwrap_or_default();
        let memory = stored.dir.join(MEMORY).metadata().map_or(0, |metadata| metadata.len());
        Ok(Self {
            description: options.pack.description.clone().or(record.description),
            base_image: options.pack.base_image.clone().or(record.base_image),
            memory_mib: memory >> 20,
            snapshot: stored.snapshot,
            tags,
        })
    }
}

/// The registry's entry.
pub(super) fn entry(
    catalogue: &dyn Catalogue,
    described: &Described,
    options: &PublishOptions,
    packs: &[PublishedPack],
) -> Map<String, Value> {
    let mut entry = Map::new();
    if let Some(main) = packs.iter().find(|pack| pack.kind == PackKind::Stream) {
        entry.insert("url".into(), catalogue.url(&main.file_name).into());
        entry.insert("sha256".into(), main.id.digest().to_string().into());
        entry.insert("size_bytes".into(), main.size.into());
    }
    entry.insert("memory_mib".into(), described.memory_mib.into());
    let texts = [("base_image", &described.base_image), ("recipe_path", &options.recipe_path)];
    for (key, text) in texts {
        entry.extend(text.as_ref().map(|text| (key.to_owned(), Value::from(text.as_str()))));
    }
    entry.insert("created_at".into(), options.pack.created_at.as_str().into());
    entry.extend(described.snapshot.get("engine").map(|engine| ("engine".to_owned(), engine.clone())));
    if described.tags.len() > 1 {
        entry.insert("chain".into(), described.tags.clone().into());
    }
    let artifacts: Vec<Value> = packs
        .iter()
        .filter_map(|pack| match pack.id {
            PackId::File(_) | PackId::Release(_) => None,
            PackId::Manifest(manifest_sha256) => serde_json::to_value(Artifact {
                format: PackFormat::Paged.version(),
                url: catalogue.url(&pack.file_name),
                manifest_sha256,
                size_bytes: pack.size,
                head_bytes: pack.header_bytes,
                bases: pack.bases.clone(),
            })
            .ok(),
        })
        .collect();
    if !artifacts.is_empty() {
        entry.insert("artifacts".into(), artifacts.into());
    }
    entry
}
