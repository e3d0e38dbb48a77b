//! Why the daemon could not start or go on.

use std::{io, net::SocketAddr};

use thiserror::Error;

use crate::{
    accounting::guard::GuardError, audit::AuditError, capabilities::CapabilityError, config::error::ConfigurationError,
    discovery::helper::HelperError, http::AccessError, kernel::KernelError, otlp::OtlpError,
};

/// Why the daemon could not start or go on.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The configuration does not fit this host.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// It is not known whom to let in over HTTP.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A capability is missing or could not be given up.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// The address to listen on is not to be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The kernel side failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The process that looks for listening sockets failed.
    #[error(transparent)]
    Discovery(#[from] HelperError),
    /// The rules cannot be put in force.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Nothing can be sent over OTLP.
    #[error(transparent)]
    Otlp(#[from] OtlpError),
    /// There is no audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Netlink failed.
    #[error("cannot list the network interfaces: {0}")]
    Interfaces(#[from] rtnetlink::Error),
    /// The operating system refused something else.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}
