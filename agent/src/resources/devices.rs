//! Devices that are given by their ids: what the operator declares, and who has which. Pure, but for `missing`.
//!
//! A set of devices is a resource of whole units, one for each id: `gpus:2` of an offer becomes the ids `0` and `1` here.
//! The agent picks, because the master counts and does not know ids, and a framework need not care.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mezzo_api::model::{Resources, Scalar};
use serde::{Deserialize, Serialize};

use crate::node::{ContainerId, Device};

/// Which ids of which set one task has.
pub(crate) type DeviceIds = BTreeMap<String, BTreeSet<String>>;

/// A set of devices, as the operator declares it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSet {
    /// Such as "gpu": tasks are told their ids in `MEZZO_DEVICES_GPU`.
    pub name: String,
    /// The resource that counts them; by default "gpus" for "gpu", else the set's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Each id with its devices: `"/dev/nvidia0"`, or `"/dev/nvidia0:/dev/card"` for another name inside.
    pub ids: BTreeMap<String, Vec<String>>,
    /// Devices that every task gets that has any of the set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// More variables that tell the ids, such as "NVIDIA_VISIBLE_DEVICES".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
}

impl DeviceSet {
    /// The resource that counts them.
    pub(crate) fn resource(&self) -> &str {
        match (&self.resource, self.name.as_str()) {
            (Some(resource), _) => resource,
            (None, "gpu") => "gpus",
            (None, name) => name,
        }
    }

    /// All of them, as a quantity.
    pub(crate) fn total(&self) -> Scalar {
        Scalar::from_units(i64::try_from(self.ids.len()).unwrap_or(i64::MAX))
    }

    /// The variable that every set has.
    fn variable(&self) -> String {
        let name = self.name.to_ascii_uppercase().replace('-', "_");
        format!("MEZZO_DEVICES_{name}")
    }

    /// In the order in which people count: 2 before 10.
    fn sorted(&self, ids: impl Iterator<Item = String>) -> Vec<String> {
        let mut ids: Vec<String> = ids.collect();
        ids.sort_by_key(|id| (id.parse::<u64>().unwrap_or(u64::MAX), id.clone()));
        ids
    }
}

/// The first thing that is wrong with the declared sets, with the field.
pub(crate) fn check(
    sets: &[DeviceSet],
    resources: Option<&Resources>,
) -> Result<(), (&'static str, String)> {
    for (index, set) in sets.iter().enumerate() {
        let wrong = |field: &str, problem: String| {
            Err(("devices", format!("[{index}].{field}: {problem}")))
        };
        let is_word = |text: &str| {
            !text.is_empty()
                && text.len() <= 64
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if !is_word(&set.name) {
            return wrong(
                "name",
                format!("{:?} is no name of a-z, 0-9 and -", set.name),
            );
        }
        let resource = set.resource();
        if !is_word(resource) || ["cpus", "mem", "disk", "ports"].contains(&resource) {
            return wrong(
                "resource",
                format!("{resource:?} cannot count devices; give a name such as \"gpus\""),
            );
        }
        for other in &sets[..index] {
            if other.name == set.name {
                return wrong("name", format!("{:?} is there twice", set.name));
            }
            if other.resource() == resource {
                return wrong("resource", format!("{resource:?} is there twice"));
            }
        }
        if set.ids.is_empty() {
            return wrong("ids", "there is none".to_owned());
        }
        for (id, paths) in &set.ids {
            let clean = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
            if id.is_empty() || id.len() > 64 || !id.chars().all(clean) {
                return wrong(
                    "ids",
                    format!("{id:?} is no id of letters, digits and ._:-"),
                );
            }
            if let Some(problem) = paths.iter().find_map(|path| parse(path).err()) {
                return wrong("ids", format!("{id}: {problem}"));
            }
        }
        if let Some(problem) = set.paths.iter().find_map(|path| parse(path).err()) {
            return wrong("paths", problem);
        }
        let is_variable = |name: &String| {
            let clean = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            !name.is_empty() && name.bytes().all(clean)
        };
        if let Some(name) = set.env.iter().find(|name| !is_variable(name)) {
            return wrong("env", format!("{name:?} is no name of a variable"));
        }
        let given = resources.map_or(Scalar::ZERO, |given| given.scalar(resource));
        if given > set.total() {
            return Err((
                "resources",
                format!(
                    "{resource}:{given} is more than the {} devices of the set {:?}",
                    set.ids.len(),
                    set.name
                ),
            ));
        }
    }
    Ok(())
}

/// `HOST` or `HOST:INSIDE`.
fn parse(text: &str) -> Result<Device, String> {
    let (source, target) = text.split_once(':').unwrap_or((text, text));
    let clean = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
    if !clean(source) || !clean(target) || !Path::new(target).starts_with("/dev") {
        return Err(format!(
            "{text:?} is no device; give a path like \"/dev/nvidia0\", or two like \"/dev/sdx:/dev/disk\", the second below /dev"
        ));
    }
    Ok(Device {
        source: PathBuf::from(source),
        target: PathBuf::from(target),
    })
}

/// Why a task does not get its devices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoDevices {
    #[error("resources.{resource}: {wanted} of it: devices are given whole")]
    NotWhole { resource: String, wanted: Scalar },
    #[error("resources.{resource}: {wanted} are wanted, of {all} are free: {free}")]
    NotFree {
        resource: String,
        wanted: usize,
        all: usize,
        free: String,
    },
}

/// All devices and who has which.
#[derive(Debug, Clone, Default)]
pub(crate) struct Devices {
    sets: Vec<DeviceSet>,
    held: BTreeMap<ContainerId, DeviceIds>,
}

impl Devices {
    pub(crate) fn new(sets: Vec<DeviceSet>) -> Self {
        Self {
            sets,
            held: BTreeMap::new(),
        }
    }

    /// Picks what a task takes: all or nothing.
    pub(crate) fn take(
        &mut self,
        id: &ContainerId,
        wanted: &Resources,
    ) -> Result<DeviceIds, NoDevices> {
        let mut picked = DeviceIds::new();
        for set in &self.sets {
            let resource = set.resource();
            let amount = wanted.scalar(resource);
            if amount.is_zero() {
                continue;
            }
            if amount.millis() % 1000 != 0 {
                return Err(NoDevices::NotWhole {
                    resource: resource.to_owned(),
                    wanted: amount,
                });
            }
            let number = usize::try_from(amount.units_floor()).unwrap_or(0);
            let is_held = |id: &str| {
                let of_set = self.held.values().filter_map(|held| held.get(&set.name));
                of_set.flatten().any(|held| held == id)
            };
            let free = set.ids.keys().filter(|id| !is_held(id)).cloned();
            let free = set.sorted(free);
            if free.len() < number {
                return Err(NoDevices::NotFree {
                    resource: resource.to_owned(),
                    wanted: number,
                    all: set.ids.len(),
                    free: if free.is_empty() {
                        "none".to_owned()
                    } else {
                        free.join(",")
                    },
                });
            }
            picked.insert(set.name.clone(), free.into_iter().take(number).collect());
        }
        if !picked.is_empty() {
            self.held.insert(id.clone(), picked.clone());
        }
        Ok(picked)
    }

    /// Notes what a task has that recovery found; also of ids that are declared no more.
    pub(crate) fn adopt(&mut self, id: &ContainerId, held: DeviceIds) {
        self.held.insert(id.clone(), held);
    }

    /// The task's last process is gone. Fine when it had none.
    pub(crate) fn release(&mut self, id: &ContainerId) {
        self.held.remove(id);
    }
}

/// Declared devices that the machine does not have, with their sets. Looks at the machine.
pub(crate) fn missing(sets: &[DeviceSet]) -> Vec<(&str, PathBuf)> {
    let mut missing = Vec::new();
    for set in sets {
        let paths = set.ids.values().flatten().chain(&set.paths);
        for device in paths.filter_map(|path| parse(path).ok()) {
            if !device.source.exists() {
                missing.push((set.name.as_str(), device.source));
            }
        }
    }
    missing
}

/// What a container is given for its ids: devices, and the variables that tell of them.
pub(crate) fn given(sets: &[DeviceSet], ids: &DeviceIds) -> (Vec<Device>, Vec<(String, String)>) {
    let (mut devices, mut env) = (Vec::<Device>::new(), Vec::new());
    for set in sets {
        let Some(ids) = ids.get(&set.name).filter(|ids| !ids.is_empty()) else {
            continue;
        };
        let own = ids.iter().filter_map(|id| set.ids.get(id)).flatten();
        for device in own.chain(&set.paths).filter_map(|path| parse(path).ok()) {
            // Two ids may share a device.
            if !devices.contains(&device) {
                devices.push(device);
            }
        }
        let told = set.sorted(ids.iter().cloned()).join(",");
        env.push((set.variable(), told.clone()));
        env.extend(set.env.iter().map(|name| (name.clone(), told.clone())));
    }
    (devices, env)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, n: usize) -> DeviceSet {
        DeviceSet {
            name: name.into(),
            ids: (0..n)
                .map(|id| (id.to_string(), vec![format!("/dev/zero:/dev/{name}{id}")]))
                .collect(),
            paths: vec!["/dev/full:/dev/control".into()],
            env: vec!["NVIDIA_VISIBLE_DEVICES".into()],
            ..DeviceSet::default()
        }
    }

    fn id(n: u64) -> ContainerId {
        ContainerId::derive("t", n)
    }

    fn resources(text: &str) -> Resources {
        text.parse().unwrap()
    }

    #[test]
    fn ids_are_picked_whole_and_had_by_one() {
        let mut devices = Devices::new(vec![set("gpu", 12), set("fpga", 1)]);
        let none = devices.take(&id(1), &resources("cpus:1")).unwrap();
        assert!(none.is_empty());
        let first = devices.take(&id(1), &resources("gpus:11")).unwrap();
        assert!(!first["gpu"].contains("11"), "as people count: {first:?}");
        let both = devices.take(&id(2), &resources("gpus:1;fpga:1")).unwrap();
        assert_eq!(both["gpu"], ["11".to_owned()].into());
        let refused = devices.take(&id(3), &resources("gpus:1")).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "resources.gpus: 1 are wanted, of 12 are free: none"
        );
        let half = devices.take(&id(3), &resources("fpga:0.5")).unwrap_err();
        assert!(half.to_string().starts_with("resources.fpga: 0.5 of it"));
        devices.release(&id(1));
        devices.release(&id(1));
        assert_eq!(
            devices.take(&id(3), &resources("gpus:1")).unwrap()["gpu"],
            ["0".to_owned()].into()
        );
        // What recovery found is not given to others.
        devices.adopt(&id(4), [("gpu".to_owned(), ["1".to_owned()].into())].into());
        let next = devices.take(&id(5), &resources("gpus:1")).unwrap();
        assert_eq!(next["gpu"], ["2".to_owned()].into());
    }

    #[test]
    fn a_container_gets_its_devices_and_is_told_of_them() {
        let sets = [set("gpu", 11), set("smart-nic", 1)];
        let ids = ["10", "2"].map(str::to_owned).into();
        let (devices, env) = given(&sets, &[("gpu".to_owned(), ids)].into());
        let targets: Vec<_> = devices.iter().map(|d| d.target.to_str().unwrap()).collect();
        assert_eq!(targets, ["/dev/gpu10", "/dev/gpu2", "/dev/control"]);
        assert_eq!(
            env,
            [
                ("MEZZO_DEVICES_GPU".to_owned(), "2,10".to_owned()),
                ("NVIDIA_VISIBLE_DEVICES".to_owned(), "2,10".to_owned())
            ]
        );
        assert_eq!(set("smart-nic", 1).variable(), "MEZZO_DEVICES_SMART_NIC");
        assert!(missing(&sets).is_empty());
        let mut gone = set("gpu", 1);
        gone.paths.push("/dev/no-such".into());
        assert_eq!(missing(&[gone]), [("gpu", "/dev/no-such".into())]);
    }

    #[test]
    fn each_mistake_of_the_operator_is_named() {
        let problem = |change: fn(&mut DeviceSet)| {
            let mut wrong = set("gpu", 2);
            change(&mut wrong);
            let found = check(&[set("fpga", 1), wrong], Some(&resources("gpus:2")));
            found.map_or_else(
                |(field, problem)| format!("{field}{problem}"),
                |()| String::new(),
            )
        };
        assert_eq!(problem(|_| {}), "");
        for (change, expected) in [
            (
                (|s| s.name = "GPU".into()) as fn(&mut DeviceSet),
                "devices[1].name",
            ),
            (|s| s.name = "fpga".into(), "devices[1].name"),
            (|s| s.resource = Some("mem".into()), "devices[1].resource"),
            (|s| s.resource = Some("fpga".into()), "devices[1].resource"),
            (|s| s.ids.clear(), "devices[1].ids"),
            (|s| s.paths = vec!["nvidiactl".into()], "devices[1].paths"),
            (
                |s| s.paths = vec!["/dev/a:/etc/a".into()],
                "devices[1].paths",
            ),
            (|s| s.env = vec!["A=B".into()], "devices[1].env"),
            (
                |s| {
                    s.ids.insert("a,b".into(), vec![]);
                },
                "devices[1].ids",
            ),
            (
                |s| {
                    s.ids.remove("1");
                },
                "resourcesgpus:2 is more than",
            ),
        ] {
            let found = problem(change);
            assert!(found.starts_with(expected), "{found}");
        }
    }
}
