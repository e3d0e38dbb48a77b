//! From which on something is an anomaly.

use std::time::Duration;

use tidewaiter_common::anomaly::{
    AnomalyKind,
    settings::{ProtocolSet, Settings},
};

use super::protocols;

/// What is looked for, and from which on it is an anomaly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// The kinds that are looked for.
    pub enabled: Vec<AnomalyKind>,
    /// Protocols above IP that are expected, by their numbers.
    pub expected_protocols: Vec<u8>,
    /// See [`AnomalyKind::PortScan`].
    pub port_scan: PortScan,
    /// See [`AnomalyKind::SynFlood`].
    pub syn_flood: SynFlood,
    /// See [`AnomalyKind::ConnectionChurn`].
    pub connection_churn: ConnectionChurn,
    /// See [`AnomalyKind::IcmpFlood`].
    pub icmp_flood: IcmpFlood,
    /// See [`AnomalyKind::Amplification`].
    pub amplification: Amplification,
}

/// What makes a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortScan {
    /// In how long.
    pub window: Duration,
    /// So many ports that one source has tried without getting through.
    pub ports: u64,
    /// So many local addresses at which one source has tried one port, likewise.
    pub addresses: u64,
}

/// What makes a flood of SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynFlood {
    /// In how long.
    pub window: Duration,
    /// So many connections to one API that were begun, and neither completed nor refused …
    pub half_open: u64,
    /// … if of a hundred that were begun no more than this were completed.
    pub completed_percent: u64,
}

/// What makes churn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionChurn {
    /// In how long.
    pub window: Duration,
    /// So many connections of one client …
    pub connections: u64,
    /// … each of which lasted less than this.
    pub shorter_than: Duration,
}

/// What makes a flood of ICMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpFlood {
    /// In how long.
    pub window: Duration,
    /// So many messages of one source.
    pub from_one: u64,
    /// So many messages of all sources.
    pub from_all: u64,
}

/// What makes amplification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amplification {
    /// In how long.
    pub window: Duration,
    /// So many times larger than what was asked is what one client was answered.
    pub ratio: u64,
    /// And at least so many bytes on the wire.
    pub bytes: u64,
}

impl Default for Thresholds {
    /// High enough that a busy host without trouble stays below; the README says why each is what it is.
    fn default() -> Self {
        Self {
            enabled: AnomalyKind::ALL.to_vec(),
            expected_protocols: protocols::usual().collect(),
            port_scan: PortScan { window: Duration::from_mins(1), ports: 50, addresses: 20 },
            syn_flood: SynFlood { window: Duration::from_secs(5), half_open: 500, completed_percent: 50 },
            connection_churn: ConnectionChurn {
                window: Duration::from_secs(10),
                connections: 1000,
                shorter_than: Duration::from_secs(1),
            },
            icmp_flood: IcmpFlood { window: Duration::from_secs(10), from_one: 1000, from_all: 10_000 },
            amplification: Amplification { window: Duration::from_mins(1), ratio: 10, bytes: 1_000_000 },
        }
    }
}

impl Thresholds {
    /// Whether `kind` is looked for.
    #[must_use]
    pub fn is_enabled(&self, kind: AnomalyKind) -> bool {
        self.enabled.contains(&kind)
    }

    /// The same as the kernel side has it.
    pub(crate) fn settings(&self) -> Settings {
        let Self { enabled, expected_protocols, port_scan, syn_flood, connection_churn, icmp_flood, amplification: _ } =
            self;
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Settings {
            expected: expected_protocols.iter().copied().collect::<ProtocolSet>(),
            enabled: enabled.iter().fold(0, |bits, kind| bits | 1 << kind.index()),
            scan_window: nanoseconds(port_scan.window),
            scan_ports: port_scan.ports,
            scan_addresses: port_scan.addresses,
            flood_window: nanoseconds(syn_flood.window),
            flood_half_open: syn_flood.half_open,
            flood_completed: syn_flood.completed_percent,
            churn_window: nanoseconds(connection_churn.window),
            churn_connections: connection_churn.connections,
            churn_lifetime: nanoseconds(connection_churn.shorter_than),
            icmp_window: nanoseconds(icmp_flood.window),
            icmp_from_one: icmp_flood.from_one,
            icmp_from_all: icmp_flood.from_all,
        }
    }
}
