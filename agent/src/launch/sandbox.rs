//! Volumes that are of the task's sandbox: what they mount is found there, or made.
//!
//! What lies in a sandbox may come out of somebody's archive. Each name is resolved from the descriptor of the directory
//! before it, and no link is followed: so nothing outside is made or mounted. Between this and the mount nobody writes
//! there: all is fetched, the program does not run yet, and the folder above is the agent's alone.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, mkdirat},
};

/// The place of a path that [`mezzo_api::model::is_path_in_sandbox`]; what is missing of it is made, as directories.
///
/// # Errors
///
/// A link or a file is on the way, or at its end is neither a directory nor a plain file.
pub(super) fn ensure(sandbox: &Path, path: &str) -> io::Result<PathBuf> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
    let mut at = File::open(sandbox)?;
    for name in path.split('/') {
        at = match openat2(&at, name, how) {
            Err(Errno::ENOENT) => {
                mkdirat(&at, name, Mode::from_bits_truncate(0o755))?;
                openat2(&at, name, how)
            }
            found => found,
        }
        .map_err(|error| {
            if error == Errno::ELOOP {
                io::Error::other(format!("{name:?} is a link"))
            } else if error == Errno::ENOTDIR {
                io::Error::other(format!("a file is where {name:?} should lie"))
            } else {
                error.into()
            }
        })?
        .into();
    }
    let kind = at.metadata()?.file_type();
    if !kind.is_dir() && !kind.is_file() {
        return Err(io::Error::other("it is neither a directory nor a file"));
    }
    Ok(sandbox.join(path))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_is_missing_is_made_and_no_link_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let (sandbox, outside) = (dir.path().join("sandbox"), dir.path().join("outside"));
        fs::create_dir_all(sandbox.join("there")).unwrap();
        fs::create_dir(&outside).unwrap();
        for path in ["there", "there/more", "new/deep/er"] {
            assert_eq!(ensure(&sandbox, path).unwrap(), sandbox.join(path));
            assert!(sandbox.join(path).is_dir(), "{path}");
        }
        fs::write(sandbox.join("file"), "x").unwrap();
        assert_eq!(ensure(&sandbox, "file").unwrap(), sandbox.join("file"));
        symlink(&outside, sandbox.join("out")).unwrap();
        symlink("../outside", sandbox.join("there/out")).unwrap();
        symlink("there", sandbox.join("within")).unwrap();
        symlink("nowhere", sandbox.join("dangling")).unwrap();
        nix::unistd::mkfifo(&sandbox.join("pipe"), Mode::S_IRWXU).unwrap();
        for (path, words) in [
            ("out", "\"out\" is a link"),
            ("out/made", "\"out\" is a link"),
            ("there/out/made", "\"out\" is a link"),
            ("within", "\"within\" is a link"),
            ("dangling", "\"dangling\" is a link"),
            ("file/made", "a file is where \"made\" should lie"),
            ("pipe", "neither a directory nor a file"),
        ] {
            let error = ensure(&sandbox, path).unwrap_err().to_string();
            assert!(error.contains(words), "{path}: {error}");
        }
        // Whatever else would lead out is no such path, and goes nowhere all the same.
        assert!(ensure(&sandbox, "../outside").is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!sandbox.join("nowhere").exists());
    }
}
