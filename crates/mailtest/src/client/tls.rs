//! TLS settings of clients: trusted roots, TLS versions and ALPN names.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Which certificates a client accepts.
#[derive(Debug, Clone)]
enum Trust {
    /// A chain to one of these roots, for the right name.
    Roots(Arc<RootCertStore>),
    /// Any certificate for the right name, as Delta Chat accepts for hosts whose name begins with `_`.
    NameOnly,
}

/// TLS settings of a client.
#[derive(Debug, Clone)]
pub struct Tls {
    trust: Trust,
    versions: Vec<&'static SupportedProtocolVersion>,
    alpn: Option<&'static str>,
    sni: bool,
}

impl Tls {
    /// Trusts the CAs in this PEM file, without those that TLS cannot use.
    pub fn with_ca(file: &Path) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        let certificates =
            CertificateDer::pem_file_iter(file).with_context(|| format!("reading {}", file.display()))?;
        for certificate in certificates {
            let certificate = certificate.with_context(|| format!("a certificate in {}", file.display()))?;
            roots.add_parsable_certificates([certificate]);
        }
        ensure!(!roots.is_empty(), "{} contains no certificate", file.display());
        Ok(Self::new(Trust::Roots(Arc::new(roots))))
    }

    /// Checks only the name in the certificate.
    pub fn name_only() -> Self {
        Self::new(Trust::NameOnly)
    }

    fn new(trust: Trust) -> Self {
        Self {
            trust,
            versions: rustls::ALL_VERSIONS.to_vec(),
            alpn: None,
            sni: true,
        }
    }

    /// Offers only this version.
    pub fn only(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    /// Offers this protocol by ALPN.
    pub fn alpn(mut self, name: &'static str) -> Self {
        self.alpn = Some(name);
        self
    }

    /// Sends no server name, as Delta Chat does after STARTTLS: the server's default certificate must match.
    pub fn without_sni(mut self) -> Self {
        self.sni = false;
        self
    }

    /// Performs the handshake over `stream`.
    ///
    /// # Errors
    ///
    /// If the handshake fails; a rejected certificate is an error of kind `InvalidData`.
    pub async fn connect<S>(&self, stream: S, name: &str) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let config = self.config().map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    fn config(&self) -> Result<ClientConfig, rustls::Error> {
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&self.versions)?;
        let mut config = match &self.trust {
            Trust::Roots(roots) => builder
                .with_root_certificates(Arc::clone(roots))
                .with_no_client_auth(),
            Trust::NameOnly => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(NameOnly { algorithms }))
                .with_no_client_auth(),
        };
        // Each connection performs a full handshake; a resumed session would not send the certificate.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.enable_sni = self.sni;
        Ok(config)
    }
}

/// Checks that the certificate is for the host, and that the server has its key.
#[derive(Debug)]
struct NameOnly {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for NameOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
