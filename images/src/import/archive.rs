//! The table of contents of a tar file: which name's bytes lie where. Data is skipped by position, not read.
//!
//! Symlinks and hard links are kept as names of other entries (old `docker save` writes a layer once and links to it)
//! and resolved inside of the table only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::ImportError;
use crate::section::Section;
use crate::unpack::paths::LayerPath;
use crate::unpack::tar::{Entry, Kind, TarReader};
use crate::unpack::{UnpackError, UnpackLimits, printable};

/// Entries and bytes of names that a table may have.
const MAX_ENTRIES: usize = 65_536;
const MAX_NAMES: usize = 16 << 20;
/// Links that may lead to one file.
const MAX_LINKS: usize = 8;

/// Names and what they stand for.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    nodes: BTreeMap<Vec<u8>, Node>,
}

#[derive(Debug)]
enum Node {
    File(Section),
    Link(Vec<u8>),
}

impl Contents {
    /// Reads the headers of a tar file.
    pub(crate) fn read(origin: &str, file: &Arc<File>) -> Result<Self, ImportError> {
        let size = file.metadata().map_err(|source| ImportError::Io {
            operation: "look at",
            what: origin.into(),
            source,
        })?;
        read(file, size.len()).map_err(|problem| ImportError::Archive {
            origin: origin.into(),
            problem,
        })
    }

    /// The file of that name, if there is one.
    pub(crate) fn get(&self, name: &str) -> Option<Section> {
        let mut name = name.as_bytes().to_vec();
        for _ in 0..MAX_LINKS {
            match self.nodes.get(&name)? {
                Node::File(section) => return Some(section.clone()),
                Node::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

fn read(file: &Arc<File>, size: u64) -> Result<Contents, UnpackError> {
    let limits = UnpackLimits::default();
    let mut reader = Positioned::new(file, size);
    let mut contents = Contents::default();
    let (mut entries, mut names) = (0, 0);
    // A reader of its own for each entry: then the data in between need not be read.
    while let Some(entry) = TarReader::new(&mut reader, limits.clone()).next()? {
        let data = reader.position();
        let end = data.checked_add(entry.size).filter(|end| *end <= size);
        let Some(end) = end else {
            return Err(UnpackError::Malformed(
                "it ends within the data of a file".into(),
            ));
        };
        entries += 1;
        names += entry.path.len() + entry.link.len();
        for (what, found, limit) in [
            ("entries", entries, MAX_ENTRIES),
            ("bytes of names", names, MAX_NAMES),
        ] {
            if found > limit {
                let limit = limit as u64;
                return Err(UnpackError::TooMuch { what, limit });
            }
        }
        if let Some((name, node)) = node(&entry, file, data, &limits)?
            && contents.nodes.insert(name, node).is_some()
        {
            return Err(UnpackError::Refused {
                path: printable(&entry.path),
                reason: "there are two of that name, so the archive can be read in two ways",
            });
        }
        reader.seek(end.next_multiple_of(512).min(size));
    }
    Ok(contents)
}

fn node(
    entry: &Entry,
    file: &Arc<File>,
    data: u64,
    limits: &UnpackLimits,
) -> Result<Option<(Vec<u8>, Node)>, UnpackError> {
    let path = LayerPath::parse(&entry.path, limits)?;
    let node = match entry.kind {
        Kind::File => Node::File(Section::new(Arc::clone(file), data, entry.size)),
        Kind::HardLink => Node::Link(LayerPath::parse(&entry.link, limits)?.bytes().to_vec()),
        Kind::Symlink => match beside(&path, &entry.link) {
            Some(target) => Node::Link(target),
            None => {
                return Err(UnpackError::Refused {
                    path: printable(&entry.path),
                    reason: "the symlink leads out of the archive",
                });
            }
        },
        Kind::Directory => return Ok(None),
        Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
            return Err(UnpackError::Refused {
                path: printable(&entry.path),
                reason: "there are only files in an archive of images",
            });
        }
    };
    Ok(Some((path.bytes().to_vec(), node)))
}

/// Where a relative link in an entry's directory leads, within the archive (pure).
fn beside(path: &LayerPath, link: &[u8]) -> Option<Vec<u8>> {
    if link.starts_with(b"/") {
        return None;
    }
    let (directory, _) = path.split()?;
    let mut parts: Vec<&[u8]> = directory
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty())
        .collect();
    for part in link.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// A reader that says where it is and can jump.
struct Positioned<'f> {
    file: &'f File,
    size: u64,
    /// Where the buffer's bytes lie in the file.
    offset: u64,
    buffer: Vec<u8>,
    at: usize,
}

impl<'f> Positioned<'f> {
    fn new(file: &'f File, size: u64) -> Self {
        Self {
            file,
            size,
            offset: 0,
            buffer: Vec::new(),
            at: 0,
        }
    }

    fn position(&self) -> u64 {
        self.offset + self.at as u64
    }

    fn seek(&mut self, to: u64) {
        self.offset = to;
        self.buffer.clear();
        self.at = 0;
    }
}

impl BufRead for Positioned<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() {
            self.seek(self.position());
            let left = self.size.saturating_sub(self.offset).min(8192);
            self.buffer.resize(usize::try_from(left).unwrap_or(0), 0);
            let length = self.file.read_at(&mut self.buffer, self.offset)?;
            self.buffer.truncate(length);
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at = (self.at + length).min(self.buffer.len());
    }
}

impl Read for Positioned<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(into.len());
        into[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn block(path: &str, flag: u8, link: &str, data: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.as_mut_bytes()[156] = flag;
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        let mut out = header.as_bytes().to_vec();
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    fn contents(blocks: &[Vec<u8>]) -> Result<Contents, ImportError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&blocks.concat()).unwrap();
        Contents::read("x.tar", &Arc::new(file))
    }

    fn text(contents: &Contents, name: &str) -> Option<String> {
        let section = contents.get(name)?;
        Some(String::from_utf8(section.read_all(1 << 20).unwrap()).unwrap())
    }

    #[test]
    fn files_are_found_where_they_lie_and_links_lead_to_them() {
        let long = "x".repeat(20_000);
        let found = contents(&[
            block("./a/", b'5', "", b""),
            block("a/layer.tar", b'0', "", long.as_bytes()),
            block("b/layer.tar", b'2', "../a/layer.tar", b""),
            block("c", b'1', "b/layer.tar", b""),
            block("last", b'0', "", b"end"),
            vec![0; 1024],
        ])
        .unwrap();
        for name in ["a/layer.tar", "b/layer.tar", "c"] {
            assert_eq!(text(&found, name).as_deref(), Some(long.as_str()), "{name}");
        }
        assert_eq!(text(&found, "last").as_deref(), Some("end"));
        assert_eq!(text(&found, "a"), None);
    }

    #[test]
    fn what_leads_out_or_can_be_read_in_two_ways_is_refused() {
        let cases = [
            ("link out", vec![block("a/b", b'2', "../../etc/x", b"")]),
            ("absolute link", vec![block("a", b'2', "/etc/passwd", b"")]),
            ("name out", vec![block("../a", b'0', "", b"")]),
            ("device", vec![block("a", b'3', "", b"")]),
            (
                "twice",
                vec![block("a", b'0', "", b"1"), block("./a", b'0', "", b"2")],
            ),
            (
                "cut short",
                vec![block("a", b'0', "", &[1; 2000])[..1000].to_vec()],
            ),
            ("no tar", vec![vec![b'x'; 2000]]),
        ];
        for (what, blocks) in cases {
            assert!(contents(&blocks).is_err(), "{what} was accepted");
        }
    }

    #[test]
    fn links_in_a_circle_lead_nowhere() {
        let found = contents(&[
            block("a", b'2', "b", b""),
            block("b", b'2', "a", b""),
            vec![0; 1024],
        ])
        .unwrap();
        assert!(found.get("a").is_none());
    }
}
