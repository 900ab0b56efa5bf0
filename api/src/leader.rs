//! How a master that does not lead names the one that does: in the metadata of the status that it refuses with.

use tonic::Status;

/// The key; its value is host:port of the leader.
pub const METADATA_KEY: &str = "mezzo-leader";

/// The leader that a refusal names, if it names one.
///
/// ```
/// let mut status = tonic::Status::unavailable("m2:5050 leads");
/// assert_eq!(mezzo_api::leader::named_by(&status), None);
/// status.metadata_mut().insert(mezzo_api::leader::METADATA_KEY, "m2:5050".parse()?);
/// assert_eq!(mezzo_api::leader::named_by(&status).as_deref(), Some("m2:5050"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn named_by(status: &Status) -> Option<String> {
    let value = status.metadata().get(METADATA_KEY)?.to_str().ok()?;
    (!value.is_empty()).then(|| value.to_owned())
}
