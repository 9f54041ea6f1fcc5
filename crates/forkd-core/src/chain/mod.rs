//! Chains: a link is made from two memories, a head's memory is put together from links, and a chain becomes flat again.

pub(crate) mod assemble;
pub(crate) mod compact;
pub(crate) mod info;
pub(crate) mod link;
pub(crate) mod pieces;
#[cfg(test)]
mod tests;

pub use compact::{CompactReport, compact};
pub use info::{ChainInfo, EngineFields, LinkInfo, chain_info};
