//! Which clients of TLS are let in, by the certificates that they show.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_cert::{
    Certificate,
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// What clients are asked for: `client_auth_type`, whose names and meanings are those of Go's `tls.ClientAuthType`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// Nothing.
    #[default]
    NoClientCert,
    /// A certificate, which need not be shown, and may be anybody's.
    RequestClientCert,
    /// A certificate, which may be anybody's.
    RequireAnyClientCert,
    /// A certificate, which need not be shown, but if it is, by somebody whom the authority vouches for.
    VerifyClientCertIfGiven,
    /// A certificate that the authority vouches for.
    RequireAndVerifyClientCert,
}

impl ClientAuth {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::NoClientCert,
        Self::RequestClientCert,
        Self::RequireAnyClientCert,
        Self::VerifyClientCertIfGiven,
        Self::RequireAndVerifyClientCert,
    ];

    /// Its name in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoClientCert => "NoClientCert",
            Self::RequestClientCert => "RequestClientCert",
            Self::RequireAnyClientCert => "RequireAnyClientCert",
            Self::VerifyClientCertIfGiven => "VerifyClientCertIfGiven",
            Self::RequireAndVerifyClientCert => "RequireAndVerifyClientCert",
        }
    }

    /// What is called `name`; `RequireClientCert` is what `RequireAnyClientCert` was called once.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = if name == "RequireClientCert" { "RequireAnyClientCert" } else { name };
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether a certificate says who somebody is: an authority vouches for it.
    #[must_use]
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyClientCertIfGiven | Self::RequireAndVerifyClientCert)
    }

    /// Whether nobody is let in without a certificate.
    #[must_use]
    pub const fn is_mandatory(self) -> bool {
        matches!(self, Self::RequireAnyClientCert | Self::RequireAndVerifyClientCert)
    }
}

/// What looks at clients' certificates.
#[derive(Debug)]
pub(super) struct Clients {
    /// Who vouches for them, where that is wanted.
    authorities: Option<Arc<dyn ClientCertVerifier>>,
    is_mandatory: bool,
    /// Names of which a certificate must have one.
    names: Option<Vec<String>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Clients {
    /// Lets in whom `kind` says; `authorities` vouch for them, if it verifies anybody.
    ///
    /// # Errors
    /// If there is no authority, or it is of no use.
    pub(super) fn new(
        kind: ClientAuth,
        authorities: RootCertStore,
        names: Option<Vec<String>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let authorities = if kind.verifies() {
            Some(WebPkiClientVerifier::builder_with_provider(authorities.into(), Arc::clone(provider)).build()?)
        } else {
            None
        };
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { authorities, is_mandatory: kind.is_mandatory(), names, algorithms })
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authorities.as_ref().map_or(&[], |authorities| authorities.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(authorities) = &self.authorities {
            authorities.verify_client_cert(certificate, intermediates, now)?;
        }
        if let Some(wanted) = &self.names
            && !names(certificate).iter().any(|name| wanted.contains(name))
        {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The names that `certificate` has beside that of its subject (RFC 5280 section 4.2.1.6): of hosts, addresses of hosts and of
/// mail, and URIs. None if they cannot be read.
fn names(certificate: &[u8]) -> Vec<String> {
    let Ok(certificate) = Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some((_, SubjectAltName(names)))) = certificate.tbs_certificate().get_extension() else { return Vec::new() };
    let text = |name: GeneralName| match name {
        GeneralName::DnsName(name) | GeneralName::Rfc822Name(name) | GeneralName::UniformResourceIdentifier(name) => {
            Some(name.as_str().to_owned())
        }
        GeneralName::IpAddress(octets) => address(octets.as_bytes()).map(|address| address.to_string()),
        _ => None,
    };
    names.into_iter().filter_map(text).collect()
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = octets.try_into().ok().map(|octets: [u8; 4]| Ipv4Addr::from(octets).into());
    v4.or_else(|| octets.try_into().ok().map(|octets: [u8; 16]| Ipv6Addr::from(octets).into()))
}
