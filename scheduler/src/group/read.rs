//! Reads a group from JSON: apps, pods and groups below it, their ids resolved, every problem with its path.
//!
//! Pure. What is not given stays as it is: that is for the core, which knows what is there.

use std::collections::BTreeSet;

use mezzo_api::model::RoleName;
use serde_json::Value;

use super::GroupId;
use crate::app::read::Fields;
use crate::app::role::with_default;
use crate::app::spec::PPM;
use crate::app::{App, AppId, Report, dependencies, parse_app, parse_pod};
use crate::time::Timestamp;

/// Groups inside groups, at most.
const MAX_DEPTH: usize = 32;
/// The most that a group grows at once.
const MAX_SCALE: u64 = 1000 * PPM;

const FIELDS: &[&str] = &[
    "id",
    "apps",
    "groups",
    "dependencies",
    "pods",
    "scaleBy",
    "version",
    "enforceRole",
    // An answer of the server, accepted back.
    "waitingFor",
];

/// What is to become of a group. `None`: stays as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Which.
    pub id: GroupId,
    /// Exactly these apps lie in it directly.
    pub apps: Option<Vec<App>>,
    /// Exactly these pods lie in it directly.
    pub pods: Option<Vec<App>>,
    /// Exactly these groups lie in it directly.
    pub groups: Option<Vec<Update>>,
    /// On what it depends.
    pub dependencies: Option<BTreeSet<AppId>>,
    /// Of a top-level group: whether apps must have its role.
    pub enforce_role: Option<bool>,
    /// Instead of all else: every app below has so many times its instances, in millionths.
    pub scale_by: Option<u64>,
    /// Instead of all else: everything below as it was then.
    pub version: Option<Timestamp>,
}

/// The role of an app or a pod that names none, given what its top-level group is told about enforcing its own, if anything.
pub type Roles<'r> = dyn Fn(&AppId, Option<bool>) -> RoleName + 'r;

/// What a part of a group has from the top-level group that it lies in.
#[derive(Clone, Copy)]
struct Top<'r> {
    /// The request's word.
    enforces: Option<bool>,
    roles: &'r Roles<'r>,
}

/// What is wrong with a group file, and which of its fields no group has.
#[must_use]
pub fn check_group_json(value: &Value) -> Report {
    let nobody: &Roles<'_> = &|_, _| RoleName::any();
    Update::read(value, None, nobody).1
}

impl Update {
    /// Reads `value`; `id` is the path of the request. The update is there if the report has no errors.
    #[must_use]
    pub fn read(value: &Value, id: Option<&GroupId>, roles: &Roles<'_>) -> (Option<Self>, Report) {
        let mut report = Report::default();
        let top = Top {
            enforces: None,
            roles,
        };
        let update = read(value, id, None, String::new(), 0, top, &mut report);
        (update.filter(|_| report.errors.is_empty()), report)
    }
}

fn read(
    value: &Value,
    wanted: Option<&GroupId>,
    parent: Option<&GroupId>,
    path: String,
    depth: usize,
    top: Top<'_>,
    report: &mut Report,
) -> Option<Update> {
    if depth > MAX_DEPTH {
        report.value_problem(
            path,
            format!("groups lie in each other {MAX_DEPTH} deep at most"),
        );
        return None;
    }
    let fields = Fields::open(value, path, FIELDS, report)?;
    let id = read_id(&fields, wanted, parent, report)?;
    let enforce_role = fields.boolean("enforceRole", report);
    if enforce_role == Some(true) && !id.is_top_level() {
        report.value_problem(
            fields.path_of("enforceRole"),
            format!("enforceRole can only be set for top-level groups, and {id} is not top-level"),
        );
    }
    let top = Top {
        enforces: enforce_role
            .or(top.enforces)
            .filter(|_| id != GroupId::root()),
        ..top
    };
    let apps = fields.list("apps", report).map(|items| {
        items
            .into_iter()
            .filter_map(|(path, item)| read_app(item, &id, &path, parse_app, &top, report))
            .collect::<Vec<App>>()
    });
    let pods = fields.list("pods", report).map(|items| {
        items
            .into_iter()
            .filter_map(|(path, item)| read_app(item, &id, &path, parse_pod, &top, report))
            .collect::<Vec<App>>()
    });
    let groups = fields.list("groups", report).map(|items| {
        items
            .into_iter()
            .filter_map(|(path, item)| read(item, None, Some(&id), path, depth + 1, top, report))
            .collect::<Vec<Update>>()
    });
    let parts = [apps.as_deref(), pods.as_deref()];
    refuse_doubles(&fields, parts, groups.as_deref(), report);
    let dependencies = fields
        .get("dependencies")
        .is_some()
        .then(|| dependencies(&fields, id.as_str(), report));
    let scale_by = fields.decimal("scaleBy", 6, 0, MAX_SCALE, report);
    // The version that a GET shows beside the rest says nothing new.
    let others = apps.is_some() || pods.is_some() || groups.is_some() || dependencies.is_some();
    let version = match fields.string("version", report) {
        Some(text) if !others && scale_by.is_none() => match text.parse() {
            Ok(version) => Some(version),
            Err(problem) => {
                let problem: crate::time::InvalidTimestamp = problem;
                report.value_problem(fields.path_of("version"), problem.to_string());
                None
            }
        },
        Some(_) | None => None,
    };
    if scale_by.is_some() && others {
        report.value_problem(
            fields.path_of("scaleBy"),
            "goes with no other field: a group is scaled or changed",
        );
    }
    if depth > 0 && (scale_by.is_some() || version.is_some()) {
        report.value_problem(
            fields.path_of("id"),
            "scaleBy and version are for the group of the request, not for those in it",
        );
    }
    Some(Update {
        enforce_role: enforce_role.filter(|_| id.is_top_level()),
        id,
        apps,
        pods,
        groups,
        dependencies,
        scale_by,
        version,
    })
}

fn read_id(
    fields: &Fields<'_>,
    wanted: Option<&GroupId>,
    parent: Option<&GroupId>,
    report: &mut Report,
) -> Option<GroupId> {
    let at = fields.path_of("id");
    let Some(text) = fields.string("id", report) else {
        if wanted.is_none() && fields.get("id").is_none() {
            report.value_problem(at, "is missing; a group needs a name such as \"/shop\"");
        }
        return wanted.cloned();
    };
    let base = parent.map_or("/", GroupId::as_str);
    let id = match GroupId::resolve(&text, base) {
        Ok(id) => id,
        Err(problem) => {
            report.value_problem(&at, problem.to_string());
            return None;
        }
    };
    if let Some(parent) = parent
        && id.parent().as_ref() != Some(parent)
    {
        report.value_problem(&at, format!("{id} does not lie directly in {parent}"));
    }
    if let Some(wanted) = wanted
        && *wanted != id
    {
        report.value_problem(at, format!("is {id}, but the request is for {wanted}"));
    }
    Some(id)
}

/// An app or a pod inside a group: its id begins at the group.
fn read_app(
    item: &Value,
    group: &GroupId,
    path: &str,
    parse: impl Fn(&Value, Option<&AppId>) -> (Option<App>, Report),
    top: &Top<'_>,
    report: &mut Report,
) -> Option<App> {
    let mut item = item.clone();
    if let Some(text) = item.get("id").and_then(Value::as_str)
        && let Ok(id) = AppId::resolve(text, group.as_str())
    {
        if GroupId::of(&id) != *group {
            report.value_problem(
                format!("{path}/id"),
                format!("{id} does not lie directly in {group}"),
            );
        }
        item["id"] = id.as_str().into();
        item = with_default(&item, &(top.roles)(&id, top.enforces));
    }
    let (app, found) = parse(&item, None);
    let placed = |at: &str| {
        if at == "/" {
            path.to_owned()
        } else {
            format!("{path}{at}")
        }
    };
    report
        .errors
        .extend(found.errors.into_iter().map(|mut problem| {
            problem.path = placed(&problem.path);
            problem
        }));
    report
        .unknown
        .extend(found.unknown.into_iter().map(|mut unknown| {
            unknown.path = placed(&unknown.path);
            unknown
        }));
    app
}

/// No two parts of a group have one name.
fn refuse_doubles(
    fields: &Fields<'_>,
    apps: [Option<&[App]>; 2],
    groups: Option<&[Update]>,
    report: &mut Report,
) {
    let apps = apps.into_iter().flatten().flatten();
    let apps = apps.map(|app| app.id.as_str());
    let groups = groups.unwrap_or_default().iter();
    let mut seen = BTreeSet::new();
    for name in apps.chain(groups.map(|group| group.id.as_str())) {
        if !seen.insert(name) {
            report.value_problem(
                fields.path_of("apps"),
                format!("{name} is there twice: Groups and Applications may not have the same identifier"),
            );
        }
    }
}
