//! What is told of a snapshot before any of it is fetched: where it runs.

use forkd_format::Snapshot;

/// What is said of a snapshot in its release's configuration, to choose by.
pub(crate) const TOLD: [&str; 4] = ["format_version", "engine", "guest", "frozen"];

/// The engine and the processor that a snapshot needs, in words: `qemu-tcg Nehalem-v1`.
pub(crate) fn engine_of(snapshot: &Snapshot) -> String {
    let engine = |field: &str| snapshot.get("engine").and_then(|engine| engine.get(field)?.as_str());
    let name = engine("name").unwrap_or("unknown");
    let accel = engine("accel").map_or_else(String::new, |accel| format!("-{accel}"));
    let cpu = engine("cpu").map_or_else(String::new, |cpu| format!(" {cpu}"));
    format!("{name}{accel}{cpu}")
}
