/// The program that is PID 1 in every guest; static, for x86-64.
pub const AGENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/forkd-agent"));
