//! Names in archives (pure): into checked components, or refused.
//!
//! Leading slashes and `.` are dropped (all tools write them); `..`, NUL bytes and names beyond the kernel's bounds are
//! refused: no honest tool writes them into a layer.

use super::{UnpackError, UnpackLimits, printable};

/// A name inside of a layer: components without `.`, `..`, slashes or NUL, joined by single slashes; empty for the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct LayerPath(Vec<u8>);

impl LayerPath {
    /// Checks a name as found in an archive.
    pub(crate) fn parse(raw: &[u8], limits: &UnpackLimits) -> Result<Self, UnpackError> {
        let refused = |reason| {
            Err(UnpackError::Refused {
                path: printable(raw),
                reason,
            })
        };
        if raw.len() > limits.max_path_bytes {
            return refused("the name is too long");
        }
        let mut clean = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for part in raw.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return refused("the name has a \"..\" part"),
                _ => {}
            }
            if part.contains(&0) {
                return refused("the name has a NUL byte");
            }
            if part.len() > 255 {
                return refused("a part of the name is longer than 255 bytes");
            }
            depth += 1;
            if depth > limits.max_depth {
                return refused("too many directories deep");
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(part);
        }
        Ok(Self(clean))
    }

    /// The directory and the last component; none for the root.
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(at) => Some((&self.0[..at], &self.0[at + 1..])),
            None => Some((b"", &self.0)),
        }
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &str) -> Result<String, UnpackError> {
        LayerPath::parse(raw.as_bytes(), &UnpackLimits::default())
            .map(|path| String::from_utf8(path.bytes().to_vec()).unwrap())
    }

    #[test]
    fn honest_names_are_cleaned() {
        for (raw, clean) in [
            ("./", ""),
            (".", ""),
            ("a", "a"),
            ("./a/b/", "a/b"),
            ("/etc//x", "etc/x"),
            ("a/./b", "a/b"),
        ] {
            assert_eq!(parse(raw).unwrap(), clean, "{raw}");
        }
        let path = LayerPath::parse(b"a/b/c", &UnpackLimits::default()).unwrap();
        assert_eq!(path.split(), Some((&b"a/b"[..], &b"c"[..])));
    }

    #[test]
    fn names_that_leave_or_overflow_are_refused() {
        for raw in [
            "..",
            "../a",
            "a/../b",
            "/../etc",
            "a\0b",
            &"x".repeat(256),
            &"a/".repeat(300),
            &"a/".repeat(5000),
        ] {
            assert!(parse(raw).is_err(), "{raw:.20} was accepted");
        }
        assert_eq!(parse("..a/...").unwrap(), "..a/...");
    }
}
