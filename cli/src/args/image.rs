//! `mezzo image …`: verbs on images, in a local store and in registries.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make an image from a directory or a static binary
    #[command(after_help = "\
Examples:
  mezzo image pack ./sleep -t 127.0.0.1:5000/sleep:1 --cmd 3600 --push --insecure-registry 127.0.0.1:5000
  mezzo image pack ./rootfs -t app:1 --entrypoint /bin/app --env LEVEL=info -o app.tar")]
    Pack(PackArgs),
    /// List the images of the local store
    #[command(visible_alias = "ls", after_help = "Example:\n  mezzo image list")]
    List(StoreArgs),
    /// Pull an image into the local store
    #[command(
        after_help = "Example:\n  mezzo image pull 127.0.0.1:5000/sleep:1 --insecure-registry 127.0.0.1:5000"
    )]
    Pull(PullArgs),
    /// Remove images from the local store
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  mezzo image remove 127.0.0.1:5000/sleep:1"
    )]
    Remove(RemoveArgs),
    /// Remove every image of the local store that no container uses
    #[command(after_help = "Example:\n  mezzo image prune")]
    Prune(StoreArgs),
}

/// Which store, and which registries may be asked without TLS.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// The local store [default: /var/lib/mezzo/images as root, else ~/.local/share/mezzo/images]
    #[arg(long, value_name = "DIR", env = "MEZZO_IMAGE_STORE")]
    pub(crate) store: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// A directory (becomes the root file system) or one static executable (becomes /NAME and the entrypoint)
    #[arg(value_name = "DIR|BINARY")]
    pub(crate) source: PathBuf,
    /// The image's reference, like `sleep:1` or `registry:5000/team/app:2`
    #[arg(short, long, value_name = "REF")]
    pub(crate) tag: String,
    /// What runs; repeat for arguments that always come first
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) entrypoint: Vec<String>,
    /// Default arguments; repeat for more than one
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) cmd: Vec<String>,
    /// An environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// A label
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<String>,
    /// Where the process starts
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// uid, uid:gid or a name
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Push to the registry that the reference names
    #[arg(long)]
    pub(crate) push: bool,
    /// A registry that is asked over plain HTTP, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) insecure_registry: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image's reference
    #[arg(value_name = "REF")]
    pub(crate) image: String,
    /// Ask the registry also when the image is here
    #[arg(long)]
    pub(crate) always: bool,
    /// A registry that is asked over plain HTTP, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) insecure_registry: Vec<String>,
    /// A file that says whose signatures images need [default: all images are let in]
    #[arg(long, value_name = "FILE")]
    pub(crate) signature_policy: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// References of images
    #[arg(required = true, value_name = "REF")]
    pub(crate) images: Vec<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
