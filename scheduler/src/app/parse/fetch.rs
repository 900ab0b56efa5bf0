//! `fetch`, and the older `uris`: files that an agent puts into the sandbox before the task starts.
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

/// All of them, in order.
pub(crate) fn read(fields: &Fields<'_>, report: &mut Report) -> Vec<FetchUri> {
    let mut wanted = Vec::new();
    for (path, item) in fields.list("fetch", report).unwrap_or_default() {
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
    let old = fields.list("uris", report).unwrap_or_default();
    if !old.is_empty() && !wanted.is_empty() {
        report.value_problem(
            "/uris",
            "exclude each other: uris and fetch; give the latter",
        );
    }
    for (path, item) in old {
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
    if wanted.len() > MOST_FETCHED {
        report.value_problem(
            fields.path_of("fetch"),
            format!(
                "has {} entries; at most {MOST_FETCHED} are allowed",
                wanted.len()
            ),
        );
    }
    wanted
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
    fn what_uris_unpack_is_an_archive_here_or_refused() {
        for end in UNPACKED {
            let uri = FetchUri {
                uri: format!("http://h/a{end}"),
                extract: true,
                executable: false,
                cache: false,
                dest_path: None,
            };
            assert_ne!(uri.archive().is_some(), !uri.problems().is_empty(), "{end}");
        }
    }
}
