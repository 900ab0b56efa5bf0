//! Where things are: the checkout, the target folder, the built programs.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The checkout that this was built from.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// Cargo's target folder: wherever the running program (xtask or a test) was built to.
pub fn target() -> Result<PathBuf> {
    let exe = env::current_exe().context("the path of this program")?;
    let profile =
        profile_dir(&exe).with_context(|| format!("{} is in no target folder", exe.display()))?;
    profile
        .parent()
        .map(Path::to_path_buf)
        .context("the target folder")
}

/// A program of this workspace. `MEZZO_BIN_DIR` (set by xtask for another profile) comes before the folder of the
/// running program.
pub fn program(name: &str) -> Result<PathBuf> {
    let dir = match env::var_os("MEZZO_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let exe = env::current_exe().context("the path of this program")?;
            profile_dir(&exe)
                .with_context(|| format!("{} is in no target folder", exe.display()))?
                .to_path_buf()
        }
    };
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "{} is not built: run these tests through `cargo xtask test e2e`",
            path.display()
        );
    }
    Ok(path)
}

/// The first program of that name on the PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// `target/debug` of `target/debug/xtask` and of `target/debug/deps/system-0123`.
fn profile_dir(exe: &Path) -> Option<&Path> {
    let dir = exe.parent()?;
    if dir.ends_with("deps") {
        dir.parent()
    } else {
        Some(dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_profile_of_programs_and_of_tests() {
        assert_eq!(
            profile_dir(Path::new("/t/debug/xtask")),
            Some(Path::new("/t/debug"))
        );
        assert_eq!(
            profile_dir(Path::new("/t/debug/deps/system-12")),
            Some(Path::new("/t/debug"))
        );
    }
}
