//! Whiteouts (pure): how a layer's archive says that something of the layers below is gone.
//!
//! `.wh.NAME` hides NAME, `.wh..wh..opq` hides everything in its directory; other `.wh..wh.` names are left-overs of
//! AUFS that every runtime skips. Names that would reach outside their directory are refused, not cleaned up.

/// What the last part of an entry's path means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// An ordinary file.
    Ordinary,
    /// The directory hides all that lies below it.
    Opaque,
    /// This sibling is hidden.
    Hides(&'a [u8]),
    /// AUFS's own bookkeeping: no file.
    Ignored,
    /// A marker that names nothing, or something outside its directory.
    Invalid,
}

const PREFIX: &[u8] = b".wh.";

/// Classifies one path component.
pub(crate) fn classify(name: &[u8]) -> Name<'_> {
    let Some(hidden) = name.strip_prefix(PREFIX) else {
        return Name::Ordinary;
    };
    if hidden == b".wh..opq" {
        return Name::Opaque;
    }
    if hidden.starts_with(PREFIX) {
        return Name::Ignored;
    }
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Name::Invalid;
    }
    Name::Hides(hidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        assert_eq!(classify(b"bin"), Name::Ordinary);
        assert_eq!(classify(b".who"), Name::Ordinary);
        assert_eq!(classify(b".wh.bin"), Name::Hides(b"bin"));
        assert_eq!(classify(b".wh.."), Name::Invalid);
        assert_eq!(classify(b".wh..."), Name::Invalid);
        assert_eq!(classify(b".wh."), Name::Invalid);
        assert_eq!(classify(b".wh..wh..opq"), Name::Opaque);
        assert_eq!(classify(b".wh..wh.plnk"), Name::Ignored);
        assert_eq!(classify(b".wh....x"), Name::Hides(b"...x"));
    }
}
