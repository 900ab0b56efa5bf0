//! Files that an agent fetches into a task's sandbox before it starts, as Mesos' `CommandInfo.URI` and Marathon's `fetch`.
//!
//! Pure: what a URI means, under which name its file lies in the sandbox, and what is refused. Nothing is fetched here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Most files that one task may ask for.
pub const MOST_FETCHED: usize = 256;
const LONGEST_URI: usize = 4096;
const LONGEST_PATH: usize = 1024;

/// One file to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FetchUri {
    /// `http://…`, `https://…`, `file:///…` or an absolute path of the machine.
    pub uri: String,
    /// An archive by its name is unpacked into the sandbox.
    pub extract: bool,
    /// It may be executed; then nothing is unpacked, as in Mesos.
    pub executable: bool,
    /// Kept on the machine, by its URI, for the next task.
    pub cache: bool,
    /// Where in the sandbox, instead of the last part of the URI's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dest_path: Option<String>,
}

/// Where a file comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchSource {
    /// Over HTTP or HTTPS.
    Web,
    /// A path of the machine; the agent's allow-list decides.
    File(String),
}

/// Archives that are unpacked, by the ends of their names: what Mesos unpacks, and `.tar.zst`. As in Mesos the rest stays
/// as it is, single files that are compressed with bzip2 or xz among it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// `.tar`.
    Tar,
    /// `.tar.bz2`, `.tbz2`.
    TarBzip2,
    /// `.tar.gz`, `.tgz`.
    TarGzip,
    /// `.tar.xz`, `.txz`.
    TarXz,
    /// `.tar.zst`, `.tzst`.
    TarZstd,
    /// `.gz`: one file, without the end of the name.
    Gzip,
    /// `.zip`.
    Zip,
}

impl ArchiveKind {
    /// By the name of a file.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        [
            (".tar.bz2", Self::TarBzip2),
            (".tbz2", Self::TarBzip2),
            (".tar.gz", Self::TarGzip),
            (".tgz", Self::TarGzip),
            (".tar.xz", Self::TarXz),
            (".txz", Self::TarXz),
            (".tar.zst", Self::TarZstd),
            (".tzst", Self::TarZstd),
            (".tar", Self::Tar),
            (".gz", Self::Gzip),
            (".zip", Self::Zip),
        ]
        .into_iter()
        .find(|(end, _)| name.ends_with(end) && name.len() > end.len())
        .map(|(_, kind)| kind)
    }
}

impl FetchUri {
    /// Where it comes from.
    ///
    /// # Errors
    ///
    /// In words, without the name of the field.
    pub fn source(&self) -> Result<FetchSource, String> {
        let uri = &self.uri;
        if uri.is_empty() {
            return Err("is empty; give an address such as \"http://host/file\"".into());
        }
        if uri.len() > LONGEST_URI {
            return Err(format!("is longer than {LONGEST_URI} bytes"));
        }
        if uri.chars().any(|c| c.is_control() || c == ' ') {
            return Err("holds a space or a control character; encode it as %20".into());
        }
        let path = match uri.split_once("://") {
            None => uri.as_str(),
            Some((scheme, rest)) => match scheme.to_ascii_lowercase().as_str() {
                "http" | "https" => {
                    return if rest.is_empty() || rest.starts_with('/') {
                        Err(format!("{:?} names no host", self.shown()))
                    } else {
                        Ok(FetchSource::Web)
                    };
                }
                "file" => rest.strip_prefix("localhost").unwrap_or(rest),
                other => {
                    return Err(format!(
                        "{other} is not fetched here: http, https and file are"
                    ));
                }
            },
        };
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return Err(format!(
                "{:?} is neither an http or https address nor an absolute path without `..`",
                self.shown()
            ));
        }
        Ok(FetchSource::File(path.to_owned()))
    }

    /// Where it lies in the sandbox: parts joined by single slashes.
    ///
    /// # Errors
    ///
    /// The name of the field that is wrong, and why.
    pub fn name(&self) -> Result<String, (&'static str, String)> {
        if let Some(path) = &self.dest_path {
            let parts: Vec<&str> = path
                .split('/')
                .filter(|part| !part.is_empty() && *part != ".")
                .collect();
            let is_bad = path.starts_with('/')
                || path.ends_with('/')
                || path.len() > LONGEST_PATH
                || parts.is_empty()
                || parts.iter().any(|part| *part == ".." || part.len() > 255)
                || path.chars().any(char::is_control);
            return if is_bad {
                Err((
                    "destPath",
                    format!("{path:?} is no relative path of a file in the sandbox without `..`"),
                ))
            } else {
                Ok(parts.join("/"))
            };
        }
        let path = match self.uri.split_once("://") {
            Some((scheme, rest)) if !scheme.eq_ignore_ascii_case("file") => {
                let end = rest.find(['?', '#']).unwrap_or(rest.len());
                // The host is no file.
                rest[..end].split_once('/').map_or("", |(_, path)| path)
            }
            Some((_, rest)) => rest,
            None => &self.uri,
        };
        match path.rsplit('/').next().unwrap_or_default() {
            "" | "." | ".." => Err((
                "uri",
                format!(
                    "{:?} ends with no name of a file; give one in destPath",
                    self.shown()
                ),
            )),
            name if name.len() > 255 => Err((
                "uri",
                "the name of its file is longer than 255 bytes; give one in destPath".into(),
            )),
            name => Ok(name.to_owned()),
        }
    }

    /// The archive that is to be unpacked; none where the file is wanted as it is.
    #[must_use]
    pub fn archive(&self) -> Option<ArchiveKind> {
        if !self.extract || self.executable {
            return None;
        }
        ArchiveKind::of(&self.name().ok()?)
    }

    /// All that is wrong with it: the field, by Marathon's name, and why.
    #[must_use]
    pub fn problems(&self) -> Vec<(&'static str, String)> {
        match (self.source(), self.name()) {
            (Err(problem), _) => vec![("uri", problem)],
            (Ok(_), Err(problem)) => vec![problem],
            (Ok(_), Ok(_)) => Vec::new(),
        }
    }

    /// For messages and logs: without user, password and query, which may be secret.
    #[must_use]
    pub fn shown(&self) -> String {
        let end = self.uri.find(['?', '#']).unwrap_or(self.uri.len());
        let (plain, more) = self.uri.split_at(end);
        let plain = match plain.split_once("://") {
            Some((scheme, rest)) => {
                let host_end = rest.find('/').unwrap_or(rest.len());
                let (host, path) = rest.split_at(host_end);
                let host = host.rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}{path}")
            }
            None => plain.to_owned(),
        };
        let plain: String = plain.chars().take(300).collect();
        if more.is_empty() {
            plain
        } else {
            format!("{plain}?…")
        }
    }
}

impl fmt::Display for FetchUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.shown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> FetchUri {
        FetchUri {
            uri: text.into(),
            extract: true,
            executable: false,
            cache: false,
            dest_path: None,
        }
    }

    #[test]
    fn a_file_lies_under_the_last_part_of_its_path() {
        for (text, name) in [
            ("http://h/a/b.tgz", "b.tgz"),
            ("https://h:8/app.zip?sig=x/y#z", "app.zip"),
            ("file:///srv/x?y", "x?y"),
            ("/srv/conf.json", "conf.json"),
        ] {
            assert_eq!(uri(text).name().unwrap(), name, "{text}");
            assert_eq!(uri(text).problems(), [], "{text}");
        }
        let mut placed = uri("http://h/");
        placed.dest_path = Some("bin/./tool".into());
        assert_eq!(placed.name().unwrap(), "bin/tool");
        assert_eq!(placed.problems(), []);
    }

    #[test]
    fn what_cannot_be_fetched_or_placed_is_refused_with_its_field() {
        for (text, field) in [
            ("", "uri"),
            ("hdfs://h/a.tgz", "uri"),
            ("ftp://h/a", "uri"),
            ("relative/path", "uri"),
            ("/srv/../etc/shadow", "uri"),
            ("http:///a", "uri"),
            ("http://h", "uri"),
            ("http://h/a/", "uri"),
            ("http://h/a b", "uri"),
        ] {
            let problems = uri(text).problems();
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert_eq!(problems[0].0, field, "{text}: {problems:?}");
        }
        for bad in ["", "/abs", "a/../b", "dir/", ".", "a\nb", &"x".repeat(256)] {
            let mut placed = uri("http://h/a");
            placed.dest_path = Some(bad.to_owned());
            assert_eq!(placed.problems()[0].0, "destPath", "{bad:?}");
        }
    }

    #[test]
    fn only_what_is_to_be_unpacked_is_an_archive() {
        assert_eq!(
            uri("http://h/a.tar.gz").archive(),
            Some(ArchiveKind::TarGzip)
        );
        for name in ["a.tar.bz2", "a.TBZ2"] {
            let packed = uri(&format!("http://h/{name}"));
            assert_eq!(packed.archive(), Some(ArchiveKind::TarBzip2), "{name}");
        }
        for name in ["a.tar.xz", "a.txz"] {
            let packed = uri(&format!("http://h/{name}"));
            assert_eq!(packed.archive(), Some(ArchiveKind::TarXz), "{name}");
        }
        assert_eq!(uri("http://h/a.ZIP").archive(), Some(ArchiveKind::Zip));
        assert_eq!(uri("http://h/a.gz").archive(), Some(ArchiveKind::Gzip));
        assert_eq!(uri("http://h/.gz").archive(), None);
        for name in ["a.jar", "a.xz", "a.bz2", "a.7z"] {
            let as_it_is = uri(&format!("http://h/{name}"));
            assert_eq!((as_it_is.archive(), as_it_is.problems()), (None, vec![]));
        }
        let kept = FetchUri {
            extract: false,
            ..uri("http://h/a.tar.xz")
        };
        assert_eq!((kept.archive(), kept.problems()), (None, vec![]));
        let run = FetchUri {
            executable: true,
            ..uri("http://h/a.tar.gz")
        };
        assert_eq!(run.archive(), None);
    }

    #[test]
    fn no_secret_of_an_address_is_shown() {
        let shown = uri("https://user:word@h/a/b.tgz?X-Signature=abc").to_string();
        assert_eq!(shown, "https://h/a/b.tgz?…");
        assert_eq!(uri("/srv/a").to_string(), "/srv/a");
    }
}
