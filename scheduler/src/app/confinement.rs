//! What a container may do and where it may write, as apps, containers of pods and jobs say it.
//!
//! Pure. There are two ways to say it: fields of mezzo's own, `readOnlyRootfs` and `capabilities`, and Docker's parameters
//! `read-only`, `cap-add` and `cap-drop`, which Marathon handed on. Both mean the same; it is written back the way it was
//! said, with the names of capabilities in one form and order. Read in `parse/confinement.rs`.

use mezzo_api::model::Capabilities;
use serde_json::{Map, Value, json};

/// Which way it was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Manner {
    /// By fields of mezzo's own.
    #[default]
    Fields,
    /// By Docker's parameters.
    Parameters,
}

/// What a container may do and where it may write.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confinement {
    /// No writing outside volumes and the sandbox.
    pub read_only_rootfs: bool,
    /// How its capabilities differ from the default ones.
    pub capabilities: Capabilities,
    /// [`Manner::Fields`] where nothing was said.
    pub manner: Manner,
}

impl Confinement {
    /// The parameters, if it was said by them.
    #[must_use]
    pub fn parameters(&self) -> Vec<Value> {
        if self.manner == Manner::Fields {
            return Vec::new();
        }
        let one = |key: &str, value: &str| json!({"key": key, "value": value});
        let added = self.capabilities.added().into_iter();
        let dropped = self.capabilities.drop.names().into_iter();
        added
            .map(|name| one("cap-add", name))
            .chain(dropped.map(|name| one("cap-drop", name)))
            .chain(self.read_only_rootfs.then(|| one("read-only", "true")))
            .collect()
    }

    /// The fields, if it was said by them; what is as by default is left out.
    #[must_use]
    pub fn fields(&self) -> Map<String, Value> {
        let mut out = Map::new();
        if self.manner == Manner::Parameters {
            return out;
        }
        if self.read_only_rootfs {
            out.insert("readOnlyRootfs".into(), true.into());
        }
        if !self.capabilities.is_default() {
            let said = json!({
                "add": self.capabilities.added(),
                "drop": self.capabilities.drop.names(),
            });
            out.insert("capabilities".into(), said);
        }
        out
    }
}
