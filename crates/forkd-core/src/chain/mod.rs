//! Chains: a link is made from two memories, a head's memory is put together from links, and a chain becomes flat again.

mod assemble;
mod compact;
mod info;
mod link;
mod pieces;
#[cfg(test)]
mod tests;

pub(crate) use assemble::Layers;
pub use compact::compact;
pub use info::{ChainInfo, EngineFields, LinkInfo, chain_info};
pub(crate) use link::write_link;
