//! Marathon's own examples and fixtures, from a clone of its public repository that is given by its path: how many are
//! taken and mean the same here, and why each other is not. Nothing of them is kept in this repository.
//!
//! `MARATHON_CLONE=/path/to/marathon cargo test -p mezzo-scheduler --test app_json marathon -- --nocapture`
//! prints the table of docs/marathon-compatibility.md. Without the variable only the parts that need no clone are
//! tested.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mezzo_scheduler::app::{merge, parse_app, parse_pod};
use mezzo_scheduler::check_group_json;
use serde_json::{Value, json};

/// Folders with examples.
const FOLDERS: [&str; 5] = [
    "docs/docs",
    "docs/articles",
    "tests/system",
    "tests/performance",
    "src/test/resources",
];

/// What a piece of JSON is, by its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    App,
    /// A few fields of an app, shown without the rest.
    Fragment,
    Group,
    Pod,
    Event,
    /// Answers, settings, plans.
    Other,
    NotJson,
}

/// What came of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Same,
    /// As it is it has no image; with one it is taken and means the same.
    SameWithImage,
    /// Taken, and something of it is not as it was.
    Differs(String),
    Refused(String),
}

/// Apps' fields that only Marathon answers with, or that are read in an older form and written in the newer.
const CONVERTED: &[&str] = &[
    "/ports",
    "/uris",
    "/ipAddress",
    "/container/docker/network",
    "/container/docker/portMappings",
    "/container/portMappings",
    "/dependencies",
    "/networks",
    "/portDefinitions",
    // In a network of the container's own the mappings say it.
    "/requirePorts",
    "/version",
    "/versionInfo",
    "/tasks",
    "/tasksStaged",
    "/tasksRunning",
    "/tasksHealthy",
    "/tasksUnhealthy",
    "/deployments",
    "/lastTaskFailure",
    "/taskStats",
    "/readinessCheckResults",
];

const APP_FIELDS: &[&str] = &[
    "cmd",
    "args",
    "container",
    "healthChecks",
    "readinessChecks",
    "portDefinitions",
    "networks",
    "env",
    "constraints",
    "fetch",
    "uris",
    "upgradeStrategy",
    "unreachableStrategy",
    "residency",
    "ipAddress",
    "acceptedResourceRoles",
    "backoffSeconds",
    "killSelection",
    "resourceLimits",
    "secrets",
    "check",
    "ports",
    "requirePorts",
    "role",
    "labels",
    "instances",
    "mem",
    "cpus",
];

fn kind(value: &Value) -> Kind {
    let Some(fields) = value.as_object() else {
        return Kind::Other;
    };
    let has = |name: &str| fields.contains_key(name);
    if has("eventType") {
        return Kind::Event;
    }
    if has("containers") || has("executorResources") || (has("scaling") && !has("instances")) {
        return Kind::Pod;
    }
    if has("groups") || (has("apps") && has("id")) {
        return Kind::Group;
    }
    let app_fields = APP_FIELDS.iter().filter(|name| has(name)).count();
    if has("id") && app_fields > 0 && !has("steps") && !has("marathon_config") {
        return Kind::App;
    }
    let known = fields
        .keys()
        .all(|name| APP_FIELDS.contains(&name.as_str()));
    if known && app_fields > 0 {
        return Kind::Fragment;
    }
    Kind::Other
}

/// Every JSON text of a file: the whole of it, or its fenced blocks.
fn texts(path: &Path) -> Vec<String> {
    let Ok(text) = std::fs::read_to_string(path) else {
        return Vec::new();
    };
    match path.extension().and_then(|end| end.to_str()) {
        Some("json") => vec![text],
        Some("md") => text
            .split("```")
            .skip(1)
            .step_by(2)
            .filter_map(|block| {
                let (language, body) = block.split_once('\n')?;
                let language = language.trim();
                let looks = body.trim_start().starts_with(['{', '[']);
                (matches!(language, "json" | "javascript" | "js" | "" | "json5") && looks)
                    .then(|| body.to_owned())
            })
            .collect(),
        Some(_) | None => Vec::new(),
    }
}

/// As JSON; comments to the end of a line are left out.
fn read(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().or_else(|| {
        let lines = text.lines().map(|line| {
            let mut slashes = line.match_indices("//");
            let comment = slashes.find(|(at, _)| !line[..*at].ends_with(':'));
            comment.map_or(line, |(at, _)| &line[..at])
        });
        serde_json::from_str(&lines.collect::<Vec<&str>>().join("\n")).ok()
    })
}

/// Lists and answers are taken apart.
fn pieces(value: Value) -> Vec<Value> {
    match value {
        Value::Array(all) => all.into_iter().flat_map(pieces).collect(),
        Value::Object(fields) if fields.len() == 1 && fields.contains_key("app") => {
            fields.into_iter().map(|(_, app)| app).collect()
        }
        Value::Object(fields) if !fields.contains_key("id") && fields.contains_key("apps") => {
            fields
                .into_iter()
                .filter(|(name, _)| name == "apps")
                .flat_map(|(_, apps)| pieces(apps))
                .collect()
        }
        other @ (Value::Object(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)) => vec![other],
    }
}

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, all);
        } else {
            all.push(path);
        }
    }
}

/// Something that says nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(all) => all.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// The first path at which what was given is not what is kept.
fn difference(given: &Value, kept: &Value, path: &str) -> Option<String> {
    if CONVERTED.contains(&path) || is_empty(given) {
        return None;
    }
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => given.iter().find_map(|(name, value)| {
            let kept = kept.get(name).unwrap_or(&Value::Null);
            difference(value, kept, &format!("{path}/{name}"))
        }),
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => given
            .iter()
            .zip(kept)
            .find_map(|(given, kept)| difference(given, kept, &format!("{path}(i)"))),
        (Value::Number(given), Value::Number(kept)) if given.as_f64() == kept.as_f64() => None,
        // Ids become absolute, sources of secrets lose the slash in front.
        (Value::String(given), Value::String(kept))
            if given.trim_start_matches('/') == kept.trim_start_matches('/') =>
        {
            None
        }
        _ if given == kept => None,
        _ => Some(path.to_owned()),
    }
}

/// The app is read and written again.
fn app(value: &Value) -> Outcome {
    let first = read_app(value);
    let needs_image =
        matches!(&first, Outcome::Refused(why) if why.contains("container/docker/image"));
    if !needs_image {
        return first;
    }
    let image = json!({"container": {"docker": {"image": "any:1"}}});
    match read_app(&merge(value, &image)) {
        Outcome::Same | Outcome::SameWithImage => Outcome::SameWithImage,
        other @ (Outcome::Differs(_) | Outcome::Refused(_)) => other,
    }
}

fn read_app(value: &Value) -> Outcome {
    let (app, report) = parse_app(value, None);
    let Some(app) = app else {
        let problem = report
            .errors
            .iter()
            .map(|problem| format!("{}: {}", problem.path, problem.message))
            .collect::<Vec<String>>();
        return Outcome::Refused(problem.join("; "));
    };
    if let Some(unknown) = report.unknown.first() {
        return Outcome::Differs(format!("{}: unknown", unknown.path));
    }
    match difference(value, &app.to_json(), "") {
        Some(path) => Outcome::Differs(path),
        None => Outcome::Same,
    }
}

/// The pod is read and written again; containers without an image get one.
fn pod(value: &Value) -> Outcome {
    let mut value = value.clone();
    let mut added = false;
    for container in value["containers"].as_array_mut().into_iter().flatten() {
        if container.is_object() && container.get("image").is_none_or(Value::is_null) {
            container["image"] = json!({"kind": "DOCKER", "id": "any:1"});
            added = true;
        }
    }
    let (read, report) = parse_pod(&value, None);
    let Some(read) = read else {
        let problems = report
            .errors
            .iter()
            .map(|problem| format!("pod: {}: {}", problem.path, problem.message));
        return Outcome::Refused(problems.collect::<Vec<String>>().join("; "));
    };
    if let Some(unknown) = report.unknown.first() {
        return Outcome::Differs(format!("pod: {}: unknown", unknown.path));
    }
    match difference(&value, &read.to_json(), "") {
        Some(path) => Outcome::Differs(format!("pod: {path}")),
        None if added => Outcome::SameWithImage,
        None => Outcome::Same,
    }
}

/// Every app in it, and it as a whole.
fn group(value: &Value) -> Outcome {
    fn with_images(value: &mut Value, added: &mut bool) {
        for group in value["groups"].as_array_mut().into_iter().flatten() {
            with_images(group, added);
        }
        for app in value["apps"].as_array_mut().into_iter().flatten() {
            if app.pointer("/container/docker/image").is_none() {
                let image = json!({"container": {"docker": {"image": "any:1"}}});
                *app = merge(app, &image);
                *added = true;
            }
        }
        if let Some(fields) = value.as_object_mut() {
            fields.retain(|name, value| {
                !(value.is_null() && matches!(name.as_str(), "groups" | "apps"))
            });
        }
    }
    let mut value = value.clone();
    let mut added = false;
    with_images(&mut value, &mut added);
    let report = check_group_json(&value);
    match (report.errors.first(), report.unknown.first()) {
        (Some(problem), _) => Outcome::Refused(format!("{}: {}", problem.path, problem.message)),
        (None, Some(unknown)) => Outcome::Differs(format!("{}: unknown", unknown.path)),
        (None, None) if added => Outcome::SameWithImage,
        (None, None) => Outcome::Same,
    }
}

fn outcome(kind: Kind, value: &Value) -> Option<Outcome> {
    match kind {
        Kind::App => Some(app(value)),
        Kind::Fragment => {
            let mut whole = json!({"id": "/fragment"});
            if let (Some(whole), Some(fields)) = (whole.as_object_mut(), value.as_object()) {
                whole.extend(fields.clone());
            }
            Some(app(&whole))
        }
        Kind::Group => Some(group(value)),
        Kind::Pod => Some(pod(value)),
        Kind::Event => {
            let name = value["eventType"].as_str().unwrap_or_default();
            let told = mezzo_scheduler::events::EVENT_TYPES.contains(&name);
            let nothing = || Outcome::Refused(format!("nothing here to tell by {name}"));
            Some(if told { Outcome::Same } else { nothing() })
        }
        Kind::Other | Kind::NotJson => None,
    }
}

/// A line of the table, and what stands in the way of the others.
#[derive(Debug, Default)]
struct Tally {
    tried: usize,
    same: usize,
    with_image: usize,
    differs: usize,
    refused: usize,
}

#[test]
fn marathons_own_files_are_counted() {
    let Some(clone) = std::env::var_os("MARATHON_CLONE") else {
        return;
    };
    let mut all = Vec::new();
    for folder in FOLDERS {
        files(&Path::new(&clone).join(folder), &mut all);
    }
    all.sort();
    assert!(!all.is_empty(), "no files below {clone:?}");
    let mut tallies: BTreeMap<Kind, Tally> = BTreeMap::new();
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in all {
        for text in texts(&path) {
            let name = path
                .strip_prefix(&clone)
                .unwrap_or(&path)
                .display()
                .to_string();
            let Some(value) = read(&text) else {
                tallies.entry(Kind::NotJson).or_default().tried += 1;
                continue;
            };
            for value in pieces(value) {
                let kind = kind(&value);
                let tally = tallies.entry(kind).or_default();
                tally.tried += 1;
                match outcome(kind, &value) {
                    None => {}
                    Some(Outcome::Same) => tally.same += 1,
                    Some(Outcome::SameWithImage) => tally.with_image += 1,
                    Some(Outcome::Differs(why)) => {
                        tally.differs += 1;
                        reasons
                            .entry(format!("differs: {why}"))
                            .or_default()
                            .push(name.clone());
                    }
                    Some(Outcome::Refused(why)) => {
                        tally.refused += 1;
                        reasons.entry(why).or_default().push(name.clone());
                    }
                }
            }
        }
    }
    println!("| what | found | same | same with an image | differ | refused |");
    for (kind, tally) in &tallies {
        println!(
            "| {kind:?} | {} | {} | {} | {} | {} |",
            tally.tried, tally.same, tally.with_image, tally.differs, tally.refused
        );
    }
    let mut reasons: Vec<(String, Vec<String>)> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    for (why, names) in reasons {
        let first = names.first().map_or("", String::as_str);
        println!("{:>4}  {why}  ({first})", names.len());
    }
}

#[test]
fn pieces_of_json_are_known_by_their_shape() {
    for (value, want) in [
        (json!({"id": "/a", "cmd": "x"}), Kind::App),
        (json!({"healthChecks": []}), Kind::Fragment),
        (json!({"id": "/a", "apps": []}), Kind::Group),
        (json!({"id": "/a", "containers": []}), Kind::Pod),
        (json!({"eventType": "x", "id": "/a"}), Kind::Event),
        (json!({"tasks": []}), Kind::Other),
    ] {
        assert_eq!(kind(&value), want, "{value}");
    }
    assert_eq!(
        pieces(json!({"apps": [{"id": "/a"}, {"id": "/b"}]})).len(),
        2
    );
    let commented = "{\n  \"a\": \"http://x\", // why\n  \"b\": 1\n}";
    assert_eq!(read(commented), Some(json!({"a": "http://x", "b": 1})));
    assert_eq!(
        difference(&json!({"id": "a", "disk": 0}), &json!({"id": "/a"}), ""),
        None
    );
    let changed = difference(&json!({"cpus": 2}), &json!({"cpus": 1}), "");
    assert_eq!(changed.as_deref(), Some("/cpus"));
}
