//! Certificates for TLS: an authority, and what it vouches for.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;

use crate::{command::output, network::Network};

/// The name that the server's certificate has, beside addresses.
pub const SERVER_NAME: &str = "collector.example";

/// An authority with a server's and a client's certificate, each in files of PEM. Others know nothing of it.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
}

impl Certificates {
    /// Makes them. The server's is for [`SERVER_NAME`], for "localhost", and for the addresses of loopback interfaces and
    /// of a [`Network`].
    #[must_use]
    pub fn new() -> Self {
        let certificates = Self { directory: tempfile::tempdir().expect("a directory") };
        certificates.make("authority", &["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"]);
        let names = [SERVER_NAME, "localhost"].map(|name| format!("DNS:{name}"));
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let addresses = [loopback, Network::SERVERS, Network::CLIENTS].concat();
        let addresses = addresses.iter().map(|address: &IpAddr| format!("IP:{address}"));
        let names: Vec<_> = names.into_iter().chain(addresses).collect();
        let names = format!("subjectAltName={}", names.join(","));
        certificates.make("server", &["basicConstraints=CA:FALSE", "extendedKeyUsage=serverAuth", &names]);
        certificates.make("client", &["basicConstraints=CA:FALSE", "extendedKeyUsage=clientAuth"]);
        certificates
    }

    /// Makes the certificate called `name`, and its key. The authority vouches for it.
    pub fn make(&self, name: &str, extensions: &[&str]) {
        // Those of others are not called the same.
        let folder = self.directory.path().file_name().and_then(|folder| folder.to_str()).expect("is text");
        let subject = format!("/CN={name} of {folder}");
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        // Otherwise it adds what its own configuration says to what is said here.
        command.args(["-config", "/dev/null", "-subj", &subject]);
        command.args(extensions.iter().flat_map(|extension| ["-addext", extension]));
        if name != "authority" {
            command.arg("-CA").arg(self.certificate("authority")).arg("-CAkey").arg(self.key("authority"));
        }
        output(command.arg("-out").arg(self.certificate(name)).arg("-keyout").arg(self.key(name)));
    }

    /// The certificate called `name`.
    #[must_use]
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.directory.path().join(name).with_extension("pem")
    }

    /// The key of the certificate called `name`.
    #[must_use]
    pub fn key(&self, name: &str) -> PathBuf {
        self.directory.path().join(name).with_extension("key")
    }

    /// The authority's certificate, for clients to trust.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.certificate("authority")
    }

    /// The client's certificate.
    #[must_use]
    pub fn client(&self) -> PathBuf {
        self.certificate("client")
    }

    /// The key of the client's certificate.
    #[must_use]
    pub fn client_key(&self) -> PathBuf {
        self.key("client")
    }

    /// A server with the server's certificate, who talks to none but clients that the authority vouches for if
    /// `asks_clients`.
    pub(super) fn server_config(&self, asks_clients: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().expect("ring has them");
        let builder = if asks_clients {
            let mut roots = RootCertStore::empty();
            roots.add(read(&self.authority())).expect("is one");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("there is an authority"))
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_file(self.key("server")).expect("is one");
        let mut config = builder.with_single_cert(vec![read(&self.certificate("server"))], key).expect("they match");
        config.alpn_protocols = ["h2", "http/1.1"].map(|protocol| protocol.as_bytes().to_vec()).into();
        Arc::new(config)
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

fn read(file: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(&fs::read(file).expect("is ours")).expect("is a certificate")
}
