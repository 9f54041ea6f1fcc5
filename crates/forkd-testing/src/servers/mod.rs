//! Real servers on loopback: Debian's docker-registry, without or with a token server, and SeaweedFS. Each ends with its value.

mod process;
mod proxy;
mod registry;
mod tokens;
mod weed;

pub use proxy::FaultProxy;
pub use registry::DockerRegistry;
pub use tokens::TokenServer;
pub use weed::SeaweedFs;
