//! Who we are to servers that ask.

use crate::challenge::Challenge;
use crate::failure::Try;
use reqwest::header::HeaderValue;
use std::fmt;
use std::sync::Arc;
use url::Url;

/// What lets us in to a server, and knows how to be let in again.
pub trait Authority: Send + Sync {
    /// What a request to this URL says of us.
    fn header(&self, url: &Url) -> Option<HeaderValue>;

    /// The server did not take what was said: gets what it asks for, unless another thread just has.
    ///
    /// # Errors
    /// [`forkd_core::Kind::Unauthorised`] where there is nothing that it would take.
    fn refresh(&self, challenges: &[Challenge], used: Option<&HeaderValue>) -> Try<()>;
}

/// An authority that several requests share.
#[derive(Clone)]
pub struct SharedAuthority(pub Arc<dyn Authority>);

impl fmt::Debug for SharedAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedAuthority")
    }
}
