//! `fetch`, the older `uris`, and a pod's `artifacts`: files that an agent puts into the sandbox before the task starts.
//!
//! Pure. What can be fetched, and what can be unpacked, is said by [`FetchUri::problems`], for agents and for other
//! frameworks as well.

use mezzo_api::model::{FetchUri, MOST_FETCHED};

use crate::app::read::{Fields, Report, expected};

const KNOWN: &[&str] = &["uri", "extract", "executable", "cache", "destPath"];
/// What Marathon unpacked of `uris`, and Mesos, which looks at the name only, does not know apart.
const UNPACKED: &[&str] = &[
    ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".zip",
];

/// A list of files under the name that apps and jobs, or pods, have for it.
pub(crate) fn list(fields: &Fields<'_>, field: &str, report: &mut Report) -> Vec<FetchUri> {
    let mut wanted = Vec::new();
    for (path, item) in fields.list(field, report).unwrap_or_default() {
        let Some(read) = Fields::open(item, path.clone(), KNOWN, report) else {
            continue;
        };
        let Some(uri) = read.string("uri", report) else {
            if read.get("uri").is_none() {
                report.value_problem(format!("{path}/uri"), "is missing");
            }
            continue;
        };
        let flag =
            |name, default, report: &mut Report| read.boolean(name, report).unwrap_or(default);
        let uri = FetchUri {
            uri,
            extract: flag("extract", true, report),
            executable: flag("executable", false, report),
            cache: flag("cache", false, report),
            dest_path: read.string("destPath", report),
        };
        note(&uri, &path, report);
        wanted.push(uri);
    }
    check_number(&wanted, fields.path_of(field), report);
    wanted
}

/// What an app or a job has of either, in order.
pub(crate) fn read(fields: &Fields<'_>, report: &mut Report) -> Vec<FetchUri> {
    let (wanted, old) = (list(fields, "fetch", report), uris(fields, report));
    if old.is_empty() {
        return wanted;
    }
    if !wanted.is_empty() {
        report.value_problem(
            "/uris",
            "exclude each other: uris and fetch; give the latter",
        );
    }
    old
}

fn uris(fields: &Fields<'_>, report: &mut Report) -> Vec<FetchUri> {
    let mut wanted = Vec::new();
    for (path, item) in fields.list("uris", report).unwrap_or_default() {
        let Some(text) = item.as_str() else {
            report.type_problem(path, expected("a string", item));
            continue;
        };
        let uri = FetchUri {
            uri: text.to_owned(),
            extract: UNPACKED.iter().any(|end| text.ends_with(end)),
            executable: false,
            cache: false,
            dest_path: None,
        };
        note(&uri, &path, report);
        wanted.push(uri);
    }
    check_number(&wanted, fields.path_of("uris"), report);
    wanted
}

fn check_number(wanted: &[FetchUri], path: String, report: &mut Report) {
    if wanted.len() > MOST_FETCHED {
        let problem = format!(
            "has {} entries; at most {MOST_FETCHED} are allowed",
            wanted.len()
        );
        report.value_problem(path, problem);
    }
}

fn note(uri: &FetchUri, path: &str, report: &mut Report) {
    for (field, problem) in uri.problems() {
        report.value_problem(format!("{path}/{field}"), problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_uris_unpack_is_an_archive_here() {
        for end in UNPACKED {
            let uri = FetchUri {
                uri: format!("http://h/a{end}"),
                extract: true,
                executable: false,
                cache: false,
                dest_path: None,
            };
            assert!(uri.archive().is_some(), "{end}");
            assert_eq!(uri.problems(), [], "{end}");
        }
    }
}
