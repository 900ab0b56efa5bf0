//! Archives as tools write them, and as nobody should.

use super::*;

fn read(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, UnpackError> {
    let mut reader = TarReader::new(bytes, UnpackLimits::default());
    let mut found = Vec::new();
    while let Some(entry) = reader.next()? {
        let mut data = Vec::new();
        reader.copy_data(|piece| {
            data.extend_from_slice(piece);
            Ok(())
        })?;
        found.push((entry, data));
    }
    reader.drain()?;
    Ok(found)
}

fn header(path: &str, flag: u8, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.as_mut_bytes()[156] = flag;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_cksum();
    header
}

fn block(path: &str, flag: u8, data: &[u8]) -> Vec<u8> {
    let mut out = header(path, flag, data.len() as u64).as_bytes().to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let body = format!(" {key}={value}\n");
    let mut length = body.len() + 1;
    while length.to_string().len() + body.len() != length {
        length += 1;
    }
    format!("{length}{body}").into_bytes()
}

#[test]
fn plain_entries_are_read() {
    let found = read(
        &[
            block("a", b'0', b"hello"),
            block("d/", 0, b""),
            vec![0; 1024],
        ]
        .concat(),
    )
    .unwrap();
    assert_eq!(found[0].1, b"hello");
    assert_eq!(
        (found[0].0.uid, found[0].0.gid, found[0].0.mtime.secs),
        (1, 2, 3)
    );
    assert_eq!(found[1].0.kind, Kind::Directory);
}

#[test]
fn long_names_of_both_kinds_are_read() {
    let long = "d/".repeat(80) + "file";
    let pax = [
        block("x", b'x', &record("path", &long)),
        block("short", b'0', b"1"),
    ]
    .concat();
    let gnu = [
        block("././@LongLink", b'L', format!("{long}\0").as_bytes()),
        block("short", b'0', b"1"),
    ]
    .concat();
    for archive in [pax, gnu] {
        assert_eq!(read(&archive).unwrap()[0].0.path, long.as_bytes());
    }
}

#[test]
fn a_pax_size_overrides_the_headers_so_that_data_is_never_read_as_headers() {
    // CVE-2025-62518: header says 0, PAX says 1024; the two blocks are data, not an entry called "smuggled".
    let inner = block("smuggled", b'0', b"x");
    let archive = [
        block("x", b'x', &record("size", &inner.len().to_string())),
        block("a", b'0', b""),
        inner.clone(),
    ]
    .concat();
    let found = read(&archive).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1, inner);
}

#[test]
fn times_owners_and_xattrs_come_from_pax() {
    let records = [
        record("mtime", "-1.25"),
        record("uid", "4000000000"),
        record("SCHILY.xattr.user.a", "b=c"),
        record("comment", "x"),
    ];
    let found =
        read(&[block("x", b'x', &records.concat()), block("a", b'0', b"")].concat()).unwrap();
    assert_eq!(
        found[0].0.mtime,
        Time {
            secs: -2,
            nanos: 750_000_000
        }
    );
    assert_eq!(found[0].0.uid, 4_000_000_000);
    assert_eq!(found[0].0.xattrs, [(b"user.a".to_vec(), b"b=c".to_vec())]);
}

#[test]
fn malformed_archives_are_refused() {
    let pax = |records: &[u8]| [block("x", b'x', records), block("a", b'0', b"")].concat();
    let mut damaged = block("a", b'0', b"");
    damaged[0] = b'b';
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("bad checksum", damaged),
        ("half a header", block("a", b'0', b"")[..100].to_vec()),
        ("cut data", block("a", b'0', &[1; 2000])[..1000].to_vec()),
        ("length beyond the data", pax(b"99 path=a\n")),
        ("length too short", pax(b"5 path=a\n")),
        ("no newline", pax(b"9 path=abc")),
        ("no equals", pax(b"8 pathx\n")),
        ("no length", pax(b"path=a\n")),
        ("negative size", pax(&record("size", "-1"))),
        ("huge size", pax(&record("size", "99999999999999999999"))),
        ("wrapping uid", pax(&record("uid", "4294967296"))),
        ("uid of no change", pax(&record("uid", "4294967295"))),
        ("nul in the name", pax(&record("path", "a\0b"))),
        (
            "sparse without a map",
            pax(&record("GNU.sparse.major", "1")),
        ),
        ("unknown sparse record", pax(&record("GNU.sparse.x", "1"))),
        (
            "sparse of a later version",
            pax(&[
                record("GNU.sparse.major", "2"),
                record("GNU.sparse.size", "0"),
            ]
            .concat()),
        ),
        (
            "sparse map of other data",
            pax(&[
                record("GNU.sparse.size", "9"),
                record("GNU.sparse.map", "0,9"),
            ]
            .concat()),
        ),
        (
            "sparse map cut short",
            [
                block(
                    "x",
                    b'x',
                    &[
                        record("GNU.sparse.major", "1"),
                        record("GNU.sparse.minor", "0"),
                        record("GNU.sparse.realsize", "9"),
                    ]
                    .concat(),
                ),
                block("a", b'0', b"1000000\n0\n"),
            ]
            .concat(),
        ),
        ("old sparse of other data", block("a", b'S', b"data")),
        ("unknown type", block("a", b'Z', b"")),
        (
            "extension at the end",
            block("x", b'x', &record("path", "a")),
        ),
        (
            "many extensions",
            block("x", b'x', &record("path", "a")).repeat(100),
        ),
        (
            "huge extension",
            header("x", b'x', 1 << 40).as_bytes().to_vec(),
        ),
        ("not a tar", vec![b'x'; 512]),
    ];
    for (what, archive) in cases {
        assert!(read(&archive).is_err(), "{what} was accepted");
    }
}
