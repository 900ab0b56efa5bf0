//! Writes cpio archives of the "newc" form: what the kernel unpacks as initramfs, and what a guest unpacks from its
//! first disk. Parents are made as needed; owners are root, times are zero, so that equal content is an equal archive.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
/// Disks are made of these.
const SECTOR: u64 = 512;

/// An archive that is being written.
#[derive(Debug)]
pub(super) struct Archive<W: Write> {
    to: W,
    written: u64,
    inode: u32,
    /// Directories and files that are in it: a second one of the same name is left out.
    names: BTreeSet<String>,
}

impl Archive<BufWriter<File>> {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self::new(BufWriter::with_capacity(1 << 20, file)))
    }
}

impl<W: Write> Archive<W> {
    pub(super) fn new(to: W) -> Self {
        Self {
            to,
            written: 0,
            inode: 0,
            names: BTreeSet::new(),
        }
    }

    /// A directory and its parents.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            if end > 0 && self.names.insert(path[..end].to_owned()) {
                self.header(&path[..end], DIRECTORY | 0o755, 0)?;
            }
        }
        Ok(())
    }

    /// A file with the given content.
    pub(super) fn bytes(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(path, REGULAR | mode, content.len() as u64, content)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &str, to: &str) -> Result<()> {
        self.entry(path, LINK | 0o777, to.len() as u64, to.as_bytes())
    }

    /// A file or a tree of this machine; links inside a tree stay links, a link named itself is followed.
    pub(super) fn host(&mut self, host: &Path, path: &str, mode: Option<u32>) -> Result<()> {
        let context = || format!("put {} into an archive", host.display());
        let about = fs::metadata(host).with_context(context)?;
        if about.is_dir() {
            self.directory(path)?;
            let mut names: Vec<_> = fs::read_dir(host)
                .and_then(|dir| {
                    dir.map(|entry| Ok(entry?.file_name()))
                        .collect::<io::Result<_>>()
                })
                .with_context(context)?;
            names.sort();
            for name in names {
                let Some(name) = name.to_str() else {
                    bail!("{} holds a name that is no text", host.display());
                };
                let inner = host.join(name);
                let inner_path = format!("{}/{name}", path.trim_end_matches('/'));
                match fs::read_link(&inner) {
                    Ok(to) => self.link(&inner_path, &to.to_string_lossy())?,
                    Err(_) => self.host(&inner, &inner_path, mode)?,
                }
            }
            return Ok(());
        }
        let file = File::open(host).with_context(context)?;
        let mode = mode.unwrap_or(about.permissions().mode() & 0o7777);
        self.entry(path, REGULAR | mode, about.size(), file)
            .with_context(context)
    }

    /// Closes it, filled up to whole sectors.
    pub(super) fn finish(mut self) -> Result<W> {
        self.header("TRAILER!!!", 0, 0)?;
        let fill = self.written.next_multiple_of(SECTOR) - self.written;
        self.raw(&vec![0; fill as usize])?;
        self.to.flush().context("write an archive")?;
        Ok(self.to)
    }

    fn entry(&mut self, path: &str, mode: u32, size: u64, mut content: impl Read) -> Result<()> {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        if !self.names.insert(path.to_owned()) {
            return Ok(());
        }
        self.header(path, mode, size)?;
        let copied = io::copy(&mut (&mut content).take(size), &mut self.to);
        let copied = copied.with_context(|| format!("write {path} to an archive"))?;
        if copied != size {
            bail!("{path} became shorter while it was read");
        }
        self.written += size;
        self.align()
    }

    fn header(&mut self, path: &str, mode: u32, size: u64) -> Result<()> {
        let size = u32::try_from(size).with_context(|| format!("{path} is larger than 4 GB"))?;
        self.inode += 1;
        let mut head = String::from("070701");
        // inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, checksum
        let name_length = path.len() as u32 + 1;
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name_length,
            0,
        ];
        for field in fields {
            head.push_str(&format!("{field:08x}"));
        }
        head.push_str(path);
        head.push('\0');
        self.raw(head.as_bytes())?;
        self.align()
    }

    fn align(&mut self) -> Result<()> {
        let fill = self.written.next_multiple_of(4) - self.written;
        self.raw(&[0; 3][..fill as usize])
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).context("write an archive")?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn busybox_unpacks_what_was_packed() {
        if crate::paths::on_path("busybox").is_none() {
            println!("skipped: needs busybox");
            return;
        }
        let dir = tempfile::tempdir().expect("folder");
        let tree = dir.path().join("tree/inner");
        fs::create_dir_all(&tree).expect("folder");
        fs::write(tree.join("file"), "content").expect("file");
        std::os::unix::fs::symlink("inner/file", dir.path().join("tree/link")).expect("link");
        let out = dir.path().join("out");
        fs::create_dir(&out).expect("folder");

        let mut archive = Archive::create(&dir.path().join("a.cpio")).expect("archive");
        archive
            .bytes("/etc/deep/note", 0o640, b"abc")
            .expect("bytes");
        archive
            .bytes("/etc/deep/note", 0o640, b"twice")
            .expect("left out");
        archive
            .host(&dir.path().join("tree"), "/tree", None)
            .expect("tree");
        archive.finish().expect("finish");
        let script = format!(
            "busybox cpio -idm < {}",
            dir.path().join("a.cpio").display()
        );
        let mut unpack = Command::new("sh");
        crate::process::output(unpack.args(["-c", &script]).current_dir(&out)).expect("unpack");

        assert_eq!(
            fs::read_to_string(out.join("etc/deep/note")).expect("read"),
            "abc"
        );
        let mode = fs::metadata(out.join("etc/deep/note"))
            .expect("stat")
            .mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(
            fs::read_to_string(out.join("tree/link")).expect("read"),
            "content"
        );
        assert_eq!(
            fs::metadata(dir.path().join("a.cpio")).expect("stat").len() % SECTOR,
            0
        );
    }
}
