//! The packs of a version: the one that every host reads, and those of which less must come.

use crate::env::Env;
use crate::error::{Error, Result};
use crate::hub::catalogue::Catalogue;
use crate::pack::options::{PackOptions, PackReport};
use crate::pack::{pack_into, write_kernel};
use crate::publish::options::PublishOptions;
use crate::store::root::Store;
use crate::store::work_file::WorkFile;
use forkd_format::manifest::{Base, BaseKind};
use forkd_format::{PackFormat, PackId};
use serde::Serialize;
use std::path::Path;

const PREFIX: &str = "forkd-publish-";

/// A pack that refers to others is worth its place where it has at most so much of the bytes of the one that does not.
const WORTH: f64 = 0.97;

/// What a pack of a version is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PackKind {
    /// For every host.
    Stream,
    /// For hosts that have some of it.
    Paged,
    /// The same, with the guest's kernel apart.
    Kernel,
    /// For hosts that have an earlier version.
    Update,
}

/// A pack of a version.
#[derive(Debug, Clone, Serialize)]
pub struct PublishedPack {
    pub kind: PackKind,
    /// Its name on the hub.
    pub file_name: String,
    /// What names it.
    #[serde(flatten)]
    pub id: PackId,
    /// Its size in bytes.
    #[serde(rename = "size_bytes")]
    pub size: u64,
    /// Bytes before the first frame of a paged pack.
    #[serde(rename = "head_bytes", skip_serializing_if = "Option::is_none")]
    pub header_bytes: Option<u64>,
    /// Files that it refers to and does not hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bases: Vec<Base>,
}

impl PublishedPack {
    fn new(kind: PackKind, report: PackReport, options: &PublishOptions) -> Self {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' };
        let reference = &options.terms.reference;
        let name = reference.package.split('/').next_back().unwrap_or_default();
        let stem: String = format!("{name}-{}", reference.version).chars().map(plain).collect();
        let digest = &report.id.digest().to_string()[..12];
        // By what is in it: no file of a hub ever gets other bytes.
        let form = if kind == PackKind::Stream { "" } else { ".v3" };
        let file_name = format!("{stem}-{digest}{form}.forkd-snapshot.tar.zst");
        let PackReport { id, size, header_bytes, bases, .. } = report;
        Self { kind, file_name, id, size, header_bytes, bases }
    }
}

/// Makes the packs of a version and sends them.
pub(super) struct PackMaker<'a> {
    store: &'a Store,
    catalogue: &'a dyn Catalogue,
    options: &'a PublishOptions,
    temp: &'a Path,
    env: Env<'a>,
    /// The packs, and the kernel that one of them refers to.
    files: Vec<(String, u64, WorkFile<'a>)>,
}

impl<'a> PackMaker<'a> {
    pub(super) fn new(
        store: &'a Store,
        catalogue: &'a dyn Catalogue,
        options: &'a PublishOptions,
        (temp, env): (&'a Path, Env<'a>),
    ) -> Self {
        Self { store, catalogue, options, temp, env, files: Vec::new() }
    }

    /// The pack that every host reads.
    pub(super) fn stream(&mut self, told: &mut dyn FnMut(&PublishedPack)) -> Result<PublishedPack> {
        let options =
            PackOptions { format: None, bases: Vec::new(), kernel: None, ..self.options.pack.clone() };
        let (pack, file) = self.make(PackKind::Stream, &options)?;
        told(&pack);
        self.files.push((pack.file_name.clone(), pack.size, file));
        Ok(pack)
    }

    /// The packs of which less must come, as far as they are of use.
    pub(super) fn paged(
        &mut self,
        packs: &mut Vec<PublishedPack>,
        told: &mut dyn FnMut(&PublishedPack),
    ) -> Result<()> {
        let all = &self.options.pack;
        let alone =
            PackOptions { format: Some(PackFormat::Paged), bases: Vec::new(), kernel: None, ..all.clone() };
        let mut kinds = vec![(PackKind::Paged, alone.clone())];
        kinds.extend(
            all.kernel
                .clone()
                .map(|kernel| (PackKind::Kernel, PackOptions { kernel: Some(kernel), ..alone.clone() })),
        );
        kinds.extend(all.bases.iter().map(|base| {
            (
                PackKind::Update,
                PackOptions { bases: vec![base.clone()], kernel: all.kernel.clone(), ..alone.clone() },
            )
        }));
        let mut least = None;
        for (kind, options) in kinds {
            self.env.cancel.check()?;
            let (pack, file) = self.make(kind, &options)?;
            let is_worth_it = least.is_none_or(|least: u64| (pack.size as f64) < least as f64 * WORTH);
            if !is_worth_it || pack.bases.iter().all(Base::is_unused) && kind != PackKind::Paged {
                continue;
            }
            least.get_or_insert(pack.size);
            if let Some(base) =
                pack.bases.iter().find(|base| base.kind == BaseKind::Kernel && !base.is_unused())
            {
                self.add_kernel(base)?;
            }
            told(&pack);
            self.files.push((pack.file_name.clone(), pack.size, file));
            packs.push(pack);
        }
        Ok(())
    }

    fn make(&self, kind: PackKind, options: &PackOptions) -> Result<(PublishedPack, WorkFile<'a>)> {
        let suffix = format!("-{}.tar.zst", self.files.len());
        let file = WorkFile::create(self.store.disk(), self.temp, (PREFIX, &suffix), 0o600)?;
        let report = pack_into(self.store, options, file.file(), file.path(), self.env)?;
        Ok((PublishedPack::new(kind, report, self.options), file))
    }

    fn add_kernel(&mut self, base: &Base) -> Result<()> {
        let name = base.file_name();
        let Some((_, kernel)) = &self.options.pack.kernel else { return Ok(()) };
        if self.files.iter().any(|(there, ..)| *there == name) {
            return Ok(());
        }
        let file = WorkFile::create(self.store.disk(), self.temp, (PREFIX, ".vmlinux.zst"), 0o600)?;
        write_kernel(kernel, self.options.pack.level, file.file(), file.path())?;
        let size = file.file().metadata().map_err(Error::io("read", file.path()))?.len();
        self.files.push((name, size, file));
        Ok(())
    }

    /// Sends what is not there; gives the bytes that were sent, or would be.
    pub(super) fn send(&self) -> Result<u64> {
        let (cancel, progress) = (self.env.cancel, self.env.progress);
        let mut missing = Vec::new();
        if !self.options.terms.dry_run {
            self.catalogue.announce(cancel)?;
        }
        for (name, size, file) in &self.files {
            if !self.catalogue.has_file(name, *size, cancel)? {
                missing.push((name, size, file));
            }
        }
        let total = missing.iter().map(|(_, size, _)| **size).sum();
        if self.options.terms.dry_run || total == 0 {
            return Ok(total);
        }
        progress.start("uploading", Some(total));
        let sent = missing
            .iter()
            .try_for_each(|(name, _, file)| self.catalogue.put_file(name, file.path(), progress, cancel));
        progress.finish();
        sent.map(|()| total)
    }
}
