//! Certificates and keys, which are written inline, or are in files of their own.

use std::path::Path;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_saphyr::Spanned;

use super::{
    files::Files,
    validate::{Check, Line as _},
};

/// PEM of one kind.
pub(super) enum Pem {
    /// There is none.
    Absent,
    /// There is some, but it cannot be read, which was told.
    Wrong,
    /// Where it was written, and its bytes.
    Found { key: &'static str, line: Option<usize>, bytes: Vec<u8> },
}

impl Check<'_> {
    /// PEM that is written inline, or in a file.
    pub(super) fn pem(
        &mut self,
        [key, file_key]: [&'static str; 2],
        inline: Option<&Spanned<String>>,
        file: Option<&Spanned<String>>,
        files: &mut Files,
    ) -> Pem {
        let inline = inline.filter(|text| !text.value.is_empty());
        let file = file.filter(|path| !path.value.is_empty());
        let (key, line, bytes) = match (inline, file) {
            (None, None) => return Pem::Absent,
            (Some(_), Some(path)) => {
                let message = format!("found {key} too, expected one of them");
                self.problem(format!("tls_server_config.{file_key}"), path.line(), message);
                return Pem::Wrong;
            }
            (Some(text), None) => (key, text.line(), text.value.clone().into_bytes()),
            (None, Some(path)) => {
                // Relative ones are meant from where the file is that names them.
                let file = self.path.parent().unwrap_or(Path::new("")).join(&path.value);
                match files.read(&file) {
                    Ok(bytes) => (file_key, path.line(), bytes),
                    Err(error) => {
                        let message = format!("cannot read {}: {error}", file.display());
                        self.problem(format!("tls_server_config.{file_key}"), path.line(), message);
                        return Pem::Wrong;
                    }
                }
            }
        };
        Pem::Found { key, line, bytes }
    }

    pub(super) fn certificates(&mut self, pem: &Pem) -> Option<Vec<CertificateDer<'static>>> {
        let Pem::Found { key, line, bytes } = pem else { return None };
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
        let message = match found {
            Ok(found) if !found.is_empty() => return Some(found),
            Ok(_) => "found no certificate in it, expected at least one, as PEM".to_owned(),
            Err(error) => format!("not a certificate as PEM: {error}"),
        };
        self.problem(format!("tls_server_config.{key}"), *line, message);
        None
    }

    pub(super) fn private_key(&mut self, pem: &Pem) -> Option<PrivateKeyDer<'static>> {
        let Pem::Found { key, line, bytes } = pem else { return None };
        let found = PrivateKeyDer::from_pem_slice(bytes);
        // Of the error nothing is told: there may be a part of the key in it.
        let message = "found no private key in it, expected one as PEM, not encrypted".to_owned();
        found.map_err(|_| self.problem(format!("tls_server_config.{key}"), *line, message)).ok()
    }

    /// None at all if none are named.
    pub(super) fn authorities(&mut self, pem: &Pem) -> Option<RootCertStore> {
        let mut store = RootCertStore::empty();
        if let Pem::Absent = pem {
            return Some(store);
        }
        let certificates = self.certificates(pem)?;
        let Pem::Found { key, line, .. } = pem else { return None };
        for certificate in certificates {
            if let Err(error) = store.add(certificate) {
                self.problem(format!("tls_server_config.{key}"), *line, format!("not an authority: {error}"));
                return None;
            }
        }
        Some(store)
    }
}
