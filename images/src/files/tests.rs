//! What honest archives become, and what hostile ones do not.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use lzma_rust2::{XzOptions, XzWriter};

use super::*;

fn bounds(max_bytes: u64) -> FileBounds {
    FileBounds {
        max_bytes,
        max_entries: 100,
        stop: Arc::default(),
    }
}

fn archive(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file
}

fn unpacked(format: ArchiveFormat, bytes: &[u8]) -> (tempfile::TempDir, Result<(), UnpackError>) {
    let dir = tempfile::tempdir().unwrap();
    let mut folder = FileFolder::open(dir.path(), bounds(1 << 20)).unwrap();
    let done = folder
        .unpack(format, &archive(bytes))
        .and_then(|()| folder.finish());
    (dir, done)
}

/// A tar file with these entries: type, path, link, mode, data.
fn tar(entries: &[(u8, &str, &str, u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, path, link, mode, data) in entries {
        let mut header = [0u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        // Somebody else's.
        header[108..115].copy_from_slice(b"0001747");
        header[116..123].copy_from_slice(b"0001747");
        header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        header[136..147].copy_from_slice(b"14716137000");
        header[156] = *kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        bytes.extend(header);
        bytes.extend(*data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A zip file with these members: name, mode of a Unix, data, deflated.
pub(crate) fn zip(members: &[(&str, u32, &[u8], bool)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, mode, data, deflated) in members {
        let offset = u32::try_from(bytes.len()).unwrap();
        let mut sum = flate2::Crc::new();
        sum.update(data);
        let packed = if *deflated {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        } else {
            data.to_vec()
        };
        let mut common = Vec::new();
        common.extend([20u8, 0, 0, 0, if *deflated { 8 } else { 0 }, 0, 0, 0]);
        common.extend([0x21, 0]);
        common.extend(sum.sum().to_le_bytes());
        common.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
        common.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        common.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        common.extend([0, 0]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&common);
        bytes.extend(name.as_bytes());
        bytes.extend(packed);
        directory.extend(b"PK\x01\x02\x14\x03");
        directory.extend(&common);
        directory.extend([0; 6]);
        directory.extend((mode << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let at = u32::try_from(bytes.len()).unwrap();
    let n = u16::try_from(members.len()).unwrap().to_le_bytes();
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(n);
    bytes.extend(n);
    bytes.extend(u32::try_from(directory.len()).unwrap().to_le_bytes());
    bytes.extend(at.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = XzWriter::new(Vec::new(), XzOptions::with_preset(0)).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// All that a tar file may be compressed with, by an encoder.
type Encoder = fn(&[u8]) -> Vec<u8>;
const COMPRESSED: [(ArchiveFormat, Encoder); 4] = [
    (ArchiveFormat::TarBzip2, bzip2),
    (ArchiveFormat::TarGzip, gzip),
    (ArchiveFormat::TarXz, xz),
    (ArchiveFormat::TarZstd, zstd),
];

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn archives_of_all_kinds_become_the_same_files() {
    let plain = tar(&[
        (b'5', "./", "", 0o700, b""),
        (b'5', "bin/", "", 0o755, b""),
        (b'0', "bin/tool", "", 0o4755, b"program"),
        (b'0', "deep/er/.wh.note", "", 0o640, b"text"),
        (b'2', "tool", "bin/tool", 0o777, b""),
        (b'1', "bin/same", "bin/tool", 0o755, b""),
    ]);
    let packed = COMPRESSED.map(|(format, encode)| (format, encode(&plain)));
    let zipped = zip(&[
        ("bin/", 0o040_755, b"", false),
        ("bin/tool", 0o104_755, b"program", true),
        ("deep/er/.wh.note", 0o100_640, b"text", false),
        ("tool", 0o120_777, b"bin/tool", false),
        ("bin/same", 0o100_755, b"program", false),
    ]);
    for (format, bytes) in [(ArchiveFormat::Tar, plain), (ArchiveFormat::Zip, zipped)]
        .into_iter()
        .chain(packed)
    {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        let mut folder = FileFolder::open(dir.path(), bounds(1 << 20)).unwrap();
        folder.unpack(format, &archive(&bytes)).unwrap();
        folder.finish().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(std::fs::read(at("tool")).unwrap(), b"program", "{format:?}");
        assert_eq!(std::fs::read(at("bin/same")).unwrap(), b"program");
        // A name like a whiteout's is a name; set-id bits are not taken over; the directory stays as it was.
        assert_eq!(std::fs::read(at("deep/er/.wh.note")).unwrap(), b"text");
        assert_eq!(mode_of(&at("bin/tool")), 0o755);
        assert_eq!(mode_of(&at("deep/er/.wh.note")), 0o640);
        assert_eq!(mode_of(&at("deep")), 0o755);
        assert_eq!(mode_of(dir.path()), 0o1777);
        let owner =
            std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(at("bin/tool")).unwrap());
        assert_eq!(owner, geteuid().as_raw());
    }
}

#[test]
fn one_archive_may_come_in_several_streams() {
    // Cut where no entry ends, as tools that compress on several processors do.
    let data = [7; 3000];
    let plain = tar(&[(b'0', "a", "", 0o644, &data), (b'0', "b", "", 0o644, b"b")]);
    let (first, rest) = plain.split_at(1000);
    for (format, encode) in COMPRESSED {
        let streams = [encode(first), encode(b""), encode(rest)].concat();
        let (dir, done) = unpacked(format, &streams);
        assert!(done.is_ok(), "{format:?}: {done:?}");
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), data);
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"b");
    }
    // What xz allows between streams.
    let padded = [xz(first), vec![0; 8], xz(rest)].concat();
    assert!(unpacked(ArchiveFormat::TarXz, &padded).1.is_ok());
}

#[test]
fn what_is_cut_short_or_damaged_in_a_compressed_archive_is_one_clear_error() {
    // Of bytes that do not compress, so that damage anywhere counts.
    let mut state = 1u32;
    let data: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(3000)
    .collect();
    let plain = tar(&[(b'0', "a", "", 0o644, &data)]);
    for (format, encode) in COMPRESSED {
        let whole = encode(&plain);
        for length in [0, 1, 5, 20, whole.len() / 2, whole.len() - 1] {
            let (_dir, done) = unpacked(format, &whole[..length]);
            let refused = done.unwrap_err();
            assert!(
                matches!(
                    refused,
                    UnpackError::Decompress(_) | UnpackError::Malformed(_)
                ),
                "{format:?} of {length} bytes: {refused:?}"
            );
        }
        // Any other archive than what the name says.
        for (other, encode) in COMPRESSED {
            if other != format {
                let (_dir, done) = unpacked(format, &encode(&plain));
                let refused = done.unwrap_err();
                assert!(
                    matches!(refused, UnpackError::Decompress(_)),
                    "{other:?} as {format:?}: {refused:?}"
                );
            }
        }
        if format == ArchiveFormat::TarZstd {
            // Its encoder was not asked for a checksum.
            continue;
        }
        let mut wrong = whole.clone();
        wrong[whole.len() / 2] ^= 0x10;
        let (_dir, done) = unpacked(format, &wrong);
        assert!(done.is_err(), "{format:?}");
    }
}

#[test]
fn any_byte_of_a_compressed_archive_may_be_wrong_without_more_than_a_refusal() {
    let plain = tar(&[(b'0', "a", "", 0o644, b"some words")]);
    for (format, encode) in COMPRESSED {
        let good = [encode(&plain[..700]), encode(&plain[700..])].concat();
        for at in 0..good.len() {
            for change in [0xff, 0x01, 0x80] {
                let mut wrong = good.clone();
                wrong[at] ^= change;
                let (dir, _) = unpacked(format, &wrong);
                assert!(std::fs::read_dir(dir.path()).unwrap().count() <= 1);
            }
        }
    }
}

#[test]
fn a_small_archive_that_inflates_to_much_is_refused_at_its_bound() {
    let zeros = vec![0; 4 << 20];
    let plain = tar(&[(b'0', "zeros", "", 0o644, &zeros)]);
    let hostile = tar(&[
        (b'2', "way", "/tmp", 0o777, b""),
        (b'0', "way/escaped", "", 0o644, b"x"),
    ]);
    for (format, encode) in COMPRESSED {
        let bomb = encode(&plain);
        assert!(bomb.len() < 64 << 10, "{format:?}: {}", bomb.len());
        let (_dir, done) = unpacked(format, &bomb);
        assert!(
            matches!(done, Err(UnpackError::TooMuch { .. })),
            "{format:?}: {done:?}"
        );
        let (_dir, done) = unpacked(format, &encode(&hostile));
        assert!(
            matches!(done, Err(UnpackError::Refused { .. })),
            "{format:?}: {done:?}"
        );
    }
}

#[test]
fn an_xz_stream_that_asks_for_a_huge_dictionary_does_not_get_it() {
    let mut packed = xz(&tar(&[(b'0', "a", "", 0o644, b"x")]));
    // The first block's header, after the 12 bytes of the stream's: its size, its flags, the filter LZMA2, the length of
    // the filter's properties, the dictionary's size as a power of two, and a checksum.
    assert_eq!(packed[12..16], [2, 0, 0x21, 1]);
    for (size, accepted) in [(30, true), (31, false), (40, false)] {
        packed[16] = size;
        let mut sum = flate2::Crc::new();
        sum.update(&packed[12..20]);
        packed[20..24].copy_from_slice(&sum.sum().to_le_bytes());
        let (_dir, done) = unpacked(ArchiveFormat::TarXz, &packed);
        match done {
            Ok(()) => assert!(accepted, "{size}"),
            Err(refused) => {
                assert!(!accepted, "{size}: {refused:?}");
                let said = refused.to_string();
                assert_eq!(said, "the archive has more than 128 MiB of xz dictionary");
            }
        }
    }
}

#[test]
fn an_archive_of_which_nothing_comes_can_be_given_up() {
    for (format, encode) in COMPRESSED {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = FileFolder::open(dir.path(), bounds(1000)).unwrap();
        folder.bounds.stop.store(true, Ordering::Relaxed);
        let refused = folder.unpack(format, &archive(&encode(b"")));
        let refused = refused.unwrap_err();
        assert!(
            matches!(&refused, UnpackError::Decompress(cause) if cause.to_string().contains("given up")),
            "{format:?}: {refused:?}"
        );
    }
}

#[test]
fn nothing_hostile_gets_out_or_in() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let file: &[u8] = b"x";
    for (what, bytes) in [
        ("a way up", tar(&[(b'0', "../escaped", "", 0o644, file)])),
        (
            "through a link",
            tar(&[
                (b'2', "way", target, 0o777, b""),
                (b'0', "way/escaped", "", 0o644, file),
            ]),
        ),
        (
            "a hard link through a link",
            tar(&[
                (b'2', "way", "/etc", 0o777, b""),
                (b'1', "stolen", "way/passwd", 0o644, b""),
            ]),
        ),
        ("a device", tar(&[(b'3', "null", "", 0o666, b"")])),
        ("a pipe", tar(&[(b'6', "pipe", "", 0o666, b"")])),
    ] {
        let (dir, done) = unpacked(ArchiveFormat::Tar, &bytes);
        let refused = done.unwrap_err();
        assert!(
            matches!(refused, UnpackError::Refused { .. }),
            "{what}: {refused}"
        );
        assert!(!dir.path().parent().unwrap().join("escaped").exists());
    }
    for (what, bytes) in [
        ("a way up", zip(&[("../escaped", 0o100_644, file, false)])),
        (
            "through a link",
            zip(&[
                ("way", 0o120_777, target.as_bytes(), false),
                ("way/escaped", 0o100_644, file, true),
            ]),
        ),
        ("a device", zip(&[("null", 0o020_666, b"", false)])),
    ] {
        let (_dir, done) = unpacked(ArchiveFormat::Zip, &bytes);
        let refused = done.unwrap_err();
        assert!(
            matches!(refused, UnpackError::Refused { .. }),
            "{what}: {refused}"
        );
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn too_much_is_refused_and_so_is_what_nobody_wants_any_more() {
    let zeros = vec![0; (1 << 20) + 1];
    let bomb = zip(&[("zeros", 0o100_644, &zeros, true)]);
    assert!(bomb.len() < 8192);
    let (_dir, done) = unpacked(ArchiveFormat::Zip, &bomb);
    assert!(matches!(done, Err(UnpackError::TooMuch { .. })), "{done:?}");
    // All of what is put there counts, not each of it.
    let dir = tempfile::tempdir().unwrap();
    let mut folder = FileFolder::open(dir.path(), bounds(1000)).unwrap();
    folder.write("a", 0o644, &[1u8; 600][..], 600).unwrap();
    let refused = folder.write("b", 0o644, &[1u8; 600][..], 600).unwrap_err();
    assert!(matches!(refused, UnpackError::TooMuch { .. }), "{refused}");
    let many: Vec<_> = (0..101).map(|n| format!("f{n}")).collect();
    let many: Vec<_> = many
        .iter()
        .map(|name| (name.as_str(), 0o100_644, &b""[..], false))
        .collect();
    let (_dir, done) = unpacked(ArchiveFormat::Zip, &zip(&many));
    assert!(matches!(done, Err(UnpackError::TooMuch { .. })), "{done:?}");
    let dir = tempfile::tempdir().unwrap();
    let mut folder = FileFolder::open(dir.path(), bounds(1000)).unwrap();
    folder.bounds.stop.store(true, Ordering::Relaxed);
    assert!(folder.write("a", 0o644, &b"x"[..], 1).is_err());
}

#[test]
fn a_zip_file_that_two_readers_would_read_differently_is_refused() {
    let good = zip(&[
        ("a", 0o100_644, b"one", false),
        ("b", 0o100_644, b"two", true),
    ]);
    assert!(unpacked(ArchiveFormat::Zip, &good).1.is_ok());
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    let directory = good.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    for (what, bytes) in [
        ("a member of two names", changed(30, b'c')),
        ("damaged data", changed(31, b'X')),
        ("members on one another", changed(directory + 42 + 47, 0)),
        ("a size that lies", changed(directory + 24, 2)),
        ("encryption", changed(directory + 8, 1)),
        ("something in front", [b"MZ", good.as_slice()].concat()),
        ("cut short", good[..good.len() - 1].to_vec()),
        ("nothing", Vec::new()),
    ] {
        let (_dir, done) = unpacked(ArchiveFormat::Zip, &bytes);
        assert!(done.is_err(), "{what} was accepted");
    }
    // Any byte may be wrong without more than a refusal.
    for (at, byte) in good.iter().enumerate() {
        let (_dir, _) = unpacked(ArchiveFormat::Zip, &changed(at, byte ^ 0xff));
    }
}

#[test]
fn one_gzip_stream_becomes_one_file_and_a_damaged_one_none() {
    let gzip = gzip(b"words");
    let dir = tempfile::tempdir().unwrap();
    let mut folder = FileFolder::open(dir.path(), bounds(1000)).unwrap();
    folder
        .inflate(&archive(&gzip), ".spool", "a/words", 0o644)
        .unwrap();
    assert_eq!(std::fs::read(dir.path().join("a/words")).unwrap(), b"words");
    assert!(!dir.path().join(".spool").exists());
    let cut = archive(&gzip[..gzip.len() - 3]);
    let refused = folder.inflate(&cut, ".other", "b", 0o644).unwrap_err();
    assert!(matches!(refused, UnpackError::Decompress(_)), "{refused}");
    assert!(!dir.path().join("b").exists());
}

#[test]
fn a_file_is_moved_in_place_of_whatever_is_there() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("bin/tool/full")).unwrap();
    std::fs::write(dir.path().join(".new"), "program").unwrap();
    let mut folder = FileFolder::open(dir.path(), bounds(1000)).unwrap();
    folder.adopt(".new", "bin/tool", 0o755).unwrap();
    folder.finish().unwrap();
    assert_eq!(
        std::fs::read(dir.path().join("bin/tool")).unwrap(),
        b"program"
    );
    assert_eq!(mode_of(&dir.path().join("bin/tool")), 0o755);
}
