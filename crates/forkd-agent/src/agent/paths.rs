//! Places in a guest that both the agent and others know (docs/agent.md).

/// Where the agent is in a guest; outside of its disk, so that it is the same whatever the disk holds.
pub(super) const AGENT: &str = "/run/forkd/agent";
/// Where a warm program may listen for expressions.
pub(super) const EVAL_SOCKET: &str = "/run/forkd/eval.sock";
