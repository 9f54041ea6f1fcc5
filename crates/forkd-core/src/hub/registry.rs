use crate::env::Env;
use crate::error::{Error, Kind, Result};
use crate::hub::remote::{Location, Remote, get_small};
use forkd_format::registry::{MAX_REGISTRY, Missing, Version};
use forkd_format::{Reference, Registry};

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
    let version = look_up(&bytes, reference, hub)?;
    Ok((join(hub, reference, &version.url)?, version))
}

pub(crate) fn look_up(bytes: &[u8], reference: &Reference, hub: &Location) -> Result<Version> {
    let registry = Registry::parse(bytes).map_err(Error::malformed(hub.to_string()))?;
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
    Ok(version.clone())
}

/// Where a registry says that a pack lies.
pub(crate) fn join(hub: &Location, reference: &Reference, url: &str) -> Result<Location> {
    let wrong = |why: String| Error::new(Kind::Integrity, format!("{hub}: '{}': {why}", reference.package));
    let location = hub.join(url).map_err(|e| wrong(e.to_string()))?;
    if location.url().scheme() == "file" && hub.url().scheme() != "file" {
        return Err(wrong("its url names a file of this host, which a registry elsewhere may not".into()));
    }
    Ok(location)
}
