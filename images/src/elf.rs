//! Just enough of ELF (pure) to tell whether a file runs in an image that holds nothing else.

/// What the header of a program says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// In Go's words, such as `amd64`.
    pub(crate) architecture: &'static str,
    /// The loader that it needs, if it is linked dynamically.
    pub(crate) interpreter: Option<String>,
}

/// Reads a program's first bytes (64 KiB hold the headers of any real one); the error says why it is none.
pub(crate) fn parse(bytes: &[u8]) -> Result<Program, &'static str> {
    if bytes.len() < 64 || &bytes[..4] != b"\x7fELF" {
        return Err("it is not an ELF program");
    }
    if bytes[4] != 2 || bytes[5] != 1 {
        return Err("it is not a 64 bit little-endian program");
    }
    let kind = u16_at(bytes, 16).ok_or("its header is cut short")?;
    if kind != 2 && kind != 3 {
        return Err("it is an object file or a core dump, not a program");
    }
    let architecture = match u16_at(bytes, 18).ok_or("its header is cut short")? {
        62 => "amd64",
        183 => "arm64",
        243 => "riscv64",
        21 => "ppc64le",
        258 => "loong64",
        _ => return Err("it is for an unknown kind of machine"),
    };
    let table = usize::try_from(u64_at(bytes, 32).ok_or("its header is cut short")?)
        .map_err(|_| "its header lies")?;
    let entry_size = usize::from(u16_at(bytes, 54).ok_or("its header is cut short")?);
    let count = usize::from(u16_at(bytes, 56).ok_or("its header is cut short")?);
    if entry_size < 56 {
        return Err("its program headers have an odd size");
    }
    let mut interpreter = None;
    for index in 0..count {
        let start = index
            .checked_mul(entry_size)
            .and_then(|offset| table.checked_add(offset));
        let header = start.and_then(|start| bytes.get(start..start.checked_add(56)?));
        let header = header.ok_or("its program headers lie outside of its first 64 KiB")?;
        const PT_INTERP: u32 = 3;
        if u32::from_le_bytes([header[0], header[1], header[2], header[3]]) == PT_INTERP {
            let offset = u64_at(header, 8).and_then(|value| usize::try_from(value).ok());
            let length = u64_at(header, 32)
                .and_then(|value| usize::try_from(value).ok())
                .unwrap_or(0)
                .min(4096);
            let name = offset
                .and_then(|start| bytes.get(start..start.checked_add(length)?))
                .unwrap_or(b"?");
            let name = name.split(|byte| *byte == 0).next().unwrap_or(name);
            interpreter = Some(String::from_utf8_lossy(name).into_owned());
        }
    }
    Ok(Program {
        architecture,
        interpreter,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with one program header of the given kind.
    fn program(machine: u16, header_kind: u32) -> Vec<u8> {
        let mut bytes = vec![0u8; 256];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16..18].copy_from_slice(&2u16.to_le_bytes());
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&header_kind.to_le_bytes());
        bytes[72..80].copy_from_slice(&128u64.to_le_bytes());
        bytes[96..104].copy_from_slice(&6u64.to_le_bytes());
        bytes[128..134].copy_from_slice(b"/ld.x\0");
        bytes
    }

    #[test]
    fn static_and_dynamic_programs_are_told_apart() {
        assert_eq!(
            parse(&program(62, 1)),
            Ok(Program {
                architecture: "amd64",
                interpreter: None
            })
        );
        assert_eq!(
            parse(&program(183, 3)).unwrap().interpreter.as_deref(),
            Some("/ld.x")
        );
    }

    #[test]
    fn what_is_no_program_is_said_so() {
        for bytes in [
            &b"#!/bin/sh\n"[..],
            b"",
            &program(9999, 1),
            &program(62, 1)[..100],
        ] {
            assert!(parse(bytes).is_err());
        }
        let mut far = program(62, 1);
        far[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(parse(&far).is_err());
    }
}
