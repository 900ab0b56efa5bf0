//! Networks by CNI plug-ins (Container Network Interface, specification 1.0.0): configuration lists of the operator's,
//! each plug-in a program that is told by its environment and standard input what to do.
//!
//! A record is on disk before the first plug-in runs, with the configuration itself, so that what was set up is taken down
//! the same way even if the operator's files have changed; the result is added before it is used. Blocking.

mod call;
mod conf;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

pub use call::PlugInError;
pub use conf::ConfError;

use super::nftables::PortMap;
use crate::id::ContainerId;
use crate::layout;
use call::{Call, Command};
use conf::ConfList;

const VERSION: u32 = 1;
/// What a container calls its link.
const INSIDE: &str = "eth0";

/// Where plug-ins and their configuration are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniConfig {
    /// Files `*.conflist`, `*.conf` and `*.json`, one network each.
    pub conf_dir: PathBuf,
    /// The programs, by the `type` in the configuration.
    pub bin_dir: PathBuf,
}

/// One container's place in such a network, on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) boot_id: String,
    pub(super) container: ContainerId,
    conf: ConfList,
    /// Where its plug-ins were.
    bin_dir: PathBuf,
    /// For plug-ins that map ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PortMap>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    /// What the last plug-in answered; `None` until all have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

impl Record {
    /// The network's name.
    pub(super) fn network(&self) -> &str {
        &self.conf.name
    }

    /// The container's addresses, IPv4 first.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.result.as_ref().map(addresses).unwrap_or_default()
    }

    /// The name servers that the network told.
    pub(super) fn dns(&self) -> Vec<IpAddr> {
        let servers = self.result.as_ref().map(|r| &r["dns"]["nameservers"]);
        let servers = servers.and_then(Value::as_array);
        servers.map_or_else(Vec::new, |servers| {
            let texts = servers.iter().filter_map(Value::as_str);
            texts.filter_map(|text| text.parse().ok()).collect()
        })
    }

    /// What only this container's calls have in their configuration.
    fn runtime_config(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|map| {
                json!({
                    "hostPort": map.host_port,
                    "containerPort": map.container_port,
                    "protocol": map.protocol.name(),
                })
            })
            .collect();
        json!({ "portMappings": ports })
    }

    /// As Mesos told plug-ins about the network that a task named.
    fn arguments(&self) -> Value {
        let labels: Vec<Value> = self
            .labels
            .iter()
            .map(|(key, value)| json!({"key": key, "value": value}))
            .collect();
        json!({"org.apache.mesos": {"network_info": {
            "name": self.conf.name, "labels": {"labels": labels},
        }}})
    }
}

/// The plug-ins of one instance.
#[derive(Clone, Debug)]
pub(super) struct Cni {
    /// `None`: nobody can join such a network; those who have are taken out of it all the same.
    config: Option<CniConfig>,
    dir: PathBuf,
}

impl Cni {
    pub(super) fn new(config: Option<CniConfig>, state: &Path) -> Self {
        Self {
            config,
            dir: state.join("network/cni"),
        }
    }

    /// A record for a container that is to join a network; nothing is done yet.
    pub(super) fn record(
        &self,
        boot_id: &str,
        container: &ContainerId,
        network: &str,
        (ports, labels): (&[PortMap], &BTreeMap<String, String>),
    ) -> Result<Record, ConfError> {
        let config = self.config.as_ref().ok_or_else(|| ConfError::Off {
            name: network.to_owned(),
        })?;
        Ok(Record {
            version: VERSION,
            boot_id: boot_id.to_owned(),
            container: container.clone(),
            conf: conf::load(&config.conf_dir, network)?,
            bin_dir: config.bin_dir.clone(),
            ports: ports.to_vec(),
            labels: labels.clone(),
            result: None,
        })
    }

    pub(super) fn write(&self, record: &Record) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        // Plug-ins give out addresses from files of their own, which outlive a boot: so must this.
        layout::write_record(
            &self.dir,
            &format!("{}.json", record.container),
            record,
            layout::Durability::Power,
        )
    }

    /// Fine when it is gone already.
    pub(super) fn remove(&self, container: &ContainerId) -> io::Result<()> {
        match fs::remove_file(self.dir.join(format!("{container}.json"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// All records, also of earlier boots.
    pub(super) fn read(&self) -> io::Result<Vec<Record>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                let _ = fs::remove_file(&path);
                continue;
            }
            match layout::read_record::<Record>(&path) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the record of a network cannot be read; it is left alone");
                }
            }
        }
        Ok(records)
    }
}

impl Record {
    fn call<'a>(&'a self, namespace: Option<&'a Path>) -> Call<'a> {
        Call {
            bin_dir: &self.bin_dir,
            container: &self.container,
            namespace,
            interface: INSIDE,
        }
    }

    fn input(&self, plug_in: &Map<String, Value>, previous: Option<&Value>) -> Value {
        let (runtime_config, arguments) = (self.runtime_config(), self.arguments());
        let conf = &self.conf;
        conf.input(plug_in, &runtime_config, &arguments, previous)
    }

    /// Runs all plug-ins in order, each with the result of the one before it.
    pub(super) fn add(&mut self, namespace: &Path) -> Result<(), PlugInError> {
        let mut result = None;
        for plug_in in &self.conf.plugins {
            let input = self.input(plug_in, result.as_ref());
            let call = self.call(Some(namespace));
            result = Some(call.run(Command::Add, plug_in, &input)?);
        }
        self.result = result;
        Ok(())
    }

    /// Runs all plug-ins in the reverse order; each has its chance, the first problem is told.
    pub(super) fn delete(&self, namespace: Option<&Path>) -> Result<(), PlugInError> {
        let mut done = Ok(());
        for plug_in in self.conf.plugins.iter().rev() {
            let input = self.input(plug_in, self.result.as_ref());
            let deleted = self.call(namespace).run(Command::Delete, plug_in, &input);
            done = done.and(deleted.map(|_| ()));
        }
        done
    }

    /// Asks all plug-ins whether what they set up is still there; those of versions that cannot tell are not asked.
    pub(super) fn check(&self, namespace: &Path) -> Result<(), PlugInError> {
        if !self.conf.can_check() || self.result.is_none() {
            return Ok(());
        }
        for plug_in in &self.conf.plugins {
            let input = self.input(plug_in, self.result.as_ref());
            let call = self.call(Some(namespace));
            call.run(Command::Check, plug_in, &input)?;
        }
        Ok(())
    }
}

/// The addresses in a result: `ips` of all versions, and `ip4`/`ip6` of the oldest. Pure.
fn addresses(result: &Value) -> Vec<IpAddr> {
    let listed = result["ips"].as_array().into_iter().flatten();
    let texts = listed
        .filter_map(|ip| ip["address"].as_str())
        .chain(result["ip4"]["ip"].as_str())
        .chain(result["ip6"]["ip"].as_str());
    let mut addresses: Vec<IpAddr> = texts
        .filter_map(|text| text.split('/').next()?.parse().ok())
        .collect();
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_all_versions_are_read_and_nonsense_is_not() {
        let check = |result: Value| -> Vec<String> {
            addresses(&result).iter().map(IpAddr::to_string).collect()
        };
        let new = json!({"ips": [{"address": "fd00::5/64"}, {"address": "10.0.0.5/24"}]});
        assert_eq!(check(new), ["10.0.0.5", "fd00::5"]);
        let old = json!({"ip4": {"ip": "10.0.0.5/24"}, "ip6": {"ip": "fd00::5/64"}});
        assert_eq!(check(old), ["10.0.0.5", "fd00::5"]);
        for nothing in [
            json!({}),
            json!(7),
            json!({"ips": 5}),
            json!({"ips": [{"address": "x"}, 3]}),
        ] {
            assert!(check(nothing).is_empty());
        }
    }

    #[test]
    fn records_are_found_again_with_the_configuration_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let conf_dir = dir.path().join("net.d");
        fs::create_dir(&conf_dir).unwrap();
        fs::write(
            conf_dir.join("a.conflist"),
            r#"{"cniVersion":"1.0.0","name":"dc","plugins":[{"type":"x","mtu":1400}]}"#,
        )
        .unwrap();
        let config = CniConfig {
            conf_dir: conf_dir.clone(),
            bin_dir: dir.path().join("bin"),
        };
        let cni = Cni::new(Some(config), dir.path());
        let id: ContainerId = "web-1".parse().unwrap();
        let nothing = (&[][..], &BTreeMap::new());
        let mut record = cni.record("now", &id, "dc", nothing).unwrap();
        cni.write(&record).unwrap();
        fs::remove_dir_all(conf_dir).unwrap();
        assert_eq!(cni.read().unwrap(), std::slice::from_ref(&record));
        record.result = Some(json!({"ips": [{"address": "10.0.0.5/24"}]}));
        cni.write(&record).unwrap();
        assert_eq!(cni.read().unwrap(), [record]);
        cni.remove(&id).unwrap();
        cni.remove(&id).unwrap();
        assert_eq!(cni.read().unwrap(), []);
        assert!(matches!(
            cni.record("now", &id, "dc", nothing),
            Err(ConfError::Unreadable { .. })
        ));
        let off = Cni::new(None, dir.path());
        assert!(matches!(
            off.record("now", &id, "dc", nothing),
            Err(ConfError::Off { .. })
        ));
    }
}
