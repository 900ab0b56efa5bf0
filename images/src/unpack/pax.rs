//! Numbers in headers and the records of extended headers (pure).
//!
//! A record that cannot be read is an error, never skipped: two readers must not differ in what an archive holds.

use super::sparse::SparseRecords;
use super::tar::Time;
use super::{UnpackError, printable};

/// What extension headers said about the next entry.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<SparseRecords>,
}

impl Extensions {
    /// `LENGTH KEY=VALUE\n`, again and again; LENGTH counts the whole record.
    pub(super) fn read_pax(&mut self, mut records: &[u8]) -> Result<(), UnpackError> {
        while !records.is_empty() {
            let space = records.iter().take(12).position(|byte| *byte == b' ');
            let space = space.ok_or_else(|| malformed("a PAX record has no length"))?;
            let length = decimal(&records[..space])
                .ok_or_else(|| malformed("a PAX record has a bad length"))?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            if length > records.len() || length < space + 3 || records[length - 1] != b'\n' {
                return Err(malformed("a PAX record's length is wrong"));
            }
            let (record, rest) = (&records[space + 1..length - 1], &records[length..]);
            let equals = record.iter().position(|byte| *byte == b'=');
            let equals = equals
                .filter(|at| *at > 0)
                .ok_or_else(|| malformed("a PAX record has no key"))?;
            self.take(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), UnpackError> {
        let bad = || {
            malformed(format!(
                "the PAX record {:?} has a bad value",
                printable(key)
            ))
        };
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => {
                self.size = Some(
                    decimal(value)
                        .filter(|size| *size < 1 << 62)
                        .ok_or_else(bad)?,
                )
            }
            b"uid" => self.uid = Some(pax_id(value).ok_or_else(bad)?),
            b"gid" => self.gid = Some(pax_id(value).ok_or_else(bad)?),
            b"mtime" => self.mtime = Some(pax_time(value).ok_or_else(bad)?),
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    let records = self.sparse.get_or_insert_default();
                    records.take(key, value).ok_or_else(bad)?;
                } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty()
                        || name.len() > 255
                        || name.contains(&0)
                        || value.len() > 65_536
                    {
                        return Err(bad());
                    }
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// A number in a header: octal text, or base 256 with the top bit set (two's complement).
pub(super) fn number(field: &[u8], name: &'static str) -> Result<i64, UnpackError> {
    let bad = || malformed(format!("a header's {name} is not a number"));
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative {
                byte & 0x7f
            } else {
                *byte
            };
            value = value.checked_mul(256).ok_or_else(bad)? | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| bad());
    }
    let text = field
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or(field)
        .trim_ascii();
    let mut value = 0i64;
    for digit in text {
        if !(b'0'..=b'7').contains(digit) {
            return Err(bad());
        }
        value = value
            .checked_mul(8)
            .and_then(|v| v.checked_add(i64::from(digit - b'0')))
            .ok_or_else(bad)?;
    }
    Ok(value)
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Beyond 32 bits an id would wrap to someone else's; the highest is the kernel's "no change".
fn pax_id(text: &[u8]) -> Option<u32> {
    u32::try_from(decimal(text)?)
        .ok()
        .filter(|id| *id != u32::MAX)
}

fn pax_time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let secs = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0u32;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let mut scale = 100_000_000;
        for digit in fraction.iter().take(9) {
            nanos += u32::from(digit - b'0') * scale;
            scale /= 10;
        }
    }
    Some(match (negative, nanos) {
        (false, _) => Time { secs, nanos },
        (true, 0) => Time {
            secs: -secs,
            nanos: 0,
        },
        (true, _) => Time {
            secs: -secs - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

pub(super) fn malformed(problem: impl Into<String>) -> UnpackError {
    UnpackError::Malformed(problem.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_base_256_are_read() {
        let mut field = [0u8; 12];
        field[0] = 0x80;
        field[11] = 7;
        assert_eq!(number(&field, "x").unwrap(), 7);
        assert_eq!(number(&[0xff; 12], "x").unwrap(), -1);
        assert_eq!(number(b"0000644\0", "x").unwrap(), 0o644);
        assert_eq!(number(b"        ", "x").unwrap(), 0);
        assert!(number(b"0000648\0", "x").is_err());
    }
}
