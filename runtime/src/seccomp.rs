//! Seccomp filters: which of the kernel's calls a container's programs may make. Compiling a profile with libseccomp takes
//! tens of milliseconds, so the launcher does it once for each distinct [`Filter`] and every container forked later
//! finds the program in its memory.
//!
//! libcontainer could apply a profile itself, but would compile it for each container, and applies none at all
//! to programs executed later (its tenant builder drops the profile). The executor loads ours in both cases.

mod default;
mod profile;
mod shorten;

use std::fs::File;
use std::io::{Read, Seek};

use libseccomp::ScmpFilterContext;
use serde::{Deserialize, Serialize};

pub use profile::{BadProfile, SeccompProfile};

/// What decides the rules of a container; equal ones share a program.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Filter {
    /// Sorted, without `CAP_`.
    pub(crate) capabilities: Vec<String>,
    /// `None`: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) profile: Option<SeccompProfile>,
}

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SeccompError {
    #[error("libseccomp refused the profile: {0}")]
    Library(#[from] libseccomp::error::SeccompError),
    #[error("cannot take the compiled profile out of libseccomp: {0}")]
    Export(std::io::Error),
    #[error(
        "the profile compiles to {0} instructions, the kernel takes {MOST_INSTRUCTIONS}: use fewer rules"
    )]
    TooLong(usize),
}

/// BPF_MAXINSNS of the kernel.
const MOST_INSTRUCTIONS: usize = 4096;
/// Of one instruction, in bytes.
const INSTRUCTION: usize = 8;

impl Filter {
    /// An array of BPF instructions.
    pub(crate) fn compile(&self) -> Result<Vec<u8>, SeccompError> {
        let program = export(&self.rules()?)?;
        let program = shorten::shorten(&program).unwrap_or(program);
        match program.len() / INSTRUCTION {
            n if n > MOST_INSTRUCTIONS => Err(SeccompError::TooLong(n)),
            _ => Ok(program),
        }
    }

    fn rules(&self) -> Result<ScmpFilterContext, SeccompError> {
        let has = |name: &str| self.capabilities.iter().any(|held| held == name);
        match &self.profile {
            None => default::build(&has),
            Some(profile) => profile.build(&has),
        }
    }
}

/// What every filter has, whatever its rules.
fn set_up(filter: &mut ScmpFilterContext) -> Result<(), libseccomp::error::SeccompError> {
    // A binary tree instead of a list of a few hundred comparisons for each call.
    filter.set_ctl_optimize(2)?;
    // The executor has set it already; the program must not depend on libseccomp doing so.
    filter.set_ctl_nnp(false)?;
    Ok(())
}

fn export(filter: &ScmpFilterContext) -> Result<Vec<u8>, SeccompError> {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let file = memfd_create("mezzo-seccomp", MFdFlags::MFD_CLOEXEC)
        .map_err(|error| SeccompError::Export(error.into()))?;
    let mut file = File::from(file);
    filter.export_bpf(&file)?;
    let mut program = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut program))
        .map_err(SeccompError::Export)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_change_the_default_profile() {
        let compile = |capabilities: &[&str]| {
            let filter = Filter {
                capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
                profile: None,
            };
            filter.compile().unwrap()
        };
        let (plain, admin) = (compile(&[]), compile(&["SYS_ADMIN"]));
        assert!(
            plain.len().is_multiple_of(INSTRUCTION) && plain.len() > 800,
            "{}",
            plain.len()
        );
        assert_ne!(plain, admin);
    }
}
