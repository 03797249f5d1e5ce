//! The lab's certificate authority: created once, stored in the lab's directory, trusted by every relay.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};

use lab_front::paths::Paths;

/// The authority with its key.
pub(super) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    /// Certificate of the authority, PEM.
    pub(super) certificate: String,
}

/// A certificate with its key, PEM.
pub(super) struct Signed {
    /// The certificate, then the authority's.
    pub(super) chain: String,
    /// The key.
    pub(super) key: String,
}

impl Ca {
    /// Reads the authority, or creates it if there is none.
    pub(super) fn ensure(paths: &Paths) -> anyhow::Result<Self> {
        let (certificate, key) = (paths.ca_certificate(), paths.ca_key());
        if !certificate.exists() || !key.exists() {
            make(&certificate, &key).context("cannot create the lab's CA")?;
        }
        let certificate = fs::read_to_string(&certificate).context("cannot read the lab's CA")?;
        let key =
            KeyPair::from_pem(&fs::read_to_string(&key)?).context("cannot read the key of the lab's CA")?;
        // rcgen takes the issuer's name from the parameters, which are the same as when the certificate was created.
        Ok(Self {
            issuer: Issuer::new(parameters()?, key),
            certificate,
        })
    }

    /// Signs a certificate for these names.
    pub(super) fn sign(&self, names: &[String]) -> anyhow::Result<Signed> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(names)?;
        validity(&mut parameters);
        if let Some(name) = names.first() {
            parameters
                .distinguished_name
                .push(DnType::CommonName, name.as_str());
        }
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        Ok(Signed {
            chain: format!("{}{}", certificate.pem(), self.certificate),
            key: key.serialize_pem(),
        })
    }
}

fn make(certificate: &Path, key: &Path) -> anyhow::Result<()> {
    let pair = KeyPair::generate()?;
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(key)?;
    file.write_all(pair.serialize_pem().as_bytes())?;
    fs::write(certificate, parameters()?.self_signed(&pair)?.pem())?;
    Ok(())
}

fn parameters() -> anyhow::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    validity(&mut parameters);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
        .distinguished_name
        .push(DnType::CommonName, "chatmail lab CA");
    Ok(parameters)
}

/// Valid for ten years, and since yesterday for clients whose clocks are slow.
fn validity(parameters: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    parameters.not_before = now - Duration::days(1);
    parameters.not_after = now + Duration::days(3650);
}

/// Adds the authority to the trust store of a machine.
pub(super) fn trust(certificate: &str, root: &Path) -> anyhow::Result<()> {
    let store = root.join("etc/ssl/certs/ca-certificates.crt");
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(&store)
        .context("the machine has no trust store")?;
    file.write_all(certificate.as_bytes())?;
    Ok(())
}
