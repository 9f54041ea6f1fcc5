//! What snapshots are baked on and need again: the machine, its processor, its devices and its accelerator (docs/engine.md).

use forkd_core::machine::{Accel, PROTOCOL};
use forkd_core::{Error, Kind, Result};
use forkd_format::Snapshot;
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;

/// A versioned machine: the bare alias changes with QEMU's releases, and a snapshot loads only on the one it was baked on.
pub(crate) const MACHINE: &str = "pc-q35-7.2";
/// x86-64-v2, which every host of the last decade has.
pub(crate) const CPU: &str = "Nehalem-v1";
/// What every machine has beside the chipset, by address. To be changed with each change of the arguments that a frozen state
/// depends on: QEMU itself would tell of it only in words of its own, and not always.
pub(crate) const DEVICES: [&str; 4] =
    ["q35 without sata, smbus, usb", "virtio-blk-pci@3", "virtio-serial-pci@4", "virtio-net-pci@5"];

/// Whether this host has what a snapshot was baked on.
pub(crate) fn check_engine(snapshot: &Snapshot) -> Result<()> {
    let refuse = |message: String| Err(Error::new(Kind::Incompatible, message));
    if snapshot.get("engine").is_none() {
        return refuse(
            "snapshot.json has no 'engine': another tool baked it, and QEMU cannot restore it. It can be kept, packed and \
             verified here; bake it again with `forkd snapshot` to fork it"
                .into(),
        );
    }
    if let Some(version) = snapshot.get("format_version").filter(|version| **version != 1) {
        return refuse(format!("snapshot.json: format_version is {version}; this forkd reads 1"));
    }
    for (field, here) in [("name", "qemu"), ("machine", MACHINE), ("cpu", CPU), ("arch", "x86_64")] {
        let needed = text(snapshot, "engine", field).unwrap_or("nothing");
        if needed != here {
            return refuse(format!("snapshot.json: engine.{field} needs '{needed}'; this host has '{here}'"));
        }
    }
    let devices = snapshot.get("engine").and_then(|engine| engine.get("devices"));
    if devices != Some(&json!(DEVICES)) {
        let needed = devices.map_or_else(|| "nothing".to_owned(), Value::to_string);
        return refuse(format!(
            "snapshot.json: engine.devices needs {needed}; this forkd has {}. Bake it again",
            json!(DEVICES)
        ));
    }
    match text(snapshot, "engine", "accel") {
        Some("tcg") => {}
        Some("kvm") => open_kvm().or_else(|e| {
            refuse(format!("snapshot.json: engine.accel needs 'kvm'; this host has 'tcg' only ({e}). `forkd doctor` says more"))
        })?,
        other => {
            let needed = other.unwrap_or("nothing");
            return refuse(format!("snapshot.json: engine.accel needs '{needed}'; this host has 'tcg' or 'kvm'"));
        }
    }
    Ok(())
}

/// The same for all that a snapshot says, its guest's protocol among it.
pub(crate) fn check(snapshot: &Snapshot) -> Result<()> {
    check_engine(snapshot)?;
    let refuse = |message: String| Err(Error::new(Kind::Incompatible, message));
    let protocol = snapshot.get("guest").and_then(|guest| guest.get("protocol")).and_then(Value::as_u64);
    if protocol != Some(PROTOCOL.into()) {
        let needed = protocol.map_or("nothing".into(), |version| version.to_string());
        return refuse(format!(
            "snapshot.json: guest.protocol needs '{needed}'; this forkd speaks '{PROTOCOL}'"
        ));
    }
    memory_bytes(snapshot).map(drop)
}

fn text<'a>(snapshot: &'a Snapshot, group: &str, field: &str) -> Option<&'a str> {
    snapshot.get(group)?.get(field)?.as_str()
}

/// Bytes of guest memory that were frozen.
pub(crate) fn memory_bytes(snapshot: &Snapshot) -> Result<u64> {
    let bytes = snapshot.frozen("memory").map(|(bytes, _)| bytes);
    bytes.ok_or_else(|| {
        Error::new(Kind::Incompatible, "snapshot.json does not say what was frozen ('frozen.memory')")
    })
}

/// What the guest ran on, and must again.
pub(crate) fn accel(snapshot: &Snapshot) -> Accel {
    if text(snapshot, "engine", "accel") == Some("kvm") { Accel::Kvm } else { Accel::Tcg }
}

/// Sees whether this user may use KVM at all.
///
/// # Errors
/// What the system says of `/dev/kvm`.
pub fn open_kvm() -> Result<()> {
    let path = Path::new("/dev/kvm");
    File::options().read(true).write(true).open(path).map(drop).map_err(Error::io("open", path))
}

/// The host's processor in the kernel's words; for people.
pub(crate) fn host_cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(change: impl FnOnce(&mut Value)) -> Snapshot {
        let mut value = json!({
            "engine": { "name": "qemu", "machine": MACHINE, "accel": "tcg", "cpu": CPU, "arch": "x86_64",
                "devices": DEVICES },
            "guest": { "protocol": PROTOCOL },
            "frozen": { "memory": { "bytes": 4096, "sha256": "0".repeat(64) } },
        });
        change(&mut value);
        Snapshot::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_does_not_fit_is_named() {
        check(&snapshot(|_| {})).unwrap();
        for (group, field, value) in [
            ("engine", "name", "firecracker"),
            ("engine", "machine", "pc-q35-99"),
            ("engine", "cpu", "max"),
            ("engine", "arch", "aarch64"),
            ("engine", "accel", "hvf"),
            ("engine", "devices", "sata"),
            ("guest", "protocol", "9"),
        ] {
            let error = check(&snapshot(|s| s[group][field] = json!(value))).unwrap_err();
            assert_eq!(error.kind(), Kind::Incompatible);
            assert!(error.to_string().contains(&format!("{group}.{field}")), "{error}");
        }
        for key in ["engine", "frozen"] {
            let without = snapshot(|s| drop(s.as_object_mut().unwrap().remove(key)));
            assert_eq!(check(&without).unwrap_err().kind(), Kind::Incompatible, "{key}");
        }
    }
}
