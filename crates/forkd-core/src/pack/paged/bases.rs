use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::pack::paged::head::Head;
use crate::pack::paged::page_source::SourceFile;
use crate::pack::sidecar::Beside;
use crate::store::by_content::{self, LocalFile};
use crate::store::root::Store;
use crate::unpack::plan::UnpackOptions;
use forkd_format::manifest::{Base, BaseKind};
use std::path::Path;

/// The base files of a pack, each known by a digest that was checked; a kernel that is not here comes from beside the pack.
pub(crate) fn open_bases(
    store: &Store,
    head: &Head,
    name: &str,
    staging: &Path,
    options: &UnpackOptions,
    beside: Beside<'_>,
    env: Env<'_>,
) -> Result<Vec<SourceFile>> {
    let files = if head.manifest.bases.is_empty() { Vec::new() } else { by_content::files(store)? };
    head.manifest
        .bases
        .iter()
        .map(|base| open_base(store, &files, base, name, staging, options, beside, env))
        .collect()
}

#[allow(clippy::too_many_arguments, reason = "one step of its caller")]
pub(crate) fn open_base(
    store: &Store,
    files: &[LocalFile],
    base: &Base,
    name: &str,
    staging: &Path,
    options: &UnpackOptions,
    beside: Beside<'_>,
    env: Env<'_>,
) -> Result<SourceFile> {
    // None of its pages is needed; a frame that names one all the same is refused.
    if base.is_unused() {
        return Ok(SourceFile { file: None, path: base.path.clone().into(), size: 0 });
    }
    if let Some(found) = by_content::find_base(files, base).and_then(LocalFile::as_source) {
        return Ok(found);
    }
    if base.kind == BaseKind::Kernel {
        return crate::pack::paged::kernel::open(base, staging, options.cache.as_ref(), beside, env);
    }
    if let Some(found) = by_content::find_unrecorded(store, base, env)? {
        return Ok(found);
    }
    let message = format!(
        "{name} is packed against '{}': a {} of {} bytes with sha256 {} is needed, and no snapshot in the store has it under any \
tag. Pull or unpack that version of '{}' first, or take the full pack",
        base.name, base.path, base.size, base.sha256, base.name
    );
    Err(Error::new(Kind::NotFound, message))
}
