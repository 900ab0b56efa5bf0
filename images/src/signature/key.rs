//! One public key: ECDSA on P-256, as cosign makes them, or Ed25519.

use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use crate::digest::Digest;

/// What stands before the point of a P-256 key in its file: SEQUENCE, the two algorithm ids, BIT STRING. There is one
/// way to write it in DER, so that this is compared rather than parsed.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same for Ed25519.
const ED25519_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A key that may sign images.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    kind: Kind,
    point: Vec<u8>,
    /// Names it in messages and on the disk.
    pub(crate) id: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    P256,
    Ed25519,
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({:?}, {})", self.kind, self.id)
    }
}

impl PublicKey {
    /// Reads a PEM file with one public key.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| {
            "it holds no \"-----BEGIN PUBLIC KEY-----\"; use the .pub file that cosign generate-key-pair wrote"
        })?;
        let id = Digest::of(&der);
        let (kind, point) = if let Some(point) = der.strip_prefix(&P256[..])
            && point.len() == 65
            && point[0] == 4
        {
            (Kind::P256, point)
        } else if let Some(point) = der.strip_prefix(&ED25519_PREFIX[..])
            && point.len() == 32
        {
            (Kind::Ed25519, point)
        } else {
            return Err(
                "it is neither an ECDSA P-256 nor an Ed25519 key, the two kinds supported".into(),
            );
        };
        Ok(Self {
            kind,
            point: point.to_vec(),
            id,
        })
    }

    /// Whether this key made `signature` over `message`.
    pub(crate) fn made(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.kind {
            Kind::P256 => &ECDSA_P256_SHA256_ASN1,
            Kind::Ed25519 => &ED25519,
        };
        UnparsedPublicKey::new(algorithm, &self.point)
            .verify(message, signature)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    fn decode(text: &str) -> Vec<u8> {
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap()
    }

    /// Keys and signatures that OpenSSL made.
    const VECTORS: [(&str, &str); 2] =
        [(P256_PEM, P256_SIGNATURE), (ED25519_PEM, ED25519_SIGNATURE)];
    const MESSAGE: &[u8] = b"a message\n";
    const P256_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAETZuClD3ttD83Oyx9OJYeQV0A2gXM\n\
sFcVuQB5ce9X0F+d/TrlmiafJJLBQiowPHJuVkJDSn6LYQOyQMPFKlHgmQ==\n\
-----END PUBLIC KEY-----\n";
    const P256_SIGNATURE: &str = "MEYCIQCsSsGpNxCYX91rexWaCnUiW/zaQAG09kxyL5lK+SFkaQIhAKq7zVOd7dDl7nnaJLgZbBRO+FjXI2M/BXZlJZgA5oVX";
    const ED25519_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
MCowBQYDK2VwAyEAQnY03HaO75tDraJoRi3cOqY8ZB6J03cfDh/kConIR/g=\n\
-----END PUBLIC KEY-----\n";
    const ED25519_SIGNATURE: &str =
        "3IZqrHqhFsFMgWoTBQnEdDQzAz+SFCydncx6WHs82CKfuqp8PCqoPt/fjLufbsOUeXNmI2FSXWVcQ2xYHUmIAw==";

    #[test]
    fn signatures_that_another_program_made_are_verified() {
        for (pem, signature) in VECTORS {
            let key = PublicKey::from_pem(pem.as_bytes()).unwrap();
            let signature = decode(signature);
            assert!(key.made(MESSAGE, &signature), "{pem}");
            assert!(!key.made(b"another message\n", &signature), "{pem}");
            for at in 0..signature.len() {
                let mut wrong = signature.clone();
                wrong[at] ^= 1;
                assert!(!key.made(MESSAGE, &wrong), "{pem} byte {at}");
            }
            assert!(!key.made(MESSAGE, b"") && !key.made(MESSAGE, &[0; 64]));
        }
    }

    #[test]
    fn one_key_did_not_make_what_the_other_made() {
        let [(pem, _), (_, signature)] = VECTORS;
        let key = PublicKey::from_pem(pem.as_bytes()).unwrap();
        assert!(!key.made(MESSAGE, &decode(signature)));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let pem = |der: &[u8]| {
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
        };
        let point = [&P256[..], &[4; 65]].concat();
        assert!(PublicKey::from_pem(pem(&point).as_bytes()).is_ok());
        for bad in [
            String::new(),
            "ssh-ed25519 AAAA".into(),
            pem(b""),
            pem(&point[..90]),
            pem(&[&P256[..], &[2; 65]].concat()),
            pem(&[&ED25519_PREFIX[..], &[1; 33]].concat()),
            P256_PEM.replace("PUBLIC", "PRIVATE"),
        ] {
            assert!(
                PublicKey::from_pem(bad.as_bytes()).is_err(),
                "{bad} was accepted"
            );
        }
    }
}
