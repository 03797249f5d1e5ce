//! The public DKIM key in the form of a TXT record.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pkcs8::der::asn1::BitStringRef;
use pkcs8::der::{Decode as _, Encode as _};
use pkcs8::spki::SubjectPublicKeyInfo;
use pkcs8::{PrivateKeyInfoRef, SecretDocument};

/// Minimum size of a key that verifiers accept (RFC 8301 section 3.2).
const MIN_BITS: usize = 1024;

/// Why there is no public key. Then no zone is printed, because other relays would reject every message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DkimError {
    /// The file cannot be read.
    #[error("cannot read the DKIM key {path} (`dkim.key_file`)")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file has another format.
    #[error("the DKIM key {path} is not an RSA private key in PEM form: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The key is too short.
    #[error("the DKIM key {path} has {bits} bits, but at least {MIN_BITS} are required (RFC 8301)")]
    Short {
        /// The file.
        path: PathBuf,
        /// Size of its modulus.
        bits: usize,
    },
}

/// Derives the public key (base64 of its SubjectPublicKeyInfo, RFC 6376 section 3.6.1, `p=`) from the private key in
/// PKCS#8 or PKCS#1.
pub(crate) fn public_key(path: &Path) -> Result<String, DkimError> {
    let pem = std::fs::read_to_string(path).map_err(|source| DkimError::Read {
        path: path.to_owned(),
        source,
    })?;
    let format = |reason: String| DkimError::Format {
        path: path.to_owned(),
        reason,
    };
    let (label, document) =
        SecretDocument::from_pem(&pem).map_err(|error| format(format!("not PEM: {error}")))?;
    let der = document.as_bytes();
    let (key, bits) = match label {
        "RSA PRIVATE KEY" => info_of_pkcs1(der),
        "PRIVATE KEY" => info_of_pkcs8(der),
        other => return Err(format(format!("found {other:?}"))),
    }
    .map_err(format)?;
    if bits < MIN_BITS {
        return Err(DkimError::Short {
            path: path.to_owned(),
            bits,
        });
    }
    Ok(STANDARD.encode(key))
}

fn info_of_pkcs8(der: &[u8]) -> Result<(Vec<u8>, usize), String> {
    let info = PrivateKeyInfoRef::try_from(der).map_err(|error| error.to_string())?;
    if info.algorithm.oid != pkcs1::ALGORITHM_OID {
        return Err(format!("found a key of algorithm {}", info.algorithm.oid));
    }
    info_of_pkcs1(info.private_key.as_bytes())
}

/// SubjectPublicKeyInfo, and the size of the modulus in bits.
fn info_of_pkcs1(der: &[u8]) -> Result<(Vec<u8>, usize), String> {
    let private = pkcs1::RsaPrivateKeyRef::from_der(der).map_err(|error| error.to_string())?;
    let public = private.public_key();
    let modulus = public.modulus.as_bytes();
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    let public = public.to_der().map_err(|error| error.to_string())?;
    let info = SubjectPublicKeyInfo {
        algorithm: pkcs1::ALGORITHM_ID,
        subject_public_key: BitStringRef::from_bytes(&public).map_err(|error| error.to_string())?,
    };
    Ok((info.to_der().map_err(|error| error.to_string())?, bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
    }

    /// `public.pem` was derived from the private key by OpenSSL.
    #[test]
    fn both_forms_of_a_key_give_what_openssl_gives() {
        let pem = std::fs::read_to_string(sample("public.pem")).unwrap();
        let expected: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        assert_eq!(public_key(&sample("pkcs8.pem")).unwrap(), expected);
        assert_eq!(public_key(&sample("pkcs1.pem")).unwrap(), expected);
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let garbage = dir.path().join("garbage");
        std::fs::write(&garbage, "v=DKIM1").unwrap();
        let refused = [
            dir.path().join("missing"),
            garbage,
            sample("public.pem"),
            sample("ed25519.pem"),
            sample("rsa-512.pem"),
        ]
        .map(|path| public_key(&path).unwrap_err().to_string())
        .join("\n")
        .replace(&dir.path().display().to_string(), "DIR")
        .replace(env!("CARGO_MANIFEST_DIR"), "CRATE");
        insta::assert_snapshot!(refused);
    }
}
