//! `tls_server_config`: from what was written to what serves.

use std::sync::Arc;

use rustls::{
    Error, NamedGroup, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, ring},
    server::NoServerSessionStorage,
    version::{TLS12, TLS13},
};
use serde_saphyr::Spanned;

use super::{
    clients::{ClientAuth, Clients},
    files::Files,
    pem::Pem,
    raw::RawTls,
    validate::{Check, Line as _},
};

/// What serves TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// How: certificate, versions, who is let in.
    pub config: Arc<ServerConfig>,
    /// What clients are asked for.
    pub clients: ClientAuth,
    /// Whether only clients with certain names are let in.
    pub names: bool,
    /// The oldest and the newest version that is spoken: "1.2" and "1.3".
    pub versions: [&'static str; 2],
}

/// A version of TLS by its name in the file.
struct Version {
    name: &'static str,
    number: &'static str,
    protocol: &'static SupportedProtocolVersion,
}

const VERSIONS: [Version; 2] = [
    Version { name: "TLS12", number: "1.2", protocol: &TLS12 },
    Version { name: "TLS13", number: "1.3", protocol: &TLS13 },
];

/// What Go's `crypto/tls` calls the groups that are here too.
const CURVES: [(&str, NamedGroup); 3] =
    [("X25519", NamedGroup::X25519), ("CurveP256", NamedGroup::secp256r1), ("CurveP384", NamedGroup::secp384r1)];

/// The names of application protocols (RFC 7301 section 6).
const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

impl Check<'_> {
    /// Makes of `raw` what serves TLS, HTTP/2 too if `http2`; `None` if nothing is said of TLS, or something is wrong with it.
    pub(super) fn tls(&mut self, raw: &Spanned<RawTls>, http2: bool, files: &mut Files) -> Option<Tls> {
        let line = raw.line();
        let RawTls {
            cert,
            key,
            client_ca,
            cert_file,
            key_file,
            client_auth_type,
            client_ca_file,
            client_allowed_sans,
            min_version,
            max_version,
            cipher_suites,
            prefer_server_cipher_suites,
            curve_preferences,
        } = &raw.value;
        let says_nothing =
            [cert, client_ca, cert_file, key_file, client_auth_type, client_ca_file, min_version, max_version]
                .iter()
                .all(|value| value.is_none())
                && key.is_none()
                && client_allowed_sans.is_none()
                && cipher_suites.is_none()
                && prefer_server_cipher_suites.is_none()
                && curve_preferences.is_none();
        if says_nothing {
            return None;
        }
        let certificate = self.pem(["cert", "cert_file"], cert.as_ref(), cert_file.as_ref(), files);
        let secret = key.as_ref().map(|key| Spanned::new(key.value.0.clone(), key.referenced, key.defined));
        let private_key = self.pem(["key", "key_file"], secret.as_ref(), key_file.as_ref(), files);
        for (found, what) in [(&certificate, "cert_file"), (&private_key, "key_file")] {
            if let Pem::Absent = found {
                let message = format!("found no {what}, expected one: TLS needs a certificate and its key");
                self.problem("tls_server_config", line, message);
            }
        }
        let authority = self.pem(["client_ca", "client_ca_file"], client_ca.as_ref(), client_ca_file.as_ref(), files);
        let clients = self.client_auth(client_auth_type.as_ref(), &authority, line);
        let names = self.names(client_allowed_sans.as_ref(), clients);
        let versions = self.versions(min_version.as_ref(), max_version.as_ref());
        let cipher_suites = self.cipher_suites(cipher_suites.as_deref().unwrap_or_default(), &versions);
        let kx_groups = self.curves(curve_preferences.as_deref().unwrap_or_default());
        let chain = self.certificates(&certificate);
        let private_key = self.private_key(&private_key);
        let authorities = self.authorities(&authority);
        let (chain, private_key, authorities) = (chain?, private_key?, authorities?);
        if !self.problems.is_empty() {
            return None;
        }

        let provider = Arc::new(CryptoProvider { cipher_suites, kx_groups, ..ring::default_provider() });
        let has_names = names.is_some();
        let verifier = match Clients::new(clients, authorities, names, &provider) {
            Ok(verifier) => Arc::new(verifier),
            Err(error) => {
                self.problem("tls_server_config.client_ca_file", line, format!("cannot be used: {error}"));
                return None;
            }
        };
        let spoken: Vec<_> = versions.iter().map(|version| version.protocol).collect();
        let config =
            ServerConfig::builder_with_provider(provider).with_protocol_versions(&spoken).and_then(|builder| {
                let builder = match clients {
                    ClientAuth::NoClientCert => builder.with_no_client_auth(),
                    _ => builder.with_client_cert_verifier(verifier),
                };
                builder.with_single_cert(chain, private_key)
            });
        let mut config = match config {
            Ok(config) => config,
            Err(error) => {
                let message = match error {
                    Error::InconsistentKeys(_) => "the key is not that of the certificate".to_owned(),
                    Error::InvalidCertificate(error) => {
                        format!("the certificate cannot be used, expected one of X.509 version 3: {error}")
                    }
                    error => format!("certificate and key cannot be used: {error}"),
                };
                self.problem("tls_server_config", line, message);
                return None;
            }
        };
        config.ignore_client_order = prefer_server_cipher_suites.unwrap_or(true);
        config.alpn_protocols =
            [http2.then_some(HTTP_2), Some(HTTP_1)].into_iter().flatten().map(<[u8]>::to_vec).collect();
        if clients != ClientAuth::NoClientCert {
            // Who comes back is looked at again: the certificate may have expired.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let numbers =
            [versions.first(), versions.last()].map(|version| version.map_or("none", |version| version.number));
        Some(Tls { config: config.into(), clients, names: has_names, versions: numbers })
    }

    fn client_auth(&mut self, kind: Option<&Spanned<String>>, authority: &Pem, around: Option<usize>) -> ClientAuth {
        const KEY: &str = "tls_server_config.client_auth_type";
        let line = kind.map_or(around, Spanned::line);
        let text = kind.map_or("", |kind| &kind.value);
        let kind = if text.is_empty() { Some(ClientAuth::NoClientCert) } else { ClientAuth::named(text) };
        let Some(kind) = kind else {
            let names = ClientAuth::ALL.map(ClientAuth::as_str).join(", ");
            self.problem(KEY, line, format!("found {text:?}, expected one of {names}"));
            return ClientAuth::NoClientCert;
        };
        let has_authority = !matches!(authority, Pem::Absent);
        if kind.verifies() && !has_authority {
            let message = format!(
                "found {kind} without client_ca_file, expected one: it says whom to believe",
                kind = kind.as_str()
            );
            self.problem(KEY, line, message);
        }
        if kind == ClientAuth::NoClientCert && has_authority {
            let message = "found an authority for clients, but none are asked for certificates: expected \
                           RequireAndVerifyClientCert, or no client_ca_file";
            self.problem(KEY, line, message.to_owned());
        }
        kind
    }

    fn names(&mut self, names: Option<&Spanned<Vec<String>>>, clients: ClientAuth) -> Option<Vec<String>> {
        const KEY: &str = "tls_server_config.client_allowed_sans";
        let names = names?;
        if !clients.is_mandatory() {
            let message = format!(
                "found names, but client_auth_type is {}: expected RequireAndVerifyClientCert or RequireAnyClientCert, \
                 which let nobody in without a certificate",
                clients.as_str()
            );
            self.problem(KEY, names.line(), message);
        }
        if names.value.is_empty() {
            self.problem(
                KEY,
                names.line(),
                "found an empty list, expected at least one name: nobody has none".to_owned(),
            );
        }
        Some(names.value.clone())
    }

    fn versions(&mut self, min: Option<&Spanned<String>>, max: Option<&Spanned<String>>) -> Vec<&'static Version> {
        let mut place = |key: &str, text: Option<&Spanned<String>>, default: usize| {
            let Some(text) = text else { return default };
            let found = VERSIONS.iter().position(|version| version.name == text.value);
            found.unwrap_or_else(|| {
                let old = if ["TLS10", "TLS11"].contains(&text.value.as_str()) {
                    "; older versions are not spoken, because they are not secure (RFC 8996)"
                } else {
                    ""
                };
                let message = format!("found {:?}, expected TLS12 or TLS13{old}", text.value);
                self.problem(format!("tls_server_config.{key}"), text.line(), message);
                default
            })
        };
        let [first, last] = [place("min_version", min, 0), place("max_version", max, VERSIONS.len() - 1)];
        if first > last {
            let message = format!("found {}, expected nothing above max_version", VERSIONS[first].name);
            self.problem("tls_server_config.min_version", min.and_then(Spanned::line), message);
        }
        VERSIONS
            .iter()
            .enumerate()
            .filter(|(place, _)| (first..=last).contains(place))
            .map(|(_, version)| version)
            .collect()
    }

    /// As in Go, only those of TLS 1.2 can be chosen; of TLS 1.3 there are always all.
    fn cipher_suites(&mut self, wanted: &[Spanned<String>], versions: &[&Version]) -> Vec<SupportedCipherSuite> {
        const KEY: &str = "tls_server_config.cipher_suites";
        let known = ring::default_provider().cipher_suites;
        if wanted.is_empty() {
            return known;
        }
        let mut chosen: Vec<_> = known.iter().filter(|suite| suite.tls13().is_some()).copied().collect();
        for name in wanted {
            match known.iter().find(|suite| suite_name(**suite) == name.value) {
                Some(suite) if !chosen.contains(suite) => chosen.push(*suite),
                Some(_) => {}
                None => {
                    let names: Vec<_> = known.iter().map(|suite| suite_name(*suite)).collect();
                    let message = format!("found {:?}, expected some of {}", name.value, names.join(", "));
                    self.problem(KEY, name.line(), message);
                }
            }
        }
        let has_old = chosen.iter().any(|suite| suite.tls13().is_none());
        if self.problems.is_empty() && !has_old && versions.iter().all(|version| version.name == "TLS12") {
            let message = "found none of TLS 1.2, expected at least one, because max_version is TLS12".to_owned();
            self.problem(KEY, wanted.first().and_then(Spanned::line), message);
        }
        chosen
    }

    fn curves(&mut self, wanted: &[Spanned<String>]) -> Vec<&'static dyn SupportedKxGroup> {
        let known = ring::default_provider().kx_groups;
        if wanted.is_empty() {
            return known;
        }
        let mut chosen = Vec::new();
        for name in wanted {
            let group = CURVES.iter().find(|(curve, _)| *curve == name.value).map(|(_, group)| *group);
            if let Some(group) = group.and_then(|group| known.iter().find(|known| known.name() == group)) {
                chosen.push(*group);
            } else {
                let names = CURVES.map(|(name, _)| name).join(", ");
                let message = format!("found {:?}, expected some of {names}", name.value);
                self.problem("tls_server_config.curve_preferences", name.line(), message);
            }
        }
        chosen
    }
}

/// What Go calls `suite`: as IANA does, of TLS 1.3 too.
fn suite_name(suite: SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
}
