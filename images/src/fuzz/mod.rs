//! Fuzzing of everything that reads hostile bytes; compiled for tests only, so that it reaches private parsers and
//! leaves no trace in what is shipped.
//!
//! - `driver`: the loop: choose, mutate, run, keep what behaves anew; a failure is minimised and saved.
//! - `mutate`: changes to bytes, to JSON, and to archives (with checksums that stay right, so that inputs get deep).
//! - `text`, `registry`, `archive`, `files`, `stream`: the targets, each with its seeds and what must always hold.
//!
//! Works on stable Rust: instead of counters in the compiled code, a target tells how an input behaved (which error,
//! which kinds of entries), and inputs that behave like none before join the corpus. `cargo test` gives every target
//! a bounded number of executions from a fixed seed; `cargo xtask fuzz` gives them time and a seed of their own.
//! Inputs that once failed lie in `tests/past-failures/TARGET/` and are run by `cargo test` for ever.

mod archive;
mod driver;
mod files;
mod mutate;
mod registry;
mod stream;
mod text;

#[allow(dead_code, reason = "the integration tests use the rest of it")]
#[path = "../../tests/common/archive.rs"]
mod builder;
#[allow(dead_code, reason = "the integration tests use the rest of it")]
#[path = "../../tests/common/canary.rs"]
mod canary;

use driver::{Target, fuzz};

/// One test for each target; `cargo xtask fuzz` finds them by the prefix.
macro_rules! targets {
    ($($name:ident: $target:ty, $executions:expr;)*) => {
        $(
            #[test]
            fn $name() {
                if <$target>::NEEDS_ROOT && !nix::unistd::geteuid().is_root() {
                    eprintln!("skipped: needs root");
                    return;
                }
                fuzz::<$target>(stringify!($name), $executions);
            }
        )*
    };
}

targets! {
    target_reference: text::ReferenceTarget, 20_000;
    target_digest: text::DigestTarget, 20_000;
    target_manifest: text::ManifestTarget, 5_000;
    target_paths: text::PathsTarget, 20_000;
    target_challenge: registry::ChallengeTarget, 10_000;
    target_signature: registry::SignatureTarget, 5_000;
    target_credentials: registry::CredentialsTarget, 1_000;
    target_tar: archive::TarTarget, 2_000;
    target_unpack: archive::UnpackTarget, 300;
    target_zip: files::ZipTarget, 1_000;
    target_stream: stream::StreamTarget, 200;
}
