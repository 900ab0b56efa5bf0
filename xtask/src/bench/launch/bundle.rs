//! The OCI bundles of crun and runc: what our containers have, said in their language. Same namespaces, mounts, masked
//! and read-only paths, capabilities, limits, and the same list of allowed system calls.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use mezzo_integration::paths;
use serde_json::{Value, json};

/// What `runtime/src/spec/security.rs` gives by default.
const CAPABILITIES: [&str; 10] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Writes a bundle into `folder`.
pub(super) fn write(
    folder: &Path,
    rootfs: &Path,
    word: &str,
    cgroup: &str,
    seccomp: &Value,
) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let file = folder.join("config.json");
    fs::write(&file, config(rootfs, word, cgroup, seccomp).to_string())
        .with_context(|| format!("write {}", file.display()))
}

fn config(rootfs: &Path, word: &str, cgroup: &str, seccomp: &Value) -> Value {
    let namespaces: Vec<Value> = ["pid", "mount", "ipc", "uts", "cgroup", "network"]
        .iter()
        .map(|kind| json!({ "type": kind }))
        .collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": ["/program", word],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/"],
            "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
            "noNewPrivileges": true, "oomScoreAdj": 0,
        },
        "root": { "path": rootfs, "readonly": true },
        "hostname": "bench",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": namespaces,
            "rootfsPropagation": "private",
            "resources": {
                "devices": [{ "allow": false, "access": "rwm" }],
                "memory": { "limit": 64 << 20, "swap": 64 << 20 },
                "cpu": { "shares": 512, "quota": 50_000, "period": 100_000 },
                "pids": { "limit": 256 },
            },
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
                "/sys/devices/virtual/powercap",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "seccomp": seccomp,
        },
    })
}

/// Our default filter as an OCI object; its list is read from the source of the runtime.
pub(super) fn seccomp() -> Result<Value> {
    let file = paths::workspace().join("runtime/src/seccomp/default.rs");
    let source = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let calls = allowed(&source)
        .with_context(|| format!("{} has no list of allowed calls", file.display()))?;
    let equal = |value: u64| json!([{ "index": 0, "value": value, "op": "SCMP_CMP_EQ" }]);
    let mut rules = vec![json!({ "names": calls, "action": "SCMP_ACT_ALLOW" })];
    for value in [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(
            json!({ "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": equal(value) }),
        );
    }
    rules.push(json!({
        "names": ["clone"], "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": 0, "value": 0x7E02_0000_u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }],
    }));
    rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }));
    rules.push(json!({
        "names": ["socket"], "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": 0, "value": 40, "op": "SCMP_CMP_NE" }],
    }));
    let architectures: &[&str] = if cfg!(target_arch = "x86_64") {
        &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    } else if cfg!(target_arch = "aarch64") {
        &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    } else {
        &[]
    };
    Ok(json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": architectures, "syscalls": rules,
    }))
}

fn allowed(source: &str) -> Option<Vec<&str>> {
    let (_, rest) = source.split_once("const ALLOWED: &str = \"")?;
    let (list, _) = rest.split_once("\";")?;
    let calls: Vec<&str> = list.split_whitespace().collect();
    // SYS_CHROOT is in the default set of capabilities.
    (calls.len() > 100).then(|| calls.into_iter().chain(["chroot"]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_get_our_list_of_system_calls() {
        let filter = seccomp().expect("the list");
        let names = filter["syscalls"][0]["names"].as_array().expect("names");
        assert!(names.len() > 300, "{}", names.len());
        assert!(names.contains(&json!("execve")) && !names.contains(&json!("mount")));
    }

    #[test]
    fn a_bundle_has_limits_and_filter() {
        let config = config(
            Path::new("/r"),
            "true",
            "/g/x",
            &json!({ "defaultAction": "x" }),
        );
        assert_eq!(config["process"]["args"], json!(["/program", "true"]));
        assert_eq!(config["linux"]["cgroupsPath"], "/g/x");
        assert_eq!(config["linux"]["resources"]["pids"]["limit"], 256);
        assert_eq!(config["linux"]["seccomp"]["defaultAction"], "x");
    }
}
