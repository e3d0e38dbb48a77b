//! The transport protocols whose ports APIs are found by.

use crate::numbered::numbered;

numbered! {
    /// A transport protocol whose ports APIs are found by.
    Transport {
        /// TCP, RFC 9293.
        Tcp = "tcp",
        /// UDP, RFC 768.
        Udp = "udp",
        /// SCTP, RFC 9260.
        Sctp = "sctp",
    }
}
