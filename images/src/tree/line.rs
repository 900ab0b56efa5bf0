//! One file of a layer as a line of text, and what differs between two lines (pure).
//!
//! ```text
//! KIND MODE UID GID MTIME SIZE DETAIL ATTRIBUTES PATH
//! f 0755 0 0 1700000000.000000000 5 9f86d0… - usr/bin/app
//! ```
//!
//! DETAIL is the digest of a file's content, a link's target, a device's number or `-`; ATTRIBUTES a digest of their names
//! and values or `-`. Bytes that would tear a line apart are written as `%XX`.

use std::cmp::Ordering;

use sha2::{Digest as _, Sha256};

use super::walk::{Found, What};
use crate::digest::Digest;

/// The names of a line's parts but for the path, as people say them.
const PARTS: [&str; 8] = [
    "kind",
    "mode",
    "owner",
    "group",
    "time",
    "size",
    "content or target",
    "attributes",
];

/// The line of a file; `content` is the digest of a regular file's bytes.
pub(crate) fn line(found: &Found<'_>, content: Option<Digest>) -> String {
    let stat = &found.stat;
    let device = || {
        let major = nix::sys::stat::major(stat.st_rdev);
        format!("{major}:{}", nix::sys::stat::minor(stat.st_rdev))
    };
    let (kind, detail) = match &found.what {
        What::Directory => ('d', "-".into()),
        What::File(_) => (
            'f',
            content.map_or_else(|| "-".into(), |content| content.hex()),
        ),
        What::Symlink(target) => ('l', escape(target)),
        What::HardLink(first) => ('h', escape(first)),
        What::CharDevice => ('c', device()),
        What::BlockDevice => ('b', device()),
        What::Fifo => ('p', "-".into()),
    };
    // A directory's own size is the file system's affair.
    let size = match found.what {
        What::File(_) => stat.st_size,
        What::Directory
        | What::Symlink(_)
        | What::HardLink(_)
        | What::CharDevice
        | What::BlockDevice
        | What::Fifo => 0,
    };
    format!(
        "{kind} {:04o} {} {} {}.{:09} {size} {detail} {} {}",
        stat.st_mode & 0o7777,
        stat.st_uid,
        stat.st_gid,
        stat.st_mtime,
        stat.st_mtime_nsec,
        attributes(&found.xattrs),
        if found.path.is_empty() {
            ".".into()
        } else {
            escape(found.path)
        },
    )
}

fn attributes(xattrs: &[(Vec<u8>, Vec<u8>)]) -> String {
    if xattrs.is_empty() {
        return "-".into();
    }
    let mut hasher = Sha256::new();
    for part in xattrs.iter().flat_map(|(name, value)| [name, value]) {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    Digest::from_hasher(hasher).hex()
}

/// The path at the end of a line, still escaped; none if it is no such line.
pub(crate) fn path(line: &str) -> Option<&str> {
    let mut parts = line.split(' ');
    let path = parts.nth(PARTS.len())?;
    parts.next().is_none().then_some(path)
}

/// How two escaped paths stand to each other in a walk: a directory before what is in it.
pub(crate) fn order(left: &str, right: &str) -> Ordering {
    let parts = |path: &str| -> Vec<Vec<u8>> {
        if path == "." {
            Vec::new()
        } else {
            path.split('/').map(unescape).collect()
        }
    };
    parts(left).cmp(&parts(right))
}

/// The parts in which two lines of one path differ.
pub(crate) fn difference(recorded: &str, found: &str) -> String {
    let pairs = recorded.split(' ').zip(found.split(' ')).zip(PARTS);
    let differing = pairs.filter(|((recorded, found), _)| recorded != found);
    let names: Vec<&str> = differing.map(|(_, name)| name).collect();
    format!("another {}", names.join(", "))
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'!'..=b'~' if *byte != b'%' => text.push(char::from(*byte)),
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    // An empty word would tear the line apart; no name is a lone percent sign.
    if text.is_empty() { "%".into() } else { text }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn directories_come_before_what_is_in_them_and_before_longer_names() {
        let sorted = [".", "a", "a/b", "a/b/c", "a%20b", "a-b", "b"];
        for pair in sorted.windows(2) {
            assert_eq!(order(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }

    #[test]
    fn what_differs_is_named() {
        let line = "f 0755 0 0 1.0 5 aa - x";
        assert_eq!(path(line), Some("x"));
        assert_eq!(path("f 0755"), None);
        assert_eq!(
            difference(line, "f 0644 0 7 1.0 5 bb - x"),
            "another mode, group, content or target"
        );
    }

    proptest! {
        #[test]
        fn escaping_loses_nothing_and_leaves_one_word(bytes in prop::collection::vec(any::<u8>(), 1..40)) {
            let text = escape(&bytes);
            prop_assert!(!text.contains([' ', '\n']));
            prop_assert_eq!(unescape(&text), bytes);
        }

        #[test]
        fn the_order_of_lines_is_the_order_of_names(
            left in prop::collection::vec("[a-c ./%-]{1,3}", 1..4),
            right in prop::collection::vec("[a-c ./%-]{1,3}", 1..4),
        ) {
            let clean = |parts: &[String]| -> Vec<Vec<u8>> {
                parts.iter().map(|part| part.replace('/', "x").into_bytes()).collect()
            };
            let (left, right) = (clean(&left), clean(&right));
            let joined = |parts: &[Vec<u8>]| parts.iter().map(|part| escape(part)).collect::<Vec<_>>().join("/");
            // A name of one dot is the root's and no file's.
            prop_assume!(joined(&left) != "." && joined(&right) != ".");
            prop_assert_eq!(order(&joined(&left), &joined(&right)), left.cmp(&right));
        }
    }
}
