//! Where a signal is sent: what may be written, and the URL that it means (OpenTelemetry specification, "Protocol Exporter",
//! "Endpoint URLs for OTLP/HTTP").

use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::raw::OtlpProtocol;

/// The port of OTLP over gRPC (OTLP specification, "OTLP/gRPC Default Port"). HTTP has the port of its scheme if none is written:
/// there, the specification has it that URLs are what they are anywhere.
const GRPC_PORT: u16 = 4317;

/// The URL that `text` means for `protocol`, or what is wrong with it.
///
/// `path` is added to that of the URL where it is the base of all signals, and requests are not gRPC's. `insecure` is about
/// gRPC without a scheme.
pub(super) fn endpoint(text: &str, protocol: OtlpProtocol, insecure: bool, path: Option<&str>) -> Result<Uri, String> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, text),
    };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err("found a URL with a user in it, expected one without: use headers".to_owned());
    }
    let scheme = match (scheme.as_deref(), protocol) {
        (Some("http"), _) => Some(Scheme::HTTP),
        (Some("https"), _) => Some(Scheme::HTTPS),
        (None, OtlpProtocol::Grpc) => Some(if insecure { Scheme::HTTP } else { Scheme::HTTPS }),
        _ => None,
    };
    let example = match protocol {
        OtlpProtocol::Http => "http://collector:4318",
        OtlpProtocol::Grpc => "http://collector:4317",
    };
    let refusal = || format!("found {:?}, expected an http or https URL such as \"{example}\"", shown(text));
    let (scheme, authority) = scheme.zip(authority_of(authority, protocol)).ok_or_else(refusal)?;

    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    if protocol == OtlpProtocol::Grpc && !rest.is_empty() && rest != "/" {
        return Err(format!("found {:?}, expected a URL without a path: gRPC has its own", shown(text)));
    }
    let (own_path, query) = rest.find('?').map_or((rest, ""), |start| rest.split_at(start));
    let rest = match (path, protocol) {
        (Some(path), OtlpProtocol::Http) => {
            let base = own_path.strip_suffix('/').unwrap_or(own_path);
            format!("{base}/{path}{query}")
        }
        _ if own_path.is_empty() => format!("/{query}"),
        _ => format!("{own_path}{query}"),
    };
    let rest = rest.parse::<PathAndQuery>().map_err(|_| refusal())?;
    Uri::builder().scheme(scheme).authority(authority).path_and_query(rest).build().map_err(|_| refusal())
}

/// The host and port of `text`, with the default port of gRPC; `None` if there is no host, or no such port.
fn authority_of(text: &str, protocol: OtlpProtocol) -> Option<Authority> {
    let authority = text.parse::<Authority>().ok()?;
    let host = authority.host();
    let port = match text.get(host.len()..)?.strip_prefix(':').unwrap_or_default() {
        "" if text.len() > host.len() + 1 => return None,
        "" => None,
        port => Some(port.parse::<u16>().ok().filter(|port| *port != 0)?),
    };
    let port = port.or((protocol == OtlpProtocol::Grpc).then_some(GRPC_PORT));
    let whole = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    whole.parse().ok().filter(|_| !host.is_empty() && host != "[]")
}

/// As much of `text` as may be shown: neither what is before an `@`, nor a query, because a password or a key may be in there.
fn shown(text: &str) -> String {
    let text = text.split_once('?').map_or_else(|| text.to_owned(), |(before, _)| format!("{before}?…"));
    text.rsplit_once('@').map_or_else(|| text.clone(), |(_, after)| format!("…@{after}"))
}
