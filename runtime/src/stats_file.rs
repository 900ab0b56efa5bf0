//! Reading the kernel's small text files through a descriptor that is kept: from the beginning, into a buffer that is
//! used again, so that a sample of a thousand containers does not allocate ten thousand times.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Longest text that is read; the kernel's are far below.
const MAX_BYTES: usize = 1 << 20;

/// The whole text, from the beginning; `None` when what it tells of is gone.
pub(crate) fn read<'a>(file: &File, buffer: &'a mut Vec<u8>) -> Option<&'a str> {
    if buffer.len() < 8192 {
        buffer.resize(8192, 0);
    }
    let mut length = 0;
    loop {
        match file.read_at(&mut buffer[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => {
                length += read;
                // These files come a page at a time, in whole records: half a page is all there is.
                if length < 2048 {
                    break;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // ENODEV: the cgroup is gone, and with it the answer.
            Err(_) => return None,
        }
        if length == buffer.len() {
            if length >= MAX_BYTES {
                break;
            }
            buffer.resize(length * 2, 0);
        }
    }
    std::str::from_utf8(&buffer[..length]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_whole_whatever_its_length_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut buffer = Vec::new();
        for length in [0, 1, 2047, 2048, 8192, 8193, 40_000] {
            let path = dir.path().join("text");
            let text = "x".repeat(length);
            std::fs::write(&path, &text).unwrap();
            let file = File::open(&path).unwrap();
            for _ in 0..2 {
                assert_eq!(read(&file, &mut buffer), Some(text.as_str()), "{length}");
            }
        }
    }
}
