//! Configuration lists: found by the network's name, and what of them each plug-in is given. Deciding is pure; only
//! [`load`] reads files.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most bytes of one file that are read.
const MAX_FILE: u64 = 1 << 20;
/// Most plug-ins of one network.
const MAX_PLUG_INS: usize = 32;

/// A network's configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ConfList {
    pub(super) name: String,
    pub(super) version: String,
    #[serde(default)]
    disable_check: bool,
    pub(super) plugins: Vec<Map<String, Value>>,
}

/// No configuration for a network.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// The operator has set no networks up.
    #[error("no network {name:?}: this agent has no CNI networks (network.cni_conf_dir)")]
    Off {
        /// Which was wanted.
        name: String,
    },
    /// The folder or a file in it cannot be read.
    #[error("cannot read {} (network.cni_conf_dir)", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No file is of that network.
    #[error("no network {name:?} in {}; there are: {there}", dir.display())]
    Unknown {
        /// Which was wanted.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
        /// Names that are there.
        there: String,
    },
    /// The file says what cannot be.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The configuration of the network of that name: of several files the first by name.
pub(super) fn load(dir: &Path, name: &str) -> Result<ConfList, ConfError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ConfError::Unreadable { path, source }
    };
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<_>>()
        })
        .map_err(unreadable(dir))?;
    paths.retain(|path| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conflist" | "conf" | "json"))
    });
    paths.sort();
    let mut there = Vec::new();
    for path in paths {
        let mut text = String::new();
        fs::File::open(&path)
            .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
            .map_err(unreadable(&path))?;
        // A damaged file is a problem for who wants its network, and that name is in it.
        match parse(&text) {
            Ok(list) if list.name == name => return Ok(list),
            Ok(list) => there.push(list.name),
            Err(problem) if text.contains(&format!("\"{name}\"")) => {
                return Err(ConfError::Invalid { path, problem });
            }
            Err(problem) => {
                tracing::warn!(path = %path.display(), problem, "no configuration of a network");
            }
        }
    }
    Err(ConfError::Unknown {
        name: name.to_owned(),
        dir: dir.to_owned(),
        there: if there.is_empty() {
            "none".to_owned()
        } else {
            there.join(", ")
        },
    })
}

/// A list, or the older form with one plug-in. Pure.
fn parse(text: &str) -> Result<ConfList, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let fields = value.as_object().ok_or("no JSON object")?;
    let word = |name: &str| fields.get(name).and_then(Value::as_str);
    let name = word("name").ok_or("`name` is missing")?.to_owned();
    let version = word("cniVersion").unwrap_or("0.2.0").to_owned();
    let plugins = match fields.get("plugins") {
        Some(list) => {
            let list = list.as_array().ok_or("`plugins` is no list")?;
            let plug_ins: Option<Vec<_>> =
                list.iter().map(|item| item.as_object().cloned()).collect();
            plug_ins.ok_or("`plugins` holds something else than objects")?
        }
        None => vec![fields.clone()],
    };
    if plugins.is_empty() || plugins.len() > MAX_PLUG_INS {
        return Err(format!("`plugins` must have 1 to {MAX_PLUG_INS} entries"));
    }
    for (i, plug_in) in plugins.iter().enumerate() {
        let program = plug_in.get("type").and_then(Value::as_str).unwrap_or("");
        if program.is_empty() || program.contains('/') || program.starts_with('.') {
            return Err(format!(
                "plugins[{i}].type: {program:?} is no name of a program"
            ));
        }
    }
    // The specification lets it be written as a word too.
    let disable_check = fields
        .get("disableCheck")
        .is_some_and(|flag| flag == true || flag == "true");
    Ok(ConfList {
        name,
        version,
        disable_check,
        plugins,
    })
}

impl ConfList {
    /// What one plug-in reads: its own entry, the list's name and version, what it says it is capable of, and the
    /// result so far. Pure.
    pub(super) fn input(
        &self,
        plug_in: &Map<String, Value>,
        runtime_config: &Value,
        arguments: &Value,
        previous: Option<&Value>,
    ) -> Value {
        let mut input = plug_in.clone();
        input.insert("name".into(), self.name.as_str().into());
        input.insert("cniVersion".into(), self.version.as_str().into());
        let capabilities = input.remove("capabilities");
        let capable = |name: &str| {
            capabilities
                .as_ref()
                .is_some_and(|capabilities| capabilities[name] == true)
        };
        let mut given = Map::new();
        for (name, value) in runtime_config.as_object().into_iter().flatten() {
            if capable(name) && value.as_array().is_none_or(|items| !items.is_empty()) {
                given.insert(name.clone(), value.clone());
            }
        }
        if !given.is_empty() {
            input.insert("runtimeConfig".into(), given.into());
        }
        let mut all = match input.remove("args") {
            Some(Value::Object(own)) => own,
            Some(_) | None => Map::new(),
        };
        all.extend(arguments.as_object().cloned().unwrap_or_default());
        input.insert("args".into(), all.into());
        if let Some(previous) = previous {
            input.insert("prevResult".into(), previous.clone());
        }
        input.into()
    }

    /// Plug-ins can be asked whether all is well since version 0.4.0. Pure.
    pub(super) fn can_check(&self) -> bool {
        let mut numbers = self
            .version
            .split('.')
            .map(|number| number.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        !self.disable_check && version >= (0, 4)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_and_single_plug_ins_are_read() {
        let list = parse(
            r#"{"cniVersion":"1.0.0","name":"dc","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#,
        )
        .unwrap();
        assert_eq!((list.name.as_str(), list.plugins.len()), ("dc", 2));
        assert!(list.can_check());
        let one = parse(r#"{"name":"old","type":"macvlan","master":"eth0"}"#).unwrap();
        assert_eq!(one.plugins[0]["master"], "eth0");
        assert!(!one.can_check(), "version 0.2.0");
        let off = parse(r#"{"cniVersion":"1.0.0","name":"x","disableCheck":"true","type":"a"}"#);
        assert!(!off.unwrap().can_check());
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"name":"x"}"#,
            r#"{"name":"x","plugins":[]}"#,
            r#"{"name":"x","plugins":[7]}"#,
            r#"{"name":"x","plugins":[{"type":"../sh"}]}"#,
            r#"{"name":"x","type":"a/b"}"#,
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_plug_in_is_given_what_it_is_capable_of() {
        let list = parse(
            r#"{"cniVersion":"1.0.0","name":"dc","plugins":[
                {"type":"bridge","args":{"own":1}},{"type":"portmap","capabilities":{"portMappings":true}}]}"#,
        )
        .unwrap();
        let runtime = json!({"portMappings": [{"hostPort": 1}], "bandwidth": {}});
        let arguments = json!({"org.apache.mesos": {}});
        let first = list.input(&list.plugins[0], &runtime, &arguments, None);
        assert_eq!(
            first,
            json!({"type": "bridge", "name": "dc", "cniVersion": "1.0.0",
                "args": {"own": 1, "org.apache.mesos": {}}})
        );
        let second = list.input(
            &list.plugins[1],
            &runtime,
            &arguments,
            Some(&json!({"ips": []})),
        );
        assert_eq!(
            second["runtimeConfig"],
            json!({"portMappings": [{"hostPort": 1}]})
        );
        assert_eq!(second["prevResult"], json!({"ips": []}));
        assert!(second.get("capabilities").is_none());
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write(
            "20-b.conflist",
            r#"{"name":"b","plugins":[{"type":"second"}]}"#,
        );
        write("10-b.conf", r#"{"name":"b","type":"first"}"#);
        write("15-broken.json", "{\"name\": \"c\"");
        write("readme.txt", r#"{"name":"d","type":"x"}"#);
        assert_eq!(load(dir.path(), "b").unwrap().plugins[0]["type"], "first");
        let unknown = load(dir.path(), "d").unwrap_err().to_string();
        assert!(unknown.contains("there are: b, b"), "{unknown}");
        let broken = load(dir.path(), "c").unwrap_err().to_string();
        assert!(broken.contains("15-broken.json: no JSON"), "{broken}");
    }
}
