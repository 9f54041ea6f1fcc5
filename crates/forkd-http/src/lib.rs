//! HTTP for all of forkd: one client, and one rule for redirects, tries, waits, deadlines, rates and credentials.
#![forbid(unsafe_code)]

mod ask;
mod authority;
mod body;
pub mod challenge;
mod client;
mod failure;
mod options;
mod parts;
mod rate_limit;
mod redirect;
mod retry;
mod stop;
mod transport;
mod upload;
mod web_authority;

pub use authority::{Authority, SharedAuthority};
pub use client::{HttpClient, SmallAnswer};
pub use failure::{Failure, Try, retry_after};
pub use options::HttpOptions;
pub use redirect::same_origin;
pub use retry::Tries;
pub use transport::HttpRequest;
pub use upload::FileBody;
pub use web_authority::WebAuthority;
