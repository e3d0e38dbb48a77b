//! Who a collector must be, and who we are to it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::{Uri, uri::Scheme};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
};
use thiserror::Error;

use crate::config::otlp::{OtlpClient, OtlpProtocol};

/// Certificates or keys that are of no use.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that cannot be read, or has nothing of the kind in it.
    #[error("cannot read {what} from {}", path.display())]
    Unreadable {
        /// What was looked for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A file without any certificate.
    #[error("{} has no certificate in it: expected PEM", .0.display())]
    Empty(PathBuf),
    /// The system's own authorities.
    #[error("cannot read the certificates of this system: name a file of them in otlp.certificate")]
    System(#[source] std::io::Error),
    /// They do not go together, or are of a kind that is not known.
    #[error("cannot use the certificates for OTLP")]
    Refused(#[from] rustls::Error),
}

/// What connects to `endpoint`.
pub(super) fn connector(
    endpoint: &Uri,
    protocol: OtlpProtocol,
    certificate: Option<&Path>,
    client: Option<&OtlpClient>,
    timeout: Duration,
) -> Result<HttpsConnector<HttpConnector>, TlsError> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(timeout));
    // What the other side does not acknowledge for so long it will not get: a connection that is dead is not used again.
    http.set_tcp_user_timeout(Some(timeout));
    let configuration = if endpoint.scheme() == Some(&Scheme::HTTPS) {
        configuration(certificate, client)?
    } else {
        // Nobody is asked for a certificate.
        builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
    };
    let connector = HttpsConnectorBuilder::new().with_tls_config(configuration).https_or_http();
    Ok(match protocol {
        OtlpProtocol::Http => connector.enable_http1().wrap_connector(http),
        OtlpProtocol::Grpc => connector.enable_http2().wrap_connector(http),
    })
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?)
}

fn configuration(certificate: Option<&Path>, client: Option<&OtlpClient>) -> Result<ClientConfig, TlsError> {
    let builder = match certificate {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
            builder()?.with_root_certificates(roots)
        }
        None => builder()?.with_native_roots().map_err(TlsError::System)?,
    };
    Ok(match client {
        Some(OtlpClient { certificate, key: path }) => {
            let key = PrivateKeyDer::from_pem_file(path).map_err(|source| TlsError::Unreadable {
                what: "a private key",
                path: path.clone(),
                source,
            })?;
            builder.with_client_auth_cert(certificates(certificate)?, key)?
        }
        None => builder.with_no_client_auth(),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { what: "certificates", path: path.to_owned(), source };
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    if certificates.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(certificates) }
}
