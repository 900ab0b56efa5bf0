//! What a batch of writes comes to in etcd: cut to what one transaction takes, quoted in the journal, and values that are
//! larger than one request takes laid out over several keys. Pure.
//!
//! ```text
//! NAME             the value, or, of a large one, in how many pieces it is
//! large/NAME/0…    its pieces
//! journal/0…       parts of a batch that was too much for one transaction
//! ```

use std::collections::BTreeMap;

/// By key below the prefix; `None` removes it. Values are text (UTF-8).
pub type Writes = BTreeMap<String, Option<Vec<u8>>>;
/// By key below the prefix.
pub type Rows = BTreeMap<String, Vec<u8>>;

/// etcd takes 128 operations in one transaction unless told otherwise; some are needed for the journal.
const MOST_WRITES: usize = 120;
/// etcd takes requests of 1.5 MiB. A third of that, for in the journal it is quoted once more.
const MOST_BYTES: usize = 512 << 10;
/// Of a value that lies in one piece.
const PIECE: usize = 256 << 10;
/// What begins so is a piece of a large value.
const LARGE: &str = "large/";

/// How many pieces each large value has.
pub(super) type Large = BTreeMap<String, usize>;

/// Lays large values out in pieces, and takes away pieces that are no longer needed. What is large after it goes into
/// `large` once the batch is written.
pub(super) fn lay_out(writes: Writes, known: &Large) -> (Writes, Large) {
    let (mut out, mut large) = (Writes::new(), known.clone());
    for (name, value) in writes {
        let before = large.remove(&name).unwrap_or(0);
        let (value, pieces) = match value {
            Some(value) if value.len() > PIECE => {
                let pieces = cut(&value);
                let count = pieces.len().to_string().into_bytes();
                (Some(count), pieces)
            }
            value => (value, Vec::new()),
        };
        for number in pieces.len()..before {
            out.insert(piece_name(&name, number), None);
        }
        if !pieces.is_empty() {
            large.insert(name.clone(), pieces.len());
        }
        for (number, piece) in pieces.into_iter().enumerate() {
            out.insert(piece_name(&name, number), Some(piece));
        }
        out.insert(name, value);
    }
    (out, large)
}

/// Puts large values together again.
///
/// # Errors
///
/// With what is missing.
pub(super) fn gather(mut rows: Rows) -> Result<(Rows, Large), String> {
    let mut pieces: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    let of_pieces: Vec<String> = rows
        .range(LARGE.to_owned()..)
        .map(|(key, _)| key)
        .take_while(|key| key.starts_with(LARGE))
        .cloned()
        .collect();
    for key in of_pieces {
        let Some((name, _)) = key[LARGE.len()..].rsplit_once('/') else {
            return Err(format!("{key} is no piece of a large value"));
        };
        let name = name.to_owned();
        // Numbers have as many digits each, so the pieces come in their order.
        let piece = rows.remove(&key).unwrap_or_default();
        pieces.entry(name).or_default().push(piece);
    }
    let mut large = Large::new();
    for (name, pieces) in pieces {
        let count = rows.get(&name).map(|count| String::from_utf8_lossy(count));
        if count.as_deref() != Some(&pieces.len().to_string()) {
            return Err(format!(
                "{name} should be in {count:?} pieces, {} are there",
                pieces.len()
            ));
        }
        large.insert(name.clone(), pieces.len());
        rows.insert(name, pieces.concat());
    }
    Ok((rows, large))
}

fn piece_name(name: &str, number: usize) -> String {
    format!("{LARGE}{name}/{number:06}")
}

/// Between characters, so that each piece is text.
fn cut(value: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = value;
    while rest.len() > PIECE {
        let is_inside = |at: usize| rest[at] & 0xc0 == 0x80;
        let at = (PIECE - 3..=PIECE).rev().find(|at| !is_inside(*at));
        let (piece, after) = rest.split_at(at.unwrap_or(PIECE));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces.push(rest.to_vec());
    pieces
}

/// Cuts what is too much for one transaction.
pub(super) fn parts(writes: Writes) -> Vec<Writes> {
    let mut parts = Vec::new();
    let (mut part, mut bytes) = (Writes::new(), 0);
    for (key, value) in writes {
        let size = key.len() + value.as_ref().map_or(0, Vec::len);
        if !part.is_empty() && (part.len() == MOST_WRITES || bytes + size > MOST_BYTES) {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.insert(key, value);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// A part as a value of the journal.
pub(super) fn to_journal(part: &Writes) -> Vec<u8> {
    let texts: Vec<(&str, Option<String>)> = part
        .iter()
        .map(|(key, value)| {
            let text = value.as_ref().map(|value| String::from_utf8_lossy(value));
            (key.as_str(), text.map(String::from))
        })
        .collect();
    serde_json::to_vec(&texts).expect("strings only")
}

/// The other way round.
pub(super) fn from_journal(value: &[u8]) -> Result<Writes, serde_json::Error> {
    let texts: Vec<(String, Option<String>)> = serde_json::from_slice(value)?;
    let bytes = |(key, text): (String, Option<String>)| (key, text.map(String::into_bytes));
    Ok(texts.into_iter().map(bytes).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(name: &str, value: Option<Vec<u8>>) -> Writes {
        [(name.to_owned(), value)].into()
    }

    /// What a store is after a batch.
    fn apply(rows: &mut Rows, writes: Writes) {
        for (key, value) in writes {
            match value {
                Some(value) => drop(rows.insert(key, value)),
                None => drop(rows.remove(&key)),
            }
        }
    }

    #[test]
    fn what_is_too_much_for_one_transaction_is_cut_by_count_and_by_size() {
        let many = (0..300).map(|i| (format!("weights/r{i:03}"), Some(b"1".to_vec())));
        let cut = parts(many.collect());
        assert_eq!(
            cut.iter().map(Writes::len).collect::<Vec<_>>(),
            [120, 120, 60]
        );
        let large = |i: usize| (i.to_string(), Some(vec![b'x'; MOST_BYTES / 2]));
        let cut = parts((0..5).map(large).collect());
        assert_eq!(
            cut.iter().map(Writes::len).collect::<Vec<_>>(),
            [1, 1, 1, 1, 1]
        );
        assert!(parts(Writes::new()).is_empty());
    }

    #[test]
    fn a_part_comes_back_from_the_journal() {
        let part: Writes = [
            ("weights/a".to_owned(), Some(b"1".to_vec())),
            ("agents/b".to_owned(), None),
        ]
        .into();
        assert_eq!(from_journal(&to_journal(&part)).unwrap(), part);
        assert!(from_journal(b"{").is_err());
    }

    #[test]
    fn a_large_value_comes_back_and_leaves_nothing() {
        let (mut rows, mut large) = (Rows::new(), Large::new());
        // Two bytes each, at an odd place: a cut by bytes alone would go through one.
        let text = format!("x{}", "é".repeat(PIECE));
        for value in [
            Some(text.clone().into_bytes()),
            Some(vec![b'y'; PIECE * 4]),
            Some(vec![b'y'; PIECE + 1]),
            Some(b"small".to_vec()),
            Some(vec![b'z'; PIECE * 2]),
            None,
        ] {
            let (writes, after) = lay_out(one("apps//a", value.clone()), &large);
            for part in parts(writes) {
                let journaled = to_journal(&part);
                assert!(journaled.len() < 1 << 20, "too much for etcd");
                apply(&mut rows, from_journal(&journaled).unwrap());
            }
            large = after;
            let (read, found) = gather(rows.clone()).unwrap();
            assert_eq!(read.get("apps//a"), value.as_ref());
            assert_eq!(found, large);
        }
        assert!(rows.is_empty(), "{:?}", rows.keys());
    }

    #[test]
    fn a_piece_that_is_missing_is_told() {
        let (writes, _) = lay_out(one("a", Some(vec![b'x'; PIECE * 2])), &Large::new());
        let mut rows = Rows::new();
        apply(&mut rows, writes);
        rows.remove("large/a/000001");
        let problem = gather(rows).unwrap_err();
        assert!(problem.starts_with("a should be in"), "{problem}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_batch_is_read_as_it_was_written(
            batches in proptest::collection::vec(
                proptest::collection::btree_map("[a-c](/[a-c])?", proptest::option::of(0_usize..3), 0..4),
                0..6,
            )
        ) {
            let (mut rows, mut large, mut model) = (Rows::new(), Large::new(), Rows::new());
            for batch in batches {
                let writes: Writes = batch
                    .into_iter()
                    .map(|(key, pieces)| (key, pieces.map(|n| vec![b'v'; n * PIECE + 1])))
                    .collect();
                apply(&mut model, writes.clone());
                let (out, after) = lay_out(writes, &large);
                large = after;
                for part in parts(out) {
                    apply(&mut rows, part);
                }
                let (read, found) = gather(rows.clone()).unwrap();
                prop_assert!(read == model);
                prop_assert_eq!(&found, &large);
            }
        }
    }
}
