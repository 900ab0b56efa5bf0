//! Makes the image: mmdebstrap installs Debian into an archive, `mkfs.ext4 -d` writes a file system from it.
//!
//! Root does it as root, others in a user namespace and with fakeroot. All of it happens in one draft folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::apt;
use crate::process::{self, GRACE, Managed};
use crate::{interrupt, paths, vm::package::sbin};

/// On top of what is essential, and apt.
const PACKAGES: [&str; 13] = [
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "procps",
    "iproute2",
    "iputils-ping",
    "nftables",
    "ca-certificates",
    // What mezzo's package depends on, and programs that are built here and copied in.
    "libgcc-s1",
    "libseccomp2",
    "passwd",
];

/// What a guest has no use for. Only while the image is made: packages that a test installs come whole.
const EXCLUDED: [&str; 3] = [
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
];

/// Timers that would start work of their own, and what would wait for a person or a network.
const MASKED: [&str; 9] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "systemd-firstboot.service",
    "systemd-networkd-wait-online.service",
];

/// Runs in the finished tree, `$1`. The machine id comes at a guest's first boot: each has its own, and systemd, which
/// takes an empty one for the first boot of an installation, is never asked to preset all units.
const FINISH: &str = r#"
cd "$1"
rm -f etc/apt/apt.conf.d/99mmdebstrap etc/dpkg/dpkg.cfg.d/99mmdebstrap etc/apt/sources.list
echo guest > etc/hostname
echo '127.0.0.1 localhost guest' > etc/hosts
: > etc/machine-id
: > etc/resolv.conf
rm -f var/lib/dbus/machine-id
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
mkdir -p etc/systemd/journald.conf.d data
printf '[Journal]\nStorage=persistent\nSystemMaxUse=64M\n' > etc/systemd/journald.conf.d/guest.conf
"#;

/// The file system of a guest may grow to this; the image takes what is in it.
const SIZE: &str = "8192M";
/// Inode tables are a part of every guest's reads; this is one inode for 64 kB.
const BYTES_PER_INODE: &str = "65536";
/// A mirror that is slower than this cannot be told from one that is dead.
const LIMIT: Duration = Duration::from_secs(900);

/// The folder of a builder, whose process id follows.
const DRAFT: &str = "debian-draft-";

/// All that decides what is on an image.
pub(super) fn recipe() -> impl Iterator<Item = &'static str> {
    let words = PACKAGES.into_iter().chain(EXCLUDED).chain(MASKED);
    words.chain([FINISH, FILL, BYTES_PER_INODE, SIZE])
}

/// Unpacks `$1` into `tree`, with modules from `$2`, and makes the file system `$3` of it, with the program `$4`, one
/// inode for `$5` bytes, and `$6` large. What is unwritten of the inode tables is never written: the initramfs mounts
/// accordingly.
const FILL: &str = r#"
mkdir tree
tar -xf "$1" -C tree --numeric-owner
mkdir -p tree/usr/lib/modules
cp -r --preserve=mode,timestamps "$2" tree/usr/lib/modules/
"$4" -q -F -L mezzo-root -E lazy_itable_init=1 -i "$5" -d tree "$3" "$6"
"#;

/// Makes it, and returns where the draft is. The caller is alone.
pub(super) fn image(dir: &Path, codename: &str, modules: &Path) -> Result<PathBuf> {
    remove_drafts(dir);
    let draft = dir.join(format!("{DRAFT}{}", std::process::id()));
    fs::create_dir_all(&draft).with_context(|| format!("create {}", draft.display()))?;
    let made = install(&draft, codename).and_then(|tar| fill(&draft, &tar, modules));
    if made.is_err() {
        remove_drafts(dir);
    }
    made
}

/// Removes what builders left, finished or not. One that was killed may have left an mmdebstrap that still writes into
/// its draft: it fails by this, and if the draft stays, the next builder removes it.
pub(super) fn remove_drafts(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(DRAFT) {
            let _left_for_the_next = fs::remove_dir_all(entry.path());
        }
    }
}

/// Debian as an archive.
fn install(draft: &Path, codename: &str) -> Result<PathBuf> {
    let write = |name: &str, text: String| -> Result<PathBuf> {
        let path = draft.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let sources = write("sources.list", apt::sources()?)?;
    let options = write("apt.conf", apt::options()?)?;
    let tar = draft.join("root.tar");
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=apt", "--format=tar"]);
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.arg("--aptopt=Acquire::Languages \"none\"");
    if fs::metadata(&options).is_ok_and(|about| about.len() > 0) {
        command.arg(format!("--aptopt={}", options.display()));
    }
    // Nothing of a half-made tree is wanted.
    command.arg("--dpkgopt=force-unsafe-io");
    for pattern in EXCLUDED {
        command.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    command.arg(format!("--customize-hook={}", finish()));
    command.arg(codename).arg(&tar).arg(&sources);
    if is_root() {
        // Else it must be a folder that everybody may enter.
        command.env("TMPDIR", draft);
    }
    to_the_end("mmdebstrap", &mut command, &draft.join("mmdebstrap.log"))?;
    Ok(tar)
}

fn finish() -> String {
    let mut script = format!("set -e{FINISH}");
    for unit in MASKED {
        script.push_str(&format!("ln -sf /dev/null etc/systemd/system/{unit}\n"));
    }
    script
}

/// The archive and the modules as a file system.
fn fill(draft: &Path, tar: &Path, modules: &Path) -> Result<PathBuf> {
    let image = draft.join("image.ext4");
    let file = File::create(&image).with_context(|| format!("create {}", image.display()))?;
    drop(file);
    let mut command = if is_root() {
        Command::new("sh")
    } else {
        let mut command = Command::new("fakeroot");
        command.arg("sh");
        command
    };
    command.args(["-ec", FILL, "sh"]).current_dir(draft);
    command.args([tar, modules, &image, &sbin("mkfs.ext4")]);
    command.args([BYTES_PER_INODE, SIZE]);
    to_the_end("mkfs.ext4", &mut command, &draft.join("mkfs.log"))?;
    Ok(image)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs a program to its end, or ends it with us.
fn to_the_end(name: &str, command: &mut Command, log: &Path) -> Result<()> {
    if paths::on_path(&command.get_program().to_string_lossy()).is_none() {
        bail!(
            "{name} needs {:?}, which is not on the PATH",
            command.get_program()
        );
    }
    let start = Instant::now();
    let mut running = Managed::spawn(name, command, log)?;
    let status = loop {
        if let Some(status) = running.ended()? {
            break status;
        }
        if interrupt::requested() || start.elapsed() > LIMIT {
            let why = if interrupt::requested() {
                "interrupted"
            } else {
                "out of time"
            };
            // mmdebstrap itself waits for those that it has started, and cleans up after them.
            let _ended = killpg(Pid::from_raw(running.pid()), Signal::SIGTERM);
            let _killed_by_its_drop = running.wait(GRACE);
            bail!("{why} while {name} made Debian's root file system");
        }
        thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        bail!(
            "{name} ended with {}:\n{}",
            process::tell(status),
            running.log_tail(15)
        );
    }
    Ok(())
}
