//! Headers that are sent along: which there may be, and that nobody shows what is in them.

use std::{collections::BTreeMap, fmt};

use figment::value::Value;
use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer, de};

/// Headers that the protocols write themselves, or that are of a connection alone, and one that would have answers encoded in a
/// way that is not understood.
const RESERVED: [&str; 13] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What the names begin with that gRPC keeps for itself.
const RESERVED_BY_GRPC: &str = "grpc-";

/// What is said of a text that is no name of a header. The text is not: where a name should be, there may be a part of a value,
/// as in `authorization: Bearer …==`.
pub(super) const NO_NAME: &str = "that is no name of a header, expected one such as \"x-api-key\"";

/// Whether `text` can be the name of a header.
pub(super) fn is_name(text: &str) -> bool {
    HeaderName::from_bytes(text.as_bytes()).is_ok()
}

/// Headers by their names, as they were written; all of them can be names.
#[derive(Clone, Debug)]
pub struct RawHeaders(pub(super) BTreeMap<String, Secret>);

/// A text that is shown by nobody.
#[derive(Clone)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

impl<'de> Deserialize<'de> for RawHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RawHeaders;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a table")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut table: A) -> Result<RawHeaders, A::Error> {
                let mut headers = BTreeMap::new();
                while let Some(name) = table.next_key::<String>()? {
                    // Refused here, where it is not told as a part of the key, and before what is wrong with its value is.
                    if !is_name(&name) {
                        return Err(de::Error::custom(format_args!("found a key {NO_NAME}")));
                    }
                    headers.insert(name, table.next_value()?);
                }
                Ok(RawHeaders(headers))
            }

            /// The usual message would show it.
            fn visit_str<E: de::Error>(self, _: &str) -> Result<RawHeaders, E> {
                Err(E::custom("found a string, expected a table such as { x-api-key = \"…\" }"))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The usual message would show what is there instead of a text.
        match <Value as Deserialize>::deserialize(deserializer)? {
            Value::String(_, text) => Ok(Self(text)),
            _ => Err(de::Error::custom("expected a string in quotes")),
        }
    }
}

/// The header `name` with `value`, or what is wrong with it, which does not say the value.
pub(super) fn header(name: &str, Secret(value): &Secret) -> Result<(HeaderName, HeaderValue), String> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("found a key {NO_NAME}"))?;
    if RESERVED.contains(&name.as_str()) || name.as_str().starts_with(RESERVED_BY_GRPC) {
        return Err(format!("found the header \"{name}\", which is the protocol's own, expected others"));
    }
    // HTTP would allow for more, gRPC does not.
    let is_printable = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    match HeaderValue::from_str(value) {
        Ok(mut value) if is_printable => {
            value.set_sensitive(true);
            Ok((name, value))
        }
        _ => Err(format!("found a value of the header \"{name}\" that it cannot have, expected printable ASCII")),
    }
}
