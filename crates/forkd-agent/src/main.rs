//! The agent: PID 1 of a guest (docs/agent.md).
#![deny(unsafe_code)]

mod agent;

fn main() -> std::process::ExitCode {
    agent::run()
}
