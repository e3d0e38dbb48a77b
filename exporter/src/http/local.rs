//! Who may see what names clients: whoever has shown who he is, or this host alone where nobody is asked to.

use std::net::{IpAddr, SocketAddr};

use axum::{
    Extension,
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, Version, header, uri::Authority},
    middleware::Next,
    response::Response,
};

use super::{
    access::{Access, Caller},
    api::failure,
};

/// Who is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audience {
    /// Programs of this host: nobody is asked who he is.
    ThisHost,
    /// Whoever has shown who he is, from wherever.
    Authenticated,
}

impl Audience {
    fn of(access: &Access) -> Self {
        if access.authenticates() { Self::Authenticated } else { Self::ThisHost }
    }
}

/// Answers those who may see it; others are told why not.
pub(super) async fn require(
    State(access): State<Access>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Extension(caller): Extension<Caller>,
    request: Request,
    next: Next,
) -> Response {
    match Audience::of(&access) {
        Audience::Authenticated if caller == Caller::Authenticated => {}
        Audience::Authenticated => {
            return failure(StatusCode::FORBIDDEN, "only answered to those who show a certificate");
        }
        Audience::ThisHost if !peer.ip().to_canonical().is_loopback() => {
            let message = format!(
                "only answered over the loopback interface until authentication is configured (web_config), and {} is not \
                 on it",
                peer.ip()
            );
            return failure(StatusCode::FORBIDDEN, &message);
        }
        Audience::ThisHost if !is_meant_for_us(&request) => {
            let message = "only answered for \"localhost\" or an IP address as the host: a page could have any other name \
                           resolved to this host, and read what its user alone may see";
            return failure(StatusCode::FORBIDDEN, message);
        }
        Audience::ThisHost => {}
    }
    next.run(request).await
}

/// Whether the request is addressed to an IP address or to `localhost`. A browser sends pages' requests over loopback too,
/// but with the name that the page has (DNS rebinding).
fn is_meant_for_us(request: &Request) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        // HTTP/2 has it in the URI (RFC 9113 section 8.3.1).
        (None, _) if request.version() == Version::HTTP_2 => request.uri().authority().cloned(),
        _ => None,
    };
    host.iter().chain(request.uri().authority()).all(is_literal) && host.is_some()
}

fn is_literal(authority: &Authority) -> bool {
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request, http::header};

    use super::is_meant_for_us;

    fn request(uri: &str, hosts: &[&str]) -> Request {
        let request = Request::builder().uri(uri);
        hosts
            .iter()
            .fold(request, |request, host| request.header(header::HOST, *host))
            .body(Body::empty())
            .expect("is valid")
    }

    #[test]
    fn names_that_anybody_can_have_resolved_to_us_are_not_ours() {
        for host in ["localhost", "LOCALHOST:9473", "127.0.0.1", "127.0.0.1:9473", "[::1]:9473", "[::1]", "10.0.0.1:80"]
        {
            assert!(is_meant_for_us(&request("/", &[host])), "{host}");
        }
        for host in ["example.org", "localhost.example.org:9473", "127.0.0.1.example.org", "", "[::1", "localhost."] {
            assert!(!is_meant_for_us(&request("/", &[host])), "{host}");
        }
        assert!(!is_meant_for_us(&request("/", &[])));
        assert!(!is_meant_for_us(&request("/", &["localhost", "example.org"])));
        assert!(!is_meant_for_us(&request("http://example.org/", &["localhost"])));
        assert!(is_meant_for_us(&request("http://localhost/", &["localhost"])));
    }
}
