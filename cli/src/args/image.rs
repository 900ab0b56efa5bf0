//! `mezzo image …`: verbs on images, in a local store, in files and in registries.

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
    /// Put an image from a file into the local store: an OCI layout or what `docker save` wrote
    #[command(after_help = "\
The file may be an OCI layout directory, a tar archive of one, or an archive by `docker save`, plain or compressed with
gzip, zstd, bzip2 or xz. All that has a digest is checked. Layers that are here already are not stored again.

Examples:
  mezzo image import app.tar
  mezzo image import images.tar --image app:2 -t 127.0.0.1:5000/app:2
  docker save app:1 | mezzo image import -")]
    Import(ImportArgs),
    /// Write an image of the local store to an OCI archive (-o FILE, `-` is standard output)
    #[command(after_help = "\
Layers are packed again from their files: the same files each time give the same digests, but not those that a registry
knows the image by. The same holds for `image push`.

Example:
  mezzo image export app:1 -o app.tar")]
    Export(ExportArgs),
    /// Push an image of the local store to a registry, by its name or another one
    #[command(after_help = "\
Layers are packed again from their files; see `mezzo image export --help` about digests.

Examples:
  mezzo image push 127.0.0.1:5000/app:1
  mezzo image push app:1 127.0.0.1:5000/app:1")]
    Push(PushArgs),
    /// List the images of the local store
    #[command(visible_alias = "ls", after_help = "Example:\n  mezzo image list")]
    List(StoreArgs),
    /// Show all there is to know of one image: config, layers, history, what it takes on the disk
    #[command(
        visible_alias = "inspect",
        after_help = "Example:\n  mezzo image show 127.0.0.1:5000/sleep:1"
    )]
    Show(ShowArgs),
    /// Hash everything in the local store again; say what is damaged, or drop it
    #[command(after_help = "\
Every file of every layer is compared with what was recorded when the layer came; manifests and configs are hashed; names
must lead to all they should; nothing else may lie in the store. The exit code is 0 if all is well, else 1. What --repair
drops comes again with the next pull or import; layers in use are never dropped.

Examples:
  mezzo image verify
  mezzo image verify 127.0.0.1:5000/sleep:1
  mezzo image verify --repair")]
    Verify(VerifyArgs),
    /// Mount an image read-only to look at it; without arguments, list what is mounted
    #[command(after_help = "\
The image's layers stay in the store while the mount is there. Undo it with `mezzo image umount`.

Examples:
  mezzo image mount 127.0.0.1:5000/sleep:1 /mnt
  mezzo image mount")]
    Mount(MountArgs),
    /// Undo a mount of an image
    #[command(
        visible_alias = "unmount",
        after_help = "Example:\n  mezzo image umount /mnt"
    )]
    Umount(UmountArgs),
    /// Pull an image into the local store
    #[command(after_help = "\
Examples:
  mezzo image pull 127.0.0.1:5000/sleep:1 --insecure-registry 127.0.0.1:5000
  mezzo image pull busybox:1.36 --registries /etc/mezzo/agent.toml")]
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

/// How registries are reached.
#[derive(Debug, Clone, Args)]
pub(crate) struct RegistriesArgs {
    /// A registry that is asked over plain HTTP, host:port
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) insecure_registry: Vec<String>,
    /// A TOML file with [registries."NAME"] sections (mirrors, ca_file, insecure), such as an agent's settings
    #[arg(long, value_name = "FILE", env = "MEZZO_REGISTRIES")]
    pub(crate) registries: Option<PathBuf>,
}

/// Which store.
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
    #[command(flatten)]
    pub(crate) registries: RegistriesArgs,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The image's reference
    #[arg(value_name = "REF")]
    pub(crate) image: String,
    /// Ask the registry also when the image is here
    #[arg(long)]
    pub(crate) always: bool,
    #[command(flatten)]
    pub(crate) registries: RegistriesArgs,
    /// A file that says whose signatures images need [default: all images are let in]
    #[arg(long, value_name = "FILE")]
    pub(crate) signature_policy: Option<PathBuf>,
    /// Do not wait until the image would survive a power cut
    #[arg(long)]
    pub(crate) no_sync: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// An OCI layout directory or an archive; `-` reads one from standard input
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// What the image shall be called [default: as the archive says]
    #[arg(short, long, value_name = "REF")]
    pub(crate) tag: Option<String>,
    /// Which image, if there are several: its name or digest in the archive
    #[arg(long, value_name = "NAME")]
    pub(crate) image: Option<String>,
    /// Do not wait until the image would survive a power cut
    #[arg(long)]
    pub(crate) no_sync: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The image's reference
    #[arg(value_name = "REF")]
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The image's reference in the local store
    #[arg(value_name = "REF")]
    pub(crate) image: String,
    /// What it shall be called in the registry [default: the same]
    #[arg(value_name = "AS")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) registries: RegistriesArgs,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The image's reference
    #[arg(value_name = "REF")]
    pub(crate) image: String,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// References of images [default: the whole store]
    #[arg(value_name = "REF")]
    pub(crate) images: Vec<String>,
    /// Drop what is damaged, so that the next pull brings it again
    #[arg(long)]
    pub(crate) repair: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// The image's reference
    #[arg(value_name = "REF", requires = "dir")]
    pub(crate) image: Option<String>,
    /// A directory that is there
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct UmountArgs {
    /// Where the image is mounted
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
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
