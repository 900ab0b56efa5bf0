//! How inputs are changed: bytes, JSON, archives.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::builder::record;

const BLOCK: usize = 512;

/// Numbers that have broken parsers.
const NUMBERS: [&str; 16] = [
    "0",
    "-1",
    "1",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "99999999999999999999999",
];

fn range(length: usize, rng: &mut StdRng) -> std::ops::Range<usize> {
    let from = rng.random_range(0..=length);
    let most = if rng.random_ratio(1, 4) {
        length - from
    } else {
        (length - from).min(8)
    };
    from..from + rng.random_range(0..=most)
}

/// Changes bytes, with words that mean something to the reader.
pub(super) fn text(input: &mut Vec<u8>, other: &[u8], words: &[&str], rng: &mut StdRng) {
    let at = rng.random_range(0..=input.len());
    match rng.random_range(0..10) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 => drop(input.drain(range(input.len(), rng))),
        3 => {
            let piece = input[range(input.len(), rng)].to_vec();
            input.splice(at..at, piece);
        }
        4 => {
            let piece = other[range(other.len(), rng)].to_vec();
            input.splice(at..at, piece);
        }
        5 => input.truncate(at),
        6 => {
            // A number by a worse one.
            let from = input
                .iter()
                .skip(at)
                .position(u8::is_ascii_digit)
                .map(|n| n + at);
            if let Some(from) = from {
                let length = input[from..]
                    .iter()
                    .take_while(|b| b.is_ascii_digit())
                    .count();
                let number = NUMBERS[rng.random_range(0..NUMBERS.len())].bytes();
                input.splice(from..from + length, number);
            }
        }
        7 => {
            let piece: Vec<u8> = (0..rng.random_range(1..5)).map(|_| rng.random()).collect();
            input.splice(at..at, piece);
        }
        8 if at < input.len() => {
            let piece = vec![input[at]; 1 << rng.random_range(1..9)];
            input.splice(at..at, piece);
        }
        _ => {
            if let Some(word) = words.choose(rng) {
                let replaced = if rng.random() {
                    range(input.len(), rng)
                } else {
                    at..at
                };
                input.splice(replaced, word.bytes());
            }
        }
    }
}

/// Changes one value in a document, keeping it JSON; bytes if it is none.
pub(super) fn json(input: &mut Vec<u8>, other: &[u8], words: &[&str], rng: &mut StdRng) {
    let parsed = if rng.random_ratio(3, 4) {
        serde_json::from_slice::<Value>(input).ok()
    } else {
        None
    };
    let Some(mut document) = parsed else {
        return text(input, other, words, rng);
    };
    let mut nodes = 0;
    visit(&mut document, &mut |_| {
        nodes += 1;
    });
    let chosen = rng.random_range(0..nodes);
    let mut n = 0;
    visit(&mut document, &mut |value| {
        if n == chosen {
            change(value, words, rng);
        }
        n += 1;
    });
    *input = document.to_string().into_bytes();
}

fn visit(value: &mut Value, each: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| visit(item, each)),
        Value::Object(fields) => fields.values_mut().for_each(|field| visit(field, each)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    each(value);
}

fn change(value: &mut Value, words: &[&str], rng: &mut StdRng) {
    let word = words.choose(rng).copied().unwrap_or("");
    if let Value::Object(fields) = value
        && rng.random_ratio(2, 3)
    {
        let name = fields
            .keys()
            .nth(rng.random_range(0..=fields.len()))
            .cloned();
        match (name, rng.random_range(0..3)) {
            (Some(name), 0) => drop(fields.remove(&name)),
            (Some(name), 1) => {
                let moved = fields.remove(&name).unwrap_or_default();
                fields.insert(word.into(), moved);
            }
            (_, _) => drop(fields.insert(word.into(), json!(word))),
        }
        return;
    }
    if let Value::Array(items) = value
        && rng.random_ratio(2, 3)
    {
        if let Some(item) = items.choose(rng).cloned() {
            let times = 1 << rng.random_range(0..9);
            items.extend(std::iter::repeat_n(item, times));
        }
        return;
    }
    *value = match rng.random_range(0..10) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!([]),
        3 => json!({}),
        4 => json!(i64::MAX),
        5 => json!(-1),
        6 => json!(u64::from(rng.random::<u32>())),
        7 => json!("x".repeat(1 << rng.random_range(0..14))),
        8 => json!("\n\u{1b}[31m"),
        _ => json!(word),
    };
}

/// Where an archive's blocks of header and data begin and end, as a plain reader finds them.
fn members(archive: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + BLOCK <= archive.len() && archive[at..at + BLOCK].iter().any(|byte| *byte != 0) {
        let digits = archive[at + 124..at + 136]
            .iter()
            .filter(|byte| (b'0'..=b'7').contains(byte));
        let size = digits.fold(0usize, |size, digit| {
            size.saturating_mul(8)
                .saturating_add(usize::from(digit - b'0'))
        });
        let end = at
            .saturating_add(BLOCK)
            .saturating_add(size.min(1 << 40).next_multiple_of(BLOCK));
        let end = end.min(archive.len());
        found.push(at..end);
        at = end;
    }
    found
}

/// Makes every header's checksum right.
pub(super) fn mend(archive: &mut [u8]) {
    for member in members(archive) {
        let header = &mut archive[member.start..member.start + BLOCK];
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Changes an archive by whole entries, by fields, or by bytes; nearly always with checksums that are right.
pub(super) fn archive(input: &mut Vec<u8>, other: &[u8], names: &[&str], rng: &mut StdRng) {
    let all = members(input);
    let Some(member) = all.choose(rng).cloned() else {
        return text(input, other, names, rng);
    };
    let name = names.choose(rng).copied().unwrap_or("x").as_bytes();
    let header = member.start;
    match rng.random_range(0..12) {
        0 => drop(input.drain(member)),
        1 => {
            let copy = input[member].to_vec();
            let to = all.choose(rng).map_or(0, |to| to.start);
            input.splice(to..to, copy);
        }
        2 => {
            let theirs = members(other)
                .choose(rng)
                .map(|theirs| other[theirs.clone()].to_vec());
            let piece = theirs.unwrap_or_default();
            input.splice(header..header, piece);
        }
        3 | 4 => put(&mut input[header..header + 100], name),
        5 => put(&mut input[header + 157..header + 257], name),
        6 => {
            let types = b"0123457xgLKSDZ\0";
            input[header + 156] = types[rng.random_range(0..types.len())];
        }
        7 => {
            // mode, uid, gid, size, mtime, device numbers
            let fields = [
                100..108,
                108..116,
                116..124,
                124..136,
                136..148,
                329..337,
                337..345,
            ];
            let field = fields[rng.random_range(0..fields.len())].clone();
            number(&mut input[header..header + BLOCK][field], rng);
        }
        8 => {
            let body = pax_body(name, rng);
            let mut extension = vec![0; BLOCK];
            extension[..3].copy_from_slice(b"pax");
            extension[100..108].copy_from_slice(b"0000644\0");
            extension[124..136].copy_from_slice(format!("{:011o}\0", body.len()).as_bytes());
            extension[156] = if rng.random_ratio(1, 8) { b'g' } else { b'x' };
            extension[257..265].copy_from_slice(b"ustar\x0000");
            extension.extend_from_slice(&body);
            extension.resize(extension.len().next_multiple_of(BLOCK), 0);
            input.splice(header..header, extension);
        }
        9 => {
            let magics: [&[u8; 8]; 3] = [b"ustar\x0000", b"ustar  \0", b"\0\0\0\0\0\0\0\0"];
            input[header + 257..header + 265].copy_from_slice(magics[rng.random_range(0..3)]);
            put(&mut input[header + 345..header + 500], name);
        }
        10 => {
            let at = header + rng.random_range(0..member.len());
            input[at] ^= 1 << rng.random_range(0..8);
        }
        _ => {
            let at = rng.random_range(0..=input.len());
            let cut = if rng.random() { at } else { at / BLOCK * BLOCK };
            input.truncate(cut);
        }
    }
    if rng.random_ratio(31, 32) {
        mend(input);
    }
}

fn put(field: &mut [u8], text: &[u8]) {
    field.fill(0);
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

fn number(field: &mut [u8], rng: &mut StdRng) {
    field.fill(0);
    match rng.random_range(0..5) {
        // Base 256, of either sign.
        0 => {
            rng.fill(&mut *field);
            field[0] |= 0x80;
        }
        1 => field.fill(0xff),
        2 => {
            let small = format!("{:o}", rng.random_range(0..4096u32));
            put(field, small.as_bytes());
        }
        3 => field.fill(b'7'),
        _ => {
            let junk = ["", " 644 ", "-1", "8", "0x10", "1 1"];
            put(field, junk[rng.random_range(0..junk.len())].as_bytes());
        }
    }
}

fn pax_body(name: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let keys = [
        "path",
        "linkpath",
        "size",
        "uid",
        "gid",
        "mtime",
        "SCHILY.xattr.user.x",
        "SCHILY.xattr.trusted.overlay.opaque",
        "SCHILY.xattr.security.capability",
        "SCHILY.xattr.system.posix_acl_access",
        "SCHILY.xattr.\n\0\x1b[31m",
        "GNU.sparse.major",
        "comment",
        "",
    ];
    let mut body = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let key = keys[rng.random_range(0..keys.len())];
        let value = match rng.random_range(0..3) {
            0 => NUMBERS[rng.random_range(0..NUMBERS.len())].as_bytes(),
            1 => name,
            _ => b"1.5",
        };
        body.extend(record(key, value));
    }
    if rng.random_ratio(1, 6) && !body.is_empty() {
        let at = rng.random_range(0..body.len());
        body[at] = rng.random();
    }
    body
}
