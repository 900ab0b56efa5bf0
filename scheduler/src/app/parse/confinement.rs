//! What a container may do and where it may write: `readOnlyRootfs`, `capabilities` and Docker's `parameters`.
//!
//! Pure. Whether an agent lets a task add a capability is the agent's to say.

use mezzo_api::model::{Capabilities, InvalidCapability, LinuxCapability, MOST_CAPABILITIES};

use crate::app::confinement::{Confinement, Manner};
use crate::app::read::{Fields, Report};

const NOT_BOTH: &str =
    "say it with readOnlyRootfs and capabilities, or with parameters, not with both";

/// Both ways to say it: fields of `container`, and where there are Docker's, `parameters` of `docker`.
pub(crate) fn confinement(
    container: &Fields<'_>,
    docker: Option<&Fields<'_>>,
    report: &mut Report,
) -> Confinement {
    let by_fields = by_fields(container, report);
    let Some(docker) = docker else {
        return by_fields;
    };
    let by_parameters = by_parameters(docker, report);
    let nothing = Confinement::default();
    if by_parameters == nothing {
        return by_fields;
    }
    if by_fields != nothing {
        report.value_problem(docker.path_of("parameters"), NOT_BOTH);
    }
    by_parameters
}

fn by_fields(container: &Fields<'_>, report: &mut Report) -> Confinement {
    Confinement {
        read_only_rootfs: container.boolean("readOnlyRootfs", report).unwrap_or(false),
        capabilities: capabilities(container, report).unwrap_or_default(),
        manner: Manner::Fields,
    }
}

/// `capabilities`: `{"add": ["NET_RAW"], "drop": ["ALL"]}`.
fn capabilities(container: &Fields<'_>, report: &mut Report) -> Option<Capabilities> {
    let value = container.get("capabilities")?;
    let path = container.path_of("capabilities");
    let read = Fields::open(value, path.clone(), &["add", "drop"], report)?;
    let mut capabilities = Capabilities::default();
    for name in ["add", "drop"] {
        let said = read.strings(name, report).unwrap_or_default();
        if said.len() > MOST_CAPABILITIES {
            report.value_problem(read.path_of(name), too_many(said.len()));
            return None;
        }
        for (i, one) in said.iter().enumerate() {
            if let Err(error) = take(&mut capabilities, name == "add", one) {
                report.value_problem(format!("{}({i})", read.path_of(name)), error.to_string());
            }
        }
    }
    contradiction(&capabilities, path, report);
    Some(capabilities)
}

/// `parameters`: `[{"key": "cap-add", "value": "NET_RAW"}]`. Others of Docker's are refused by their names.
fn by_parameters(docker: &Fields<'_>, report: &mut Report) -> Confinement {
    let mut read = Confinement::default();
    let items = docker.list("parameters", report).unwrap_or_default();
    let at = docker.path_of("parameters");
    // Both lists together, and a word more.
    if items.len() > 2 * MOST_CAPABILITIES {
        report.value_problem(at, too_many(items.len()));
        return read;
    }
    for (path, item) in items {
        let Some(fields) = Fields::open(item, path, &["key", "value"], report) else {
            continue;
        };
        let key = fields.string("key", report).unwrap_or_default();
        let value = fields.string("value", report).unwrap_or_default();
        let problem = match key.as_str() {
            "cap-add" | "cap-drop" => {
                let taken = take(&mut read.capabilities, key == "cap-add", &value);
                taken.err().map(|error| ("value", error.to_string()))
            }
            "read-only" => match value.as_str() {
                "true" => {
                    read.read_only_rootfs = true;
                    None
                }
                "false" => None,
                _ => Some((
                    "value",
                    format!("got {value:?}, must be \"true\" or \"false\""),
                )),
            },
            _ => Some((
                "key",
                format!(
                    "not supported: {key:?}; of Docker's parameters cap-add, cap-drop and read-only are"
                ),
            )),
        };
        if let Some((field, problem)) = problem {
            report.value_problem(fields.path_of(field), problem);
        }
    }
    contradiction(&read.capabilities, at, report);
    if read != Confinement::default() {
        read.manner = Manner::Parameters;
    }
    read
}

fn take(to: &mut Capabilities, add: bool, name: &str) -> Result<(), InvalidCapability> {
    if add {
        to.add.insert(name.parse::<LinuxCapability>()?);
        Ok(())
    } else {
        to.drop.also(name)
    }
}

fn contradiction(capabilities: &Capabilities, path: String, report: &mut Report) {
    if let Some(both) = capabilities.contradiction() {
        report.value_problem(path, format!("{both} is both added and dropped"));
    }
}

fn too_many(n: usize) -> String {
    format!("has {n} entries, more than there are capabilities")
}
