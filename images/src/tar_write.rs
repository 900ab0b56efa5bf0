//! Writes tar entries just as they are (pure): the same entry gives the same bytes, and what `unpack::tar` reads from them
//! is the entry again.
//!
//! POSIX headers, with PAX records for what does not fit: long names, large owners, nanoseconds, attributes. The `tar`
//! crate cleans names and link targets up on the way; a layer that is packed again must keep them.

use std::io::{self, Write};

use crate::unpack::tar::{Entry, Kind};

const BLOCK: usize = 512;
/// Largest numbers of seven and eleven octal digits.
const MAX_SMALL: u64 = 0o7_777_777;
const MAX_LARGE: u64 = 0o77_777_777_777;

/// The header of an entry, extended ones before it. A file's data follows by the caller, then `padding`.
pub(crate) fn header(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut records = Vec::new();
    let mut name = entry.path.clone();
    if entry.kind == Kind::Directory && !name.ends_with(b"/") {
        name.push(b'/');
    }
    if !fits(&name, 100) {
        record(&mut records, b"path", &name);
    }
    if !fits(&entry.link, 100) {
        record(&mut records, b"linkpath", &entry.link);
    }
    if entry.mtime.nanos != 0 || entry.mtime.secs < 0 {
        record(&mut records, b"mtime", mtime(entry).as_bytes());
    }
    for (key, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if u64::from(id) > MAX_SMALL {
            record(&mut records, key.as_bytes(), id.to_string().as_bytes());
        }
    }
    if entry.size > MAX_LARGE {
        record(&mut records, b"size", entry.size.to_string().as_bytes());
    }
    for (attribute, value) in &entry.xattrs {
        if attribute.contains(&b'=') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "an attribute's name has an equals sign, which archives cannot hold",
            ));
        }
        let key = [b"SCHILY.xattr.", attribute.as_slice()].concat();
        record(&mut records, &key, value);
    }
    let mut out = Vec::new();
    if !records.is_empty() {
        let extension = Entry {
            kind: Kind::File,
            path: b"PaxHeaders/entry".to_vec(),
            link: Vec::new(),
            size: records.len() as u64,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: crate::unpack::tar::Time::default(),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        };
        out.extend(block(&extension, b'x', &extension.path));
        out.extend_from_slice(&records);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    let flag = match entry.kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    };
    out.extend(block(entry, flag, &name));
    Ok(out)
}

/// What follows a file's data.
pub(crate) fn padding(size: u64) -> &'static [u8] {
    const ZEROES: [u8; BLOCK] = [0; BLOCK];
    let used = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    if used == 0 { &[] } else { &ZEROES[used..] }
}

/// The end of an archive.
pub(crate) fn end(mut to: impl Write) -> io::Result<()> {
    to.write_all(&[0; 2 * BLOCK])
}

/// Whether a name can stand in the header, for readers of every character set.
fn fits(name: &[u8], room: usize) -> bool {
    name.len() <= room && name.is_ascii()
}

fn block(entry: &Entry, flag: u8, name: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put(&mut block[..100], name);
    octal(&mut block[100..108], u64::from(entry.mode & 0o7777));
    octal(&mut block[108..116], u64::from(entry.uid));
    octal(&mut block[116..124], u64::from(entry.gid));
    octal(&mut block[124..136], entry.size);
    octal(
        &mut block[136..148],
        u64::try_from(entry.mtime.secs).unwrap_or(0),
    );
    block[156] = flag;
    put(&mut block[157..257], &entry.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], u64::from(entry.device.0));
    octal(&mut block[337..345], u64::from(entry.device.1));
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

/// As much of the name as there is room for.
fn put(field: &mut [u8], name: &[u8]) {
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name[..length]);
}

/// Octal digits and a NUL; the largest there are for what an extended header says.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let most = (1u64 << (3 * digits).min(63)) - 1;
    let text = format!("{:0digits$o}", value.min(most));
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    records.extend_from_slice(length.to_string().as_bytes());
    for part in [b" ".as_slice(), key, b"=", value, b"\n"] {
        records.extend_from_slice(part);
    }
}

/// Decimal seconds, as PAX has them: the fraction is added to whole seconds towards zero.
fn mtime(entry: &Entry) -> String {
    let (secs, nanos) = (entry.mtime.secs, entry.mtime.nanos);
    if secs < 0 && nanos > 0 {
        let whole = secs + 1;
        let sign = if whole == 0 { "-" } else { "" };
        return format!("{sign}{whole}.{:09}", 1_000_000_000 - nanos);
    }
    format!("{secs}.{nanos:09}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::unpack::UnpackLimits;
    use crate::unpack::tar::{TarReader, Time};

    fn names() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(
            any::<u8>().prop_map(|byte| if byte == 0 { b'x' } else { byte }),
            1..300,
        )
    }

    prop_compose! {
        fn entries()(
            kind in prop::sample::select(vec![
                Kind::File, Kind::HardLink, Kind::Symlink, Kind::CharDevice, Kind::BlockDevice, Kind::Directory,
                Kind::Fifo,
            ]),
            path in names(),
            link in names(),
            data in prop::collection::vec(any::<u8>(), 0..1500),
            mode in 0u32..0o10000,
            uid in 0u32..u32::MAX,
            gid in 0u32..u32::MAX,
            secs in -3_000_000_000i64..8_000_000_000,
            nanos in 0u32..1_000_000_000,
            device in (0u32..4096, 0u32..1_000_000),
            xattrs in prop::collection::vec(("user\\.[a-z]{1,20}", prop::collection::vec(any::<u8>(), 0..40)), 0..3),
        ) -> (Entry, Vec<u8>) {
            let data = if kind == Kind::File { data } else { Vec::new() };
            let is_device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
            let mut path = path;
            if kind == Kind::Directory {
                path.push(b'/');
            }
            let entry = Entry {
                kind,
                path,
                link: if matches!(kind, Kind::HardLink | Kind::Symlink) { link } else { Vec::new() },
                size: data.len() as u64,
                mode,
                uid,
                gid,
                mtime: Time { secs, nanos },
                device: if is_device { device } else { (0, 0) },
                sparse: None,
                xattrs: xattrs.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
            };
            (entry, data)
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(all in prop::collection::vec(entries(), 1..5)) {
            let mut archive = Vec::new();
            for (entry, data) in &all {
                archive.extend(header(entry).unwrap());
                archive.extend_from_slice(data);
                archive.extend_from_slice(padding(entry.size));
            }
            end(&mut archive).unwrap();
            let mut reader = TarReader::new(archive.as_slice(), UnpackLimits::default());
            for (entry, data) in &all {
                let read = reader.next().unwrap();
                prop_assert_eq!(read.as_ref(), Some(entry));
                let mut content = Vec::new();
                reader.copy_data(|piece| {
                    content.extend_from_slice(piece);
                    Ok(())
                }).unwrap();
                prop_assert_eq!(&content, data);
            }
            prop_assert_eq!(reader.next().unwrap(), None);
        }
    }

    #[test]
    fn others_read_it_as_well() {
        let entry = Entry {
            kind: Kind::Symlink,
            path: [b"d/".repeat(70), b"name".to_vec()].concat(),
            link: b"../a//b/".to_vec(),
            size: 0,
            mode: 0o777,
            uid: 5_000_000,
            gid: 7,
            mtime: Time {
                secs: 1_700_000_000,
                nanos: 5,
            },
            device: (0, 0),
            sparse: None,
            xattrs: vec![(b"user.x".to_vec(), b"y\n".to_vec())],
        };
        let mut archive = header(&entry).unwrap();
        end(&mut archive).unwrap();
        let mut read = tar::Archive::new(archive.as_slice());
        let found = read.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(found.path_bytes().as_ref(), entry.path);
        assert_eq!(found.link_name_bytes().unwrap().as_ref(), entry.link);
        assert_eq!(found.header().gid().unwrap(), 7);
    }
}
