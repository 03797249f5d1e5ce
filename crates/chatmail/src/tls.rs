//! TLS from a client's point of view: the certificate of a port, and whether it can be verified.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail, ensure};
use time::OffsetDateTime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::dial::{PATIENCE, Stream};

/// Days before its expiry by which a certificate should have been renewed.
pub(crate) const RENEWED_DAYS: i64 = 14;

const DAY: i64 = 24 * 60 * 60;

/// A TLS session with a port.
pub(crate) struct Presented {
    /// End of the certificate's validity in Unix time.
    pub(crate) not_after: i64,
    /// Why clients do not trust the certificate, if they do not.
    pub(crate) distrust: Option<String>,
    /// The open session.
    pub(crate) stream: TlsStream<Box<dyn Stream>>,
}

impl Presented {
    /// Days until the certificate expires.
    pub(crate) fn days(&self) -> i64 {
        (self.not_after - OffsetDateTime::now_utc().unix_timestamp()).div_euclid(DAY)
    }
}

/// Opens a session over a connection, even if clients would not trust the certificate.
pub(crate) async fn handshake(
    stream: Box<dyn Stream>,
    domain: &str,
    alpn: Option<&str>,
) -> anyhow::Result<Presented> {
    let observer = Arc::new(Observer::new()?);
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&observer) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    config.alpn_protocols = alpn.into_iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = match domain
        .strip_prefix('[')
        .and_then(|literal| literal.strip_suffix(']'))
    {
        Some(literal) => literal.strip_prefix("IPv6:").unwrap_or(literal),
        None => domain,
    };
    let name = ServerName::try_from(name.to_owned()).context("the domain is not valid in a certificate")?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = timeout(PATIENCE, connecting)
        .await
        .context("the TLS handshake timed out")??;
    let (_, session) = stream.get_ref();
    let chain = session
        .peer_certificates()
        .context("the server presented no certificate")?;
    let Some(leaf) = chain.first() else {
        bail!("the server presented no certificate")
    };
    let (_, certificate) =
        x509_parser::parse_x509_certificate(leaf).context("cannot parse the certificate")?;
    let distrust = observer
        .distrust
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let not_after = certificate.validity().not_after.timestamp();
    Ok(Presented {
        not_after,
        distrust,
        stream,
    })
}

/// Verifies the certificate as clients do, but records an error instead of failing, so that further checks can run. No
/// data is sent.
#[derive(Debug)]
struct Observer {
    verifier: Arc<WebPkiServerVerifier>,
    distrust: Mutex<Option<String>>,
}

impl Observer {
    fn new() -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        ensure!(
            !roots.is_empty(),
            "this machine has no certificates of certificate authorities"
        );
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self {
            verifier,
            distrust: Mutex::default(),
        })
    }
}

impl ServerCertVerifier for Observer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.verifier
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if let Err(error) = verified {
            *self.distrust.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
