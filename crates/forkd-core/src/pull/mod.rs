//! From a hub to the store: the cheapest of the packs that a version has, and of that only what is not here. A pull is a plan that is
//! carried out; a dry run is the same plan, told.

pub(crate) mod choose;
pub(crate) mod context;
pub(crate) mod demands;
pub(crate) mod frame_place;
pub(crate) mod frame_queue;
pub(crate) mod header_probe;
pub(crate) mod journal;
pub(crate) mod landed;
pub(crate) mod local;
pub(crate) mod missing;
pub(crate) mod paged;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod stream;

use crate::env::Env;
use crate::error::{Error, Result};
use crate::hub::offer::Offer;
use crate::hub::remote::Remote;
use crate::pull::context::{PullContext, PullOptions, PullTarget, Traffic};
use crate::pull::plan::{PullPlan, PullReport};
use crate::release::variants::choose;
use crate::store::lock::LockKind;
use crate::store::root::Store;
use forkd_format::PackId;

/// How often a pull begins again where the server's copy changes under it.
const RESTARTS: usize = 3;

/// Pulls: nothing is visible before every digest holds, and what has come of a pull that fails is gone on with by the next.
///
/// # Errors
/// Those of the hub, of [`Remote::request`] and of [`crate::unpack_file`].
pub fn pull(
    store: &Store,
    remote: &dyn Remote,
    options: &PullOptions<'_>,
    env: Env<'_>,
) -> Result<PullReport> {
    let context = PullContext { store, remote, options, env, traffic: Traffic::default() };
    let mut restarts = 0;
    loop {
        match pull_once(&context) {
            Err(Error::Changed { location }) if restarts < RESTARTS && options.arrivals.is_none() => {
                restarts += 1;
                env.progress.finish();
                env.progress.note(&format!("{location}: the server's copy changed; starting over"));
            }
            outcome => return outcome,
        }
    }
}

fn pull_once(context: &PullContext<'_>) -> Result<PullReport> {
    let (name, offers) = offers(context)?;
    // Of several who want the same pack, one downloads; the others find it done.
    let main = &offers[0];
    let key = main.claim.digest().unwrap_or_else(|| main.location.digest());
    let what = format!("the download of {name}");
    let store = context.store;
    let _lock = store.lock_name(&format!("pull-{key}"), &what, LockKind::Exclusive, context.env)?;
    PullPlan::new(context, name, offers)?.execute()
}

/// Says what [`pull`] would do: the plan that it would carry out. Nothing in the store is changed.
///
/// # Errors
/// As [`pull`].
pub fn plan_pull<'a>(
    store: &'a Store,
    remote: &'a dyn Remote,
    options: &'a PullOptions<'a>,
    env: Env<'a>,
) -> Result<PullPlan<'a>> {
    let context = PullContext { store, remote, options, env, traffic: Traffic::default() };
    let (name, offers) = offers(&context)?;
    PullPlan::new(&context, name, offers)
}

/// What names the packs that [`pull`] would choose from.
///
/// # Errors
/// Those of the hub.
pub fn offered_ids(options: &PullOptions<'_>, env: Env<'_>) -> Result<Vec<PackId>> {
    let offers = match &options.target {
        PullTarget::Url(location) => vec![Offer::at(location)?],
        PullTarget::Release { repository, name } => {
            crate::release::open::offers(*repository, name, env.cancel)?
        }
        PullTarget::Name { reference, hub } => hub.offers(reference, env.cancel)?,
        PullTarget::Offers { offers, .. } => offers.clone(),
    };
    Ok(offers.iter().flat_map(|offer| offer.claim.ids()).collect())
}

/// What the target is called, and what may be fetched for it.
fn offers(context: &PullContext<'_>) -> Result<(String, Vec<Offer>)> {
    match &context.options.target {
        PullTarget::Url(location) => Ok((location.to_string(), vec![Offer::at(location)?])),
        PullTarget::Release { repository, name } => {
            let offers = crate::release::open::offers(*repository, name, context.env.cancel)?;
            Ok((format!("{}:{name}", repository.name()), choose(context, offers)?))
        }
        PullTarget::Name { reference, hub } => {
            let offers = hub.offers(reference, context.env.cancel)?;
            Ok((reference.to_string(), choose(context, offers)?))
        }
        PullTarget::Offers { reference, offers } => {
            Ok((reference.to_string(), choose(context, offers.clone())?))
        }
    }
}
