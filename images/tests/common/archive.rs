//! A builder of tar archives that writes what it is told, however evil: the tests' layers and the fuzzers' seeds.

/// An archive in the making. Names are written as they are.
#[derive(Default, Clone)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    pax: Vec<(String, Vec<u8>)>,
    owner: (u64, u64),
    mode: Option<u32>,
    declared: Option<u64>,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A PAX record for the next entry.
    pub(crate) fn pax(mut self, key: &str, value: &[u8]) -> Self {
        self.pax.push((key.into(), value.to_vec()));
        self
    }

    /// A PAX record for all entries that follow.
    pub(crate) fn global_pax(mut self, key: &str, value: &[u8]) -> Self {
        self.push(b'g', b"global", b"", &record(key, value), (0, 0));
        self
    }

    /// The next entry's name (`b'L'`) or link target (`b'K'`) as GNU tar writes long ones.
    pub(crate) fn gnu_long(mut self, kind: u8, name: &[u8]) -> Self {
        self.push(kind, b"././@LongLink", b"", &[name, b"\0"].concat(), (0, 0));
        self
    }

    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// The size in the next entry's header, whatever its data.
    pub(crate) fn declare(mut self, size: u64) -> Self {
        self.declared = Some(size);
        self
    }

    pub(crate) fn file(self, path: &(impl AsRef<[u8]> + ?Sized), data: &[u8]) -> Self {
        self.entry(b'0', path, "", data, (0, 0))
    }

    pub(crate) fn dir(self, path: &(impl AsRef<[u8]> + ?Sized)) -> Self {
        self.entry(b'5', path, "", b"", (0, 0))
    }

    pub(crate) fn symlink(
        self,
        path: &(impl AsRef<[u8]> + ?Sized),
        target: &(impl AsRef<[u8]> + ?Sized),
    ) -> Self {
        self.entry(b'2', path, target, b"", (0, 0))
    }

    pub(crate) fn hard_link(
        self,
        path: &(impl AsRef<[u8]> + ?Sized),
        target: &(impl AsRef<[u8]> + ?Sized),
    ) -> Self {
        self.entry(b'1', path, target, b"", (0, 0))
    }

    pub(crate) fn device(
        self,
        path: &(impl AsRef<[u8]> + ?Sized),
        kind: u8,
        major: u32,
        minor: u32,
    ) -> Self {
        self.entry(kind, path, "", b"", (major, minor))
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(crate) fn entry(
        mut self,
        kind: u8,
        path: &(impl AsRef<[u8]> + ?Sized),
        link: &(impl AsRef<[u8]> + ?Sized),
        data: &[u8],
        device: (u32, u32),
    ) -> Self {
        let (path, link) = (path.as_ref(), link.as_ref());
        let mut records = std::mem::take(&mut self.pax);
        if path.len() > 99 {
            records.push(("path".into(), path.to_vec()));
        }
        if link.len() > 99 {
            records.push(("linkpath".into(), link.to_vec()));
        }
        if !records.is_empty() {
            let body: Vec<u8> = records
                .iter()
                .flat_map(|(key, value)| record(key, value))
                .collect();
            let (declared, owner, mode) = (
                self.declared.take(),
                std::mem::take(&mut self.owner),
                self.mode.take(),
            );
            self.push(b'x', b"pax", b"", &body, (0, 0));
            (self.declared, self.owner, self.mode) = (declared, owner, mode);
        }
        self.push(kind, path, link, data, device);
        self.owner = (0, 0);
        self.mode = None;
        self.declared = None;
        self
    }

    fn push(&mut self, kind: u8, path: &[u8], link: &[u8], data: &[u8], device: (u32, u32)) {
        let mut header = tar::Header::new_ustar();
        let put = |bytes: &mut [u8], text: &[u8]| {
            let length = text.len().min(bytes.len());
            bytes[..length].copy_from_slice(&text[..length]);
        };
        put(&mut header.as_mut_bytes()[..99], path);
        put(&mut header.as_mut_bytes()[157..256], link);
        header.as_mut_bytes()[156] = kind;
        header.set_size(self.declared.unwrap_or(data.len() as u64));
        header.set_mode(
            self.mode
                .unwrap_or(if kind == b'5' { 0o755 } else { 0o644 }),
        );
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(1_000_000_000);
        if device != (0, 0) || matches!(kind, b'3' | b'4') {
            header.set_device_major(device.0).unwrap();
            header.set_device_minor(device.1).unwrap();
        }
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    pub(crate) fn done(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}

/// One PAX record.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
