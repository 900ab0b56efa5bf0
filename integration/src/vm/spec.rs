//! What a test asks of a guest, and what it gets back: plain data.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use super::net::Nic;
use super::protocol::{Exit, Order};

/// At full speed; stretched.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// A file or a tree of this machine, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFile {
    /// Here.
    pub host: PathBuf,
    /// There.
    pub guest: String,
    /// Else as here.
    pub mode: Option<u32>,
}

/// What runs in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// Busybox, in memory: up in seconds, and gone with the power.
    Micro,
    /// Debian with systemd, on a disk that lasts as long as the guest.
    Debian,
}

impl System {
    /// What its kernel is told beside what every guest's is.
    pub(super) fn kernel_words(self) -> &'static str {
        match self {
            Self::Micro => "",
            Self::Debian => super::debian::KERNEL_WORDS,
        }
    }

    /// The script that ends it in order. The line dies under it.
    pub(super) fn power_off(self) -> &'static str {
        match self {
            Self::Micro => "sync; exec poweroff -f",
            Self::Debian => "exec systemctl poweroff",
        }
    }
}

/// The file system for data. Those with quotas are for micro guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataDisk {
    /// ext4.
    Plain,
    /// ext4 that counts and bounds projects (`prjquota`).
    Ext4Projects,
    /// XFS that does.
    XfsProjects,
}

impl DataDisk {
    /// What makes it on a file, without the file.
    pub(super) fn mkfs(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["mkfs.ext4", "-q", "-F"],
            Self::Ext4Projects => &["mkfs.ext4", "-q", "-F", "-O", "quota,project"],
            Self::XfsProjects => &["mkfs.xfs", "-q", "-f"],
        }
    }

    /// On the kernel's command line, for the scripts that mount it.
    pub(super) fn kernel_words(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Ext4Projects => "mezzo.data=ext4,prjquota",
            Self::XfsProjects => "mezzo.data=xfs,prjquota",
        }
    }
}

/// What a guest is made of.
#[derive(Debug, Clone)]
pub struct GuestSpec {
    /// For its logs.
    pub name: String,
    /// What runs in it.
    pub system: System,
    /// What it has beside the memory that its files take in a micro guest.
    pub memory_mb: u64,
    /// Processors.
    pub cpus: u32,
    /// What is there when it is up.
    pub files: Vec<GuestFile>,
    /// An empty file system on a block device of its own, mounted at `/data`.
    pub disk_mb: Option<u64>,
    /// Which.
    pub data: DataDisk,
    /// Its interface to a network, configured when it is up.
    pub nic: Option<Nic>,
}

impl GuestSpec {
    /// A small one: one processor, 256 MB.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            system: System::Micro,
            memory_mb: 256,
            cpus: 1,
            files: Vec::new(),
            disk_mb: None,
            data: DataDisk::Plain,
            nic: None,
        }
    }

    /// One with systemd: two processors, 1 GB.
    pub fn debian(name: &str) -> Self {
        Self {
            system: System::Debian,
            memory_mb: 1024,
            cpus: 2,
            ..Self::new(name)
        }
    }

    /// A file or a tree, at the same path as here.
    pub fn with_same(&mut self, host: &Path) -> &mut Self {
        self.with(host, &host.to_string_lossy())
    }

    /// A file or a tree.
    pub fn with(&mut self, host: &Path, guest: &str) -> &mut Self {
        self.files.push(GuestFile {
            host: host.to_path_buf(),
            guest: guest.to_owned(),
            mode: None,
        });
        self
    }

    /// A program and the libraries that it loads. Debian has its own libraries, of this machine's release.
    pub fn with_program(&mut self, host: &Path, guest: &str) -> Result<&mut Self> {
        self.with(host, guest);
        if self.system == System::Debian {
            return Ok(self);
        }
        for library in super::with_libraries(host)?.iter().skip(1) {
            self.with_same(library);
        }
        Ok(self)
    }
}

/// A command for a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub(super) order: Order,
    pub(super) within: Duration,
}

impl Run {
    /// A program and its arguments.
    pub fn new(args: &[&str]) -> Self {
        Self {
            order: Order {
                args: args.iter().map(|&word| word.to_owned()).collect(),
                env: Vec::new(),
                cwd: "/".to_owned(),
            },
            within: COMMAND_LIMIT,
        }
    }

    /// One more variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.order.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where it starts.
    #[must_use]
    pub fn cwd(mut self, dir: &str) -> Self {
        dir.clone_into(&mut self.order.cwd);
        self
    }

    /// How long it may take on a machine that runs guests at full speed.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = limit;
        self
    }

    pub(super) fn line(&self) -> String {
        format!("`{}`", self.order.args.join(" "))
    }
}

/// A command that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The command line.
    pub line: String,
    /// How.
    pub exit: Exit,
    /// What it wrote.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ended {
    /// Its stdout; an error, with what it wrote, unless it ended with 0.
    pub fn ok(self) -> Result<String> {
        if self.exit == Exit::Code(0) {
            return Ok(self.stdout);
        }
        let told = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        bail!("{} in the guest: {}: {}", self.line, self.exit, told.trim())
    }
}
