//! What a registry says of a version (`docs/format/registry.md`).

use crate::error::Result;
use crate::hub::catalogue::Catalogue;
use crate::publish::options::PublishOptions;
use crate::publish::packs::{PackKind, PublishedPack};
use crate::release::told::engine_of;
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

    /// What is listed for this snapshot's engine and processor: the version itself, or one of its variants.
    pub(super) fn own<'l>(&self, listed: &'l Map<String, Value>) -> Option<&'l Map<String, Value>> {
        let variants = listed.get("variants").and_then(Value::as_array).into_iter().flatten();
        let mut all = std::iter::once(listed).chain(variants.filter_map(Value::as_object));
        all.find(|one| self.is_for(one))
    }

    fn is_for(&self, listed: &Map<String, Value>) -> bool {
        let told = listed.get("engine").map(|engine| ("engine".to_owned(), engine.clone()));
        engine_of(&Snapshot::new(Map::from_iter(told))) == engine_of(&self.snapshot)
    }

    /// A version with this snapshot as one of its variants, in the place of what it had for the same engine and processor.
    pub(super) fn beside(&self, listed: &Map<String, Value>, own: Map<String, Value>) -> Map<String, Value> {
        let mut entry = listed.clone();
        let before = match entry.shift_remove("variants") {
            Some(Value::Array(variants)) => variants,
            _ => Vec::new(),
        };
        let others = |one: &Value| !one.as_object().is_some_and(|one| self.is_for(one));
        let mut variants: Vec<Value> = before.into_iter().filter(others).collect();
        if self.is_for(listed) {
            entry = own;
        } else {
            let keys = ["engine", "url", "sha256", "size_bytes", "created_at", "artifacts"];
            let own = own.into_iter().filter(|(key, _)| keys.contains(&key.as_str()));
            variants.push(Value::Object(own.collect()));
        }
        if !variants.is_empty() {
            entry.insert("variants".into(), variants.into());
        }
        entry
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
    let texts = [("base_image", &described.base_image), ("recipe_path", &options.terms.recipe_path)];
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
