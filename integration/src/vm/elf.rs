//! What a dynamically linked program needs beside itself, as `ldd` tells it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// The program itself and every library that it loads, the loader among them, by the paths that it looks for.
/// A static program needs nothing more.
pub fn with_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("ldd");
    command.arg(program).env("LC_ALL", "C");
    let told = match process::output(&mut command) {
        Ok(told) => told,
        Err(error) if format!("{error:#}").contains("not a dynamic executable") => String::new(),
        Err(error) => return Err(error),
    };
    let mut files = parse(&told).with_context(|| format!("libraries of {}", program.display()))?;
    files.insert(0, program.to_path_buf());
    Ok(files)
}

/// Lines are `libc.so.6 => /lib/…/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`, `linux-vdso.so.1 (0x…)`.
fn parse(told: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for line in told.lines().map(str::trim) {
        let found = match line.split_once(" => ") {
            Some((name, found)) if found.starts_with("not found") => bail!("{name} is not there"),
            Some((_, found)) => found,
            None => line,
        };
        let path = found.split(" (").next().unwrap_or(found);
        if path.starts_with('/') {
            files.push(PathBuf::from(path));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_tells() {
        let told = "\
\tlinux-vdso.so.1 (0x00007ffd)
\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f)
";
        let files = parse(told).expect("files");
        let wanted = [
            "/lib/x86_64-linux-gnu/libgcc_s.so.1",
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(files, wanted.map(PathBuf::from));
        assert_eq!(
            parse("\tstatically linked\n").expect("none"),
            Vec::<PathBuf>::new()
        );
    }

    #[test]
    fn a_missing_library_is_named() {
        let told = parse("\tlibelf.so.1 => not found\n").expect_err("missing");
        assert_eq!(told.to_string(), "libelf.so.1 is not there");
    }

    #[test]
    fn this_very_program_needs_a_loader() {
        let exe = std::env::current_exe().expect("path");
        let files = with_libraries(&exe).expect("files");
        assert_eq!(files.first(), Some(&exe));
        assert!(files.iter().all(|file| file.is_file()), "{files:?}");
    }
}
