//! What an archive may cost, and why it may be refused (pure).

/// What an archive may cost; beyond it the layer is refused.
#[derive(Debug, Clone)]
pub struct UnpackLimits {
    /// Files, directories (also those that are only implied) and links in one layer.
    pub max_entries: u64,
    /// Directories above a file.
    pub max_depth: usize,
    /// Bytes of one path.
    pub max_path_bytes: usize,
    /// Bytes of the extended headers of one entry.
    pub max_header_bytes: u64,
    /// Unpacked bytes for each compressed one, beyond the first 256 MiB.
    pub max_ratio: u64,
    /// Bytes of one sparse file, holes included. Others are bounded with the whole image.
    pub max_file_bytes: u64,
    /// What to do with device nodes in an archive.
    pub device_nodes: DeviceNodes,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            max_entries: 1_000_000,
            max_depth: 256,
            max_path_bytes: 4095,
            max_header_bytes: 1 << 20,
            max_ratio: 200,
            max_file_bytes: 64 << 30,
            device_nodes: DeviceNodes::Skip,
        }
    }
}

/// What to do with character and block devices in an archive. The runtime makes the few devices that a container may
/// use by itself, so that nothing is lost by leaving them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceNodes {
    /// Leave them out.
    Skip,
    /// Make them, as other tools do.
    Create,
    /// Refuse the layer.
    Refuse,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is not what it says.
    #[error("the archive is malformed: {0}")]
    Malformed(String),
    /// The archive uses something that is not supported.
    #[error("{path:?} in the archive uses {feature}, which is not supported")]
    Unsupported {
        /// The entry.
        path: String,
        /// What it uses.
        feature: &'static str,
    },
    /// An entry that would reach outside of the layer or confuse whoever reads it.
    #[error("refused {path:?} in the archive: {reason}")]
    Refused {
        /// The entry.
        path: String,
        /// Why.
        reason: &'static str,
    },
    /// A bound was passed.
    #[error("the archive has more than {limit} {what}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The compressed stream is damaged.
    #[error("the compressed stream is damaged")]
    Decompress(#[source] std::io::Error),
    /// The kernel refused an operation on a file of the layer.
    #[error("could not {operation} {path:?} in the layer")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: String,
        /// The kernel's word.
        #[source]
        source: std::io::Error,
    },
}

/// A name from an archive for use in a message: printable and of bounded length.
pub(crate) fn printable(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path).chars().take(200).collect();
    if path.len() > 800 {
        format!("{text}…")
    } else {
        text
    }
}
