//! Environment and secrets of an app; the secrets of a job, too.
//!
//! Pure.

use std::collections::BTreeMap;

use mezzo_api::model::{InvalidId, SecretSource};
use serde_json::Value;

use crate::app::read::{Fields, Report, expected};

/// `env`, or whichever field `name` is: plain variables, and those with secrets.
pub(super) fn read_env(
    fields: &Fields<'_>,
    name: &str,
    report: &mut Report,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let at = fields.path_of(name);
    let Some(value) = fields.get(name) else {
        return Default::default();
    };
    let Some(map) = value.as_object() else {
        report.type_problem(at, expected("an object", value));
        return Default::default();
    };
    let (mut env, mut secrets) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in map {
        let path = format!("{at}/{name}");
        if name.is_empty() || name.contains(['=', '\0']) {
            report.value_problem(&path, "a variable's name must not be empty or contain `=`");
        }
        match value {
            Value::String(text) if text.contains('\0') => {
                report.value_problem(path, "must not contain a NUL character");
            }
            Value::String(text) => {
                env.insert(name.clone(), text.clone());
            }
            Value::Object(map) if map.contains_key("secret") => {
                let found = Fields::open(value, path, &["secret"], report);
                if let Some(secret) = found.and_then(|found| found.string("secret", report)) {
                    secrets.insert(name.clone(), secret);
                }
            }
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::Array(_)
            | Value::Object(_) => {
                report.type_problem(
                    path,
                    format!("{}; put it in quotes", expected("a string", value)),
                );
            }
        }
    }
    (env, secrets)
}

/// Every secret that is used is one of `secrets`: in variables, by the path of each, and in files. `what` has them.
pub(crate) fn check_secrets<'a>(
    fields: &Fields<'_>,
    what: &str,
    files: &[(String, String)],
    variables: impl Iterator<Item = (String, &'a String)>,
    report: &mut Report,
) {
    let known = |name: &String| {
        let secrets = fields.get("secrets");
        secrets.is_some_and(|secrets| secrets.get(name).is_some())
    };
    let unknown = |name: &String| {
        format!("the {what} has no secret {name:?}; add it to /secrets with its source")
    };
    for (path, name) in variables.filter(|(_, name)| !known(name)) {
        report.value_problem(path, unknown(name));
    }
    for (path, name) in files.iter().filter(|(_, name)| !known(name)) {
        report.value_problem("/container/volumes", format!("{path}: {}", unknown(name)));
    }
}

/// `secrets`: where each comes from.
pub(crate) fn read_secrets(
    fields: &Fields<'_>,
    report: &mut Report,
) -> BTreeMap<String, SecretSource> {
    let mut secrets = BTreeMap::new();
    let Some(value) = fields.get("secrets") else {
        return secrets;
    };
    let Some(map) = value.as_object() else {
        report.type_problem("/secrets", expected("an object", value));
        return secrets;
    };
    for (name, value) in map {
        let path = format!("/secrets/{name}");
        if name.is_empty() || name.chars().any(char::is_control) {
            report.value_problem(
                &path,
                "a secret's name must not be empty or hold control characters",
            );
        }
        let Some(secret) = Fields::open(value, path, &["source"], report) else {
            continue;
        };
        let at = secret.path_of("source");
        if secret.get("source").is_none() {
            report.value_problem(
                at,
                "is missing: a file beneath the agents' secrets_dir (pull_secrets_dir for pullConfig)",
            );
            continue;
        }
        // Marathon's examples write a source as a path from the root.
        let source = secret.string("source", report);
        let source = source
            .as_deref()
            .map(|text| text.strip_prefix('/').unwrap_or(text));
        match source.map(str::parse) {
            Some(Ok(source)) => {
                secrets.insert(name.clone(), source);
            }
            Some(Err(error)) => {
                let error: InvalidId = error;
                report.value_problem(at, error.to_string());
            }
            None => {}
        }
    }
    secrets
}
