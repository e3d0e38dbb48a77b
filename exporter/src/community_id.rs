//! Community ID, version 1: a name for a flow by which other programs (Zeek, Suricata, Wireshark and more) know the same one.
//!
//! See <https://github.com/corelight/community-id-spec>.

use std::{
    cmp::Ordering,
    net::{IpAddr, SocketAddr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha1::{Digest as _, Sha1};
use tidewaiter_common::packet::protocol;

use crate::flow::FlowRecord;

/// What is hashed before all else; sites may have their own, but this is everybody's default.
const SEED: u16 = 0;

impl FlowRecord {
    /// The flow's name by Community ID; `None` for protocols without ports. Others name ICMP by its type and code, which a flow does
    /// not keep, and a name that is not theirs would be worse than none.
    #[must_use]
    pub fn community_id(&self) -> Option<String> {
        matches!(self.protocol, protocol::TCP | protocol::UDP | protocol::SCTP)
            .then(|| of_ends(self.protocol, self.local, self.remote))
    }
}

/// The name of the flow between two ends, whichever of them is which.
fn of_ends(protocol: u8, one: SocketAddr, other: SocketAddr) -> String {
    let (low, high) = if compare(one, other) == Ordering::Greater { (other, one) } else { (one, other) };
    let mut hash = Sha1::new_with_prefix(SEED.to_be_bytes());
    for end in [low, high] {
        match end.ip() {
            IpAddr::V4(address) => hash.update(address.octets()),
            IpAddr::V6(address) => hash.update(address.octets()),
        }
    }
    // A byte of padding stands behind the protocol.
    hash.update([protocol, 0]);
    for end in [low, high] {
        hash.update(end.port().to_be_bytes());
    }
    format!("1:{}", STANDARD.encode(hash.finalize()))
}

/// Addresses are compared as bytes of the wire, then ports as numbers; that is how both are ordered.
fn compare(one: SocketAddr, other: SocketAddr) -> Ordering {
    (one.ip(), one.port()).cmp(&(other.ip(), other.port()))
}

#[cfg(test)]
mod tests {
    use super::of_ends;

    #[test]
    fn flows_have_the_names_that_the_specification_has_for_them() {
        // Of its captures, as its baseline has them.
        for (protocol, one, other, expected) in [
            (6, "128.232.110.120:34855", "66.35.250.204:80", "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
            (17, "192.168.1.52:54585", "8.8.8.8:53", "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
            (132, "192.168.170.8:7", "192.168.170.56:80", "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ="),
            (
                6,
                "[2001:470:e5bf:dead:4957:2174:e82c:4887]:63943",
                "[2607:f8b0:400c:c03::1a]:25",
                "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4=",
            ),
        ] {
            let [one, other] = [one, other].map(|end| end.parse().expect("an end"));
            assert_eq!(of_ends(protocol, one, other), expected, "{one} and {other}");
            assert_eq!(of_ends(protocol, other, one), expected, "either end may be the local one");
        }
    }

    #[test]
    fn ends_at_one_address_are_told_apart_by_their_ports_as_numbers() {
        // 256 is less than 255 by its bytes in the order of this host.
        let [one, other] = ["127.0.0.1:256", "127.0.0.1:255"].map(|end| end.parse().expect("an end"));
        assert_eq!(of_ends(6, one, other), of_ends(6, other, one));
        assert_ne!(of_ends(6, one, other), of_ends(17, one, other));
    }
}
