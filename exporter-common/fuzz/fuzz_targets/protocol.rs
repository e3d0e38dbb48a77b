//! What the first bytes of a payload are taken for.

use tidewaiter_common::{
    http::{METHODS, STATUS_PLACES, method, status_code, status_place},
    protocol::{PREFIX_BYTES, Prefix, Protocol},
    transport::Transport,
};

/// Says of `payload` what it is in every way, and holds that against its bytes.
pub(crate) fn check(payload: &[u8]) {
    let prefix = Prefix::of(payload);
    let [tcp, udp, sctp] = Transport::ALL.map(|transport| Protocol::classify(transport, &prefix));
    assert!(matches!(udp, Protocol::Unknown | Protocol::Dns));
    assert_eq!(sctp, Protocol::Unknown);

    let (method, status) = (method(&prefix), status_code(&prefix));
    assert!(method.is_none() || status.is_none());
    // A single byte is never HTTP, and so HTTP is never anything else.
    assert_eq!(tcp == Protocol::Http1, method.is_some() || status.is_some(), "{tcp:?}");
    if let Some(index) = method {
        let name = payload.split(|byte| *byte == b' ').next().unwrap_or_default();
        let known = METHODS.iter().position(|known| known.as_bytes() == name);
        assert_eq!(index, known.unwrap_or(METHODS.len() - 1));
    }
    if let Some(code) = status {
        assert_eq!(&payload[9..12], code.to_string().as_bytes());
        assert!(status_place(code) < STATUS_PLACES);
    }
    // A length that nobody has states nothing.
    for payload in [0, u32::MAX] {
        let _ = Protocol::classify(Transport::Tcp, &Prefix { bytes: [0xff; PREFIX_BYTES], length: payload, payload });
        let _ = Protocol::classify(Transport::Tcp, &Prefix { payload, ..prefix });
    }
}
