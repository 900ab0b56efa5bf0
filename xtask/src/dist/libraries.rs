//! Which packages a program needs for the libraries it is linked with, read from its own headers.
//!
//! A small `dpkg-shlibdeps`: that one is in a package of its own, wants a source package around it, and asks for newer
//! versions than the symbols need.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use mezzo_integration::process;

/// Debian's packages of the libraries that the program may be linked with. Those of libelf and zlib are compiled in.
const PACKAGES: [(&str, &str); 7] = [
    ("libc.so.6", "libc6"),
    ("libm.so.6", "libc6"),
    ("ld-linux-x86-64.so.2", "libc6"),
    ("ld-linux-aarch64.so.1", "libc6"),
    ("libgcc_s.so.1", "libgcc-s1"),
    // 2.5: the version of Debian 11; the functions that we call are older.
    ("libseccomp.so.2", "libseccomp2 (>= 2.5.0)"),
    ("libz.so.1", "zlib1g"),
];

/// The value of a `Depends` field, without what is not a library.
pub(super) fn depends(program: &Path) -> Result<String> {
    let headers = process::output(Command::new("objdump").arg("-p").arg(program))?;
    read(&headers).with_context(|| format!("the libraries of {}", program.display()))
}

/// The same from what `objdump -p` prints. Pure.
fn read(headers: &str) -> Result<String> {
    let words = |line: &str| -> Vec<String> { line.split_whitespace().map(String::from).collect() };
    let mut packages = Vec::new();
    let mut newest = (0, 0);
    for line in headers.lines().map(words) {
        match line.as_slice() {
            [key, library] if key == "NEEDED" => {
                let known = PACKAGES.iter().find(|(name, _)| name == library);
                let Some((_, package)) = known else {
                    bail!(
                        "it is linked with {library}; name its package in xtask/src/dist/libraries.rs"
                    );
                };
                packages.push((*package).to_owned());
            }
            [_, _, _, version] => {
                if let Some(version) = version.strip_prefix("GLIBC_").and_then(numbers) {
                    newest = newest.max(version);
                }
            }
            _ => {}
        }
    }
    if newest == (0, 0) {
        bail!("no version of glibc is named in it");
    }
    for package in packages.iter_mut().filter(|package| *package == "libc6") {
        *package = format!("libc6 (>= {}.{})", newest.0, newest.1);
    }
    packages.sort_unstable();
    packages.dedup();
    Ok(packages.join(", "))
}

/// Of "2.34" and "2.2.5".
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    let major = parts.next()?.parse().ok()?;
    Some((major, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: &str = "
Dynamic Section:
  NEEDED               libseccomp.so.2
  NEEDED               libm.so.6
  NEEDED               libc.so.6
  SONAME               x

Version References:
  required from libm.so.6:
    0x06969189 0x00 07 GLIBC_2.29
  required from libc.so.6:
    0x09691a75 0x00 03 GLIBC_2.2.5
    0x069691b4 0x00 02 GLIBC_2.34
    0x0d696919 0x00 14 GLIBC_2.9
  required from libgcc_s.so.1:
    0x0b792650 0x00 04 GCC_3.0
";

    #[test]
    fn the_newest_symbol_decides_on_the_version_of_glibc() {
        assert_eq!(
            read(HEADERS).expect("known libraries"),
            "libc6 (>= 2.34), libseccomp2 (>= 2.5.0)"
        );
    }

    #[test]
    fn a_library_of_an_unknown_package_is_refused() {
        let error = read("  NEEDED  libx.so.1\n    0x0 0x00 02 GLIBC_2.34\n").expect_err("unknown");
        assert!(error.to_string().contains("libx.so.1"), "{error}");
        assert!(read("").is_err());
    }
}
