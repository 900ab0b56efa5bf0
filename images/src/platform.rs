//! Which machine an image is for, and which of several images is for this one (pure).

use serde::{Deserialize, Serialize};

use crate::manifest::{DOCKER_MANIFEST, IndexEntry, OCI_MANIFEST, shorten};

/// Operating system, architecture and its variant, in Go's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

impl Platform {
    /// The one that this program runs on.
    pub(crate) fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: host_variant(),
        }
    }

    /// Whether an image for `self` runs on `host`: a variant that counts further than the host's does not.
    pub(crate) fn runs_on(&self, host: &Self) -> bool {
        let within = match (self.level(), host.level()) {
            (Some(wanted), Some(there)) => wanted <= there,
            (Some(_) | None, _) => true,
        };
        self.os == host.os && self.architecture == host.architecture && within
    }

    /// The number in a variant such as `v8`.
    fn level(&self) -> Option<u32> {
        self.variant.as_deref()?.strip_prefix('v')?.parse().ok()
    }
}

/// What the processor can do beyond its architecture, as far as there are words for it.
#[cfg(target_arch = "x86_64")]
fn host_variant() -> Option<String> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b") && has!("popcnt") && has!("sse4.2") && has!("ssse3");
    let v3 = v2
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 = v3
        && has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    let level = 1 + u32::from(v2) + u32::from(v3) + u32::from(v4);
    Some(format!("v{level}"))
}

#[cfg(not(target_arch = "x86_64"))]
fn host_variant() -> Option<String> {
    (std::env::consts::ARCH == "aarch64").then(|| "v8".to_owned())
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // As an image says it: printed, it must stay one short line.
        write!(f, "{}/{}", shorten(&self.os), shorten(&self.architecture))?;
        match &self.variant {
            Some(variant) => write!(f, "/{}", shorten(variant)),
            None => Ok(()),
        }
    }
}

/// The entry for `host`, of several the one that makes most of it (the first of equals), or the platforms that there are.
pub(crate) fn select<'a>(
    entries: &'a [IndexEntry],
    host: &Platform,
) -> Result<&'a IndexEntry, Vec<String>> {
    let fits = |entry: &&IndexEntry| {
        (entry.media_type == OCI_MANIFEST || entry.media_type == DOCKER_MANIFEST)
            && entry
                .platform
                .as_ref()
                .is_some_and(|platform| platform.runs_on(host))
    };
    let level = |entry: &IndexEntry| entry.platform.as_ref().and_then(Platform::level);
    let best = entries.iter().filter(fits).rev();
    best.max_by_key(|entry| level(entry)).ok_or_else(|| {
        // buildx adds attestations as unknown/unknown: noise to someone who looks for an architecture.
        let real = entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .filter(|p| p.os != "unknown");
        real.take(20).map(ToString::to_string).collect()
    })
}
