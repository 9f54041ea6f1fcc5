//! Which variant of a release this host takes: the best that it can run.

use crate::error::{Error, Kind, Result};
use crate::hub::offer::{Offer, ReleaseOffer};
use crate::hub::repository::{ManifestName, Repository};
use crate::pull::context::PullContext;
use crate::release::open::document;
use crate::unpack::plan::Examine;
use forkd_format::Snapshot;
use forkd_format::release::{ReleaseConfig, ReleaseDocument, ReleaseManifest, ReleaseVariants};
use std::sync::Arc;

/// How good a variant is where it runs: processors that are real go before those that are made up.
fn rank(engine: &str) -> u8 {
    let kind = engine.split(' ').next().unwrap_or_default();
    match kind {
        _ if kind.ends_with("-tcg") => 2,
        _ if kind.ends_with("-kvm") => 0,
        _ => 1,
    }
}

/// Leaves one of the variants that are offered: the best that this host can run; where it can run none, the first, which may be kept and passed
/// on all the same.
pub(crate) fn choose(context: &PullContext<'_>, mut offers: Vec<Offer>) -> Result<Vec<Offer>> {
    let (mut variants, mut others): (Vec<Offer>, Vec<Offer>) =
        offers.drain(..).partition(|offer| offer.variant.is_some());
    variants.sort_by_key(|offer| rank(offer.variant.as_deref().unwrap_or_default()));
    let mut names: Vec<String> = variants.iter().filter_map(|offer| offer.variant.clone()).collect();
    names.dedup();
    if names.len() < 2 {
        others.extend(variants);
        return Ok(others);
    }
    let (mut taken, mut unknown) = (None, None);
    for name in &names {
        let first = variants.iter().find(|offer| offer.variant.as_ref() == Some(name));
        let (Some(first), Some(Examine(fits))) = (first, &context.options.unpack.examine) else { break };
        let needs = match (&first.needs, &first.release) {
            (Some(needs), _) => Arc::clone(needs),
            (None, Some(release)) => Arc::new(described(context, release)?),
            // Nothing is told of it: better than one that does not run here.
            (None, None) => {
                unknown = unknown.or(Some(name.clone()));
                continue;
            }
        };
        if fits(&needs).is_ok() {
            taken = Some(name.clone());
            break;
        }
    }
    let why = match (&taken, &unknown) {
        (Some(_), _) => "runs here",
        (None, Some(_)) => "may run here",
        (None, None) => "none runs here",
    };
    let name = taken.or(unknown).unwrap_or_else(|| names[0].clone());
    let left: Vec<&str> = names.iter().filter(|other| **other != name).map(String::as_str).collect();
    let choice = format!("variant {name}: {why} (there are also: {})", left.join(", "));
    // The packs of one variant stay together: of these the cheapest is taken.
    let chosen = variants.into_iter().filter(|offer| offer.variant.as_ref() == Some(&name));
    others.extend(chosen.map(|offer| Offer { choice: Some(choice.clone()), ..offer }));
    Ok(others)
}

/// What the configuration of a release says of its snapshot.
fn described(context: &PullContext<'_>, release: &ReleaseOffer) -> Result<Snapshot> {
    let blob = &release.manifest.config;
    let bytes = document(context.remote, blob, &release.config, context.env.cancel)?;
    context.traffic.add(bytes.len() as u64);
    let told = ReleaseConfig::snapshot(&bytes).map_err(Error::malformed(release.config.to_string()))?;
    Ok(Snapshot::new(told))
}

/// The variants of a tag with one more; `engine_of` says what a release without variants is for.
pub(crate) fn with_variant(
    repository: &dyn Repository,
    tag: &str,
    (manifest, engine): (&[u8], &str),
    engine_of: &dyn Fn(&ReleaseManifest) -> Result<String>,
    cancel: &crate::env::Cancel,
) -> Result<Vec<u8>> {
    let mut variants = match repository.manifest(&ManifestName::Tag(tag.to_owned()), cancel) {
        Err(error) if error.kind() == Kind::NotFound => ReleaseVariants::default(),
        found => {
            let bytes = found?;
            match ReleaseDocument::parse(&bytes).map_err(Error::malformed(repository.name()))? {
                ReleaseDocument::Variants(variants) => variants,
                ReleaseDocument::Release(read) => {
                    let mut variants = ReleaseVariants::default();
                    variants.set(&bytes, &engine_of(&read)?);
                    variants
                }
            }
        }
    };
    variants.set(manifest, engine);
    if variants.manifests.len() > ReleaseVariants::MAX {
        let message = format!("{}:{tag} has {} variants already", repository.name(), ReleaseVariants::MAX);
        return Err(Error::new(Kind::General, message));
    }
    Ok(variants.to_bytes())
}
