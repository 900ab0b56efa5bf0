//! Where this machine gets Debian from: the same mirrors, options and release serve the guests. Text in, text out, but
//! for the commands that tell it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Which of apt's options say how packages are fetched, and not where they are kept.
const OPTIONS: [&str; 9] = [
    "Acquire::http::",
    "Acquire::https::",
    "Acquire::Check-",
    "Acquire::Retries",
    "Acquire::Max-",
    "Acquire::Min-",
    "Acquire::AllowInsecureRepositories",
    "Acquire::AllowWeakRepositories",
    "Acquire::AllowReleaseInfoChange",
];

/// The release that is installed here: "bookworm".
pub(super) fn codename() -> Result<String> {
    let file = "/etc/os-release";
    let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let told = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let told = told.with_context(|| format!("{file} tells no VERSION_CODENAME"))?;
    Ok(told.trim().trim_matches('"').to_owned())
}

/// Lines for a `sources.list`: every archive of Debian's that apt has an index of. Those of others need keys that
/// Debian does not have.
pub(super) fn sources() -> Result<String> {
    let mut ask = Command::new("apt-get");
    ask.args(["indextargets", "--format"]);
    ask.arg("$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)");
    let told = process::output(ask.arg("Created-By: Packages"))?;
    let lines = source_lines(&told);
    if lines.is_empty() {
        bail!("apt has no index of Debian's archive (`apt-get update` may be needed)");
    }
    Ok(lines)
}

fn source_lines(told: &str) -> String {
    let mut lines = Vec::new();
    for line in told.lines() {
        if let [uri, release, component, "Debian"] = line.split('|').collect::<Vec<_>>()[..] {
            lines.push(format!("deb {uri} {release} {component}\n"));
        }
    }
    // One archive may be named by several sources.
    lines.sort();
    lines.dedup();
    lines.concat()
}

/// How this machine fetches packages: proxies, what it does about old indices.
pub(super) fn options() -> Result<String> {
    let told = process::output(Command::new("apt-config").arg("dump"))?;
    Ok(option_lines(&told))
}

fn option_lines(told: &str) -> String {
    told.lines()
        .filter(|line| OPTIONS.iter().any(|option| line.starts_with(option)))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debians_archives_are_taken_and_each_once() {
        let told = "\
http://mirror.example/debian/|bookworm|main|Debian
https://other.example/apt/|stable|main|Somebody
http://mirror.example/debian-security/|bookworm-security|main|Debian
http://mirror.example/debian/|bookworm|main|Debian
";
        let wanted = "\
deb http://mirror.example/debian-security/ bookworm-security main
deb http://mirror.example/debian/ bookworm main
";
        assert_eq!(source_lines(told), wanted);
        assert_eq!(source_lines(""), "");
    }

    #[test]
    fn options_of_fetching_are_taken_and_no_others() {
        let told = "\
APT::Architecture \"amd64\";
Acquire::Check-Valid-Until \"false\";
Acquire::IndexTargets::deb::Packages \"\";
Acquire::http::Proxy \"http://proxy.example:3128\";
Dir::Cache \"var/cache/apt\";
";
        let wanted = "Acquire::Check-Valid-Until \"false\";\n\
            Acquire::http::Proxy \"http://proxy.example:3128\";\n";
        assert_eq!(option_lines(told), wanted);
    }
}
