//! What a request says of who sends it.

use std::net::SocketAddr;

use axum::{
    extract::{ConnectInfo, Request},
    http::{HeaderMap, HeaderValue, header, uri::Authority},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::HasCertificate;

/// What a request says of who sends it.
pub(super) struct Caption {
    pub(super) peer: SocketAddr,
    pub(super) has_certificate: bool,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) host: Option<String>,
    pub(super) origin: Option<HeaderValue>,
}

impl Caption {
    pub(super) fn of(request: &Request) -> Self {
        let extensions = request.extensions();
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| *peer);
        let host = only(request.headers(), &header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
        Self {
            peer: peer.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))),
            has_certificate: extensions.get().is_some_and(|HasCertificate(it_has)| *it_has),
            authorization: only(request.headers(), &header::AUTHORIZATION).cloned(),
            // HTTP/2 has it in the URI.
            host: host.or_else(|| request.uri().authority().map(Authority::to_string)),
            origin: request.headers().get(header::ORIGIN).cloned(),
        }
    }

    /// What stands behind `scheme` in the header `Authorization` (RFC 9110 section 11.4).
    fn credentials(&self, scheme: &str) -> Option<&str> {
        let (found, credentials) = self.authorization.as_ref()?.to_str().ok()?.split_once(' ')?;
        found.eq_ignore_ascii_case(scheme).then(|| credentials.trim_matches(' '))
    }

    /// User and password (RFC 7617 section 2).
    pub(super) fn basic(&self) -> Option<(String, Vec<u8>)> {
        let decoded = BASE64_STANDARD.decode(self.credentials("Basic")?).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (user, password) = decoded.split_at(colon);
        Some((str::from_utf8(user).ok()?.to_owned(), password.get(1..)?.to_vec()))
    }

    /// The token (RFC 6750 section 2.1).
    pub(super) fn bearer(&self) -> Option<&str> {
        self.credentials("Bearer")
    }

    /// Whether a browser sends it for a page that is not from here.
    pub(super) fn is_of_another_origin(&self) -> bool {
        let Some(origin) = &self.origin else { return false };
        let own = self.host.as_deref();
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.is_none_or(|(_, origin)| Some(origin) != own)
    }
}

/// The one header called `name`: of two, nobody could say which counts.
fn only<'a>(headers: &'a HeaderMap, name: &header::HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}
