//! What a replay says: tables for people, JSON, or the metrics that the exporter would have shown.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use clap::ValueEnum;
use serde::Serialize;
use thiserror::Error;
use tidewaiter_common::{
    api::ApiSlot,
    flow::{Flow, FlowKey},
    packet::{protocol, tcp_flag},
};

use super::Outcome;
use crate::{
    api::{Role, reserved},
    metrics::exposition::{ExpositionError, Format as Exposition},
    snapshot::{Counters, Direction, Reason},
};

/// How a replay is reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables for people to read.
    #[default]
    Table,
    /// One JSON object.
    Json,
    /// What `/metrics` would have been, as classic text. There are no flows in it.
    Prometheus,
}

/// A report that could not be written.
#[derive(Debug, Error)]
pub enum ReportError {
    /// As a table.
    #[error("cannot write the report")]
    Table(#[from] fmt::Error),
    /// As JSON.
    #[error("cannot write the report as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// As metrics.
    #[error(transparent)]
    Prometheus(#[from] ExpositionError),
}

/// All of it, in the shape of the JSON object.
#[derive(Debug, Serialize)]
struct Report {
    frames: u64,
    bytes: u64,
    apis: Vec<ApiRow>,
    uncounted: Vec<UncountedRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flows: Option<Vec<FlowRow>>,
    /// Frames that the kernel would not run a program on.
    refused: u64,
    refused_bytes: u64,
    refusals: Vec<RefusalRow>,
    unreadable: Vec<UnreadableRow>,
    failures: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ApiRow {
    api: String,
    role: &'static str,
    receive: Count,
    transmit: Count,
    /// Packets that are in no flow.
    untracked: u64,
}

#[derive(Debug, Serialize)]
struct UncountedRow {
    reason: &'static str,
    receive: Count,
    transmit: Count,
}

#[derive(Debug, Serialize)]
struct FlowRow {
    api: String,
    protocol: String,
    local: End,
    remote: End,
    receive: Sent,
    transmit: Sent,
    /// In seconds since the epoch, by the capture's own clock.
    first: f64,
    last: f64,
}

#[derive(Debug, Serialize)]
struct End {
    address: IpAddr,
    port: u16,
}

/// What was sent one way.
#[derive(Debug, Serialize)]
struct Sent {
    #[serde(flatten)]
    count: Count,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_flags: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Count {
    packets: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct RefusalRow {
    file: String,
    frame: u64,
    length: u32,
    captured: usize,
    reason: String,
}

#[derive(Debug, Serialize)]
struct UnreadableRow {
    link_type: u16,
    frames: u64,
}

impl Outcome {
    /// What a reader of any report should know of frames that are not in it; `None` if all are.
    #[must_use]
    pub fn left_out(&self) -> Option<String> {
        let unreadable: u64 = self.tally.unreadable.values().sum();
        let refused = self.tally.refused;
        (refused + unreadable > 0).then(|| {
            format!("{refused} frames that the kernel refuses and {unreadable} of unknown link types were not counted")
        })
    }

    /// Reports it as `format`; each flow too if `flows`.
    pub fn report(self, format: Format, flows: bool) -> Result<String, ReportError> {
        match format {
            Format::Table => Ok(self.rows(flows).table()?),
            Format::Json => Ok(serde_json::to_string_pretty(&self.rows(flows))? + "\n"),
            Format::Prometheus => {
                let text = Exposition::ClassicText.encode(&Arc::new(self.snapshot))?;
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
        }
    }

    fn rows(&self, flows: bool) -> Report {
        let apis = self.snapshot.apis.iter().map(|api| {
            let [receive, transmit] = api.counters.wire.map(Count::from);
            ApiRow {
                api: api.name.clone(),
                role: api.role.map_or("none", Role::as_str),
                receive,
                transmit,
                untracked: api.counters.untracked.packets,
            }
        });
        let uncounted = Reason::ALL.iter().map(|reason| {
            let [receive, transmit] = Direction::ALL.map(|direction| {
                let interfaces = self.snapshot.interfaces.iter();
                let counts = interfaces.map(|one| one.counters.uncounted[direction.index()][reason.index()]);
                Count::from(counts.sum::<Counters>())
            });
            UncountedRow { reason: reason.as_str(), receive, transmit }
        });
        let refusals = self.tally.refusals.iter().map(|refusal| RefusalRow {
            file: refusal.file.display().to_string(),
            frame: refusal.frame,
            length: refusal.length,
            captured: refusal.captured,
            reason: refusal.reason.clone(),
        });
        let unreadable = self.tally.unreadable.iter().map(|(&link_type, &frames)| UnreadableRow { link_type, frames });
        Report {
            frames: self.tally.frames,
            bytes: self.tally.bytes,
            apis: apis.collect(),
            uncounted: uncounted.filter(|row| row.receive.packets + row.transmit.packets > 0).collect(),
            flows: flows.then(|| self.flow_rows()),
            refused: self.tally.refused,
            refused_bytes: self.tally.refused_bytes,
            refusals: refusals.collect(),
            unreadable: unreadable.collect(),
            failures: self.failures.iter().map(|failure| crate::chain::chain(failure)).collect(),
        }
    }

    /// The flows, in the order in which they began.
    fn flow_rows(&self) -> Vec<FlowRow> {
        let mut flows: Vec<_> = self.flows.iter().collect();
        flows.sort_by_key(|(key, flow)| (flow.first, IpAddr::from(key.local), key.local_port, key.remote_port));
        flows.into_iter().map(|(key, flow)| self.flow_row(key, flow)).collect()
    }

    fn flow_row(&self, key: &FlowKey, flow: &Flow) -> FlowRow {
        let FlowKey { local, remote, interface: _, local_port, remote_port, protocol } = *key;
        let sent = |direction: Direction| Sent {
            count: flow.counters(direction).into(),
            tcp_flags: (protocol == u32::from(protocol::TCP)).then(|| tcp_flags(flow.tcp_flags(direction))),
        };
        FlowRow {
            api: self.api_name(flow.api).to_owned(),
            protocol: protocol_name(protocol),
            local: End { address: local.into(), port: local_port },
            remote: End { address: remote.into(), port: remote_port },
            receive: sent(Direction::Receive),
            transmit: sent(Direction::Transmit),
            first: seconds(flow.first),
            last: seconds(flow.last),
        }
    }

    fn api_name(&self, slot: ApiSlot) -> &str {
        self.names.get(&slot).map_or(reserved::UNMAPPED, String::as_str)
    }
}

impl Report {
    fn table(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let Self { frames, bytes, apis, uncounted, flows, refused, refusals, unreadable, .. } = self;
        writeln!(text, "{frames} frames, {bytes} bytes")?;
        writeln!(
            text,
            "\n{:<24} {:<8}{:>12} {:>14} {:>12} {:>14}",
            "api", "role", "receive", "bytes", "transmit", "bytes"
        )?;
        for ApiRow { api, role, receive, transmit, untracked: _ } in apis {
            writeln!(text, "{api:<24} {role:<8}{receive} {transmit}")?;
        }
        if !uncounted.is_empty() {
            writeln!(
                text,
                "\n{:<33}{:>12} {:>14} {:>12} {:>14}",
                "uncounted", "receive", "bytes", "transmit", "bytes"
            )?;
            for UncountedRow { reason, receive, transmit } in uncounted {
                writeln!(text, "{reason:<33}{receive} {transmit}")?;
            }
        }
        if let Some(flows) = flows {
            let (local, remote) = ("local", "remote");
            writeln!(
                text,
                "\n{:<16} {:<9}{local:<47} {remote:<47}{:>12} {:>14} {:>12} {:>14} {:>10} {:<9}{:<9}",
                "flow of", "protocol", "receive", "bytes", "transmit", "bytes", "seconds", "flags in", "flags out"
            )?;
            for FlowRow { api, protocol, local, remote, receive, transmit, first, last } in flows {
                writeln!(
                    text,
                    "{api:<16} {protocol:<9}{:<47} {:<47}{} {} {:>10.3} {:<9}{}",
                    local.to_string(),
                    remote.to_string(),
                    receive.count,
                    transmit.count,
                    last - first,
                    receive.tcp_flags.as_deref().unwrap_or_default(),
                    transmit.tcp_flags.as_deref().unwrap_or_default()
                )?;
            }
        }
        for UnreadableRow { link_type, frames } in unreadable {
            writeln!(text, "\n{frames} frames of link type {link_type}, which cannot be read")?;
        }
        if *refused > 0 {
            writeln!(text, "\n{refused} frames that the kernel refuses to run a program on:")?;
            for RefusalRow { file, frame, length, captured, reason } in refusals {
                writeln!(text, "  {file}: frame {frame}, {captured} of {length} bytes: {reason}")?;
            }
            if *refused > refusals.len() as u64 {
                writeln!(text, "  and {} more", *refused - refusals.len() as u64)?;
            }
        }
        Ok(text)
    }
}

impl From<Counters> for Count {
    fn from(Counters { packets, bytes }: Counters) -> Self {
        Self { packets, bytes }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:>12} {:>14}", self.packets, self.bytes)
    }
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            0 => self.address.fmt(formatter),
            port => SocketAddr::new(self.address, port).fmt(formatter),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "to be shown, with less digits than there are")]
fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn protocol_name(number: u32) -> String {
    let known = [
        (protocol::ICMP, "icmp"),
        (protocol::TCP, "tcp"),
        (protocol::UDP, "udp"),
        (protocol::GRE, "gre"),
        (protocol::ICMPV6, "icmpv6"),
        (protocol::SCTP, "sctp"),
    ];
    known
        .into_iter()
        .find(|(protocol, _)| u32::from(*protocol) == number)
        .map_or_else(|| number.to_string(), |(_, name)| name.to_owned())
}

/// The flags as tcpdump writes them, and a dot for ACK.
fn tcp_flags(flags: u8) -> String {
    let letters = [
        (tcp_flag::SYN, 'S'),
        (tcp_flag::FIN, 'F'),
        (tcp_flag::RST, 'R'),
        (tcp_flag::PSH, 'P'),
        (tcp_flag::URG, 'U'),
        (tcp_flag::ECE, 'E'),
        (tcp_flag::CWR, 'W'),
        (tcp_flag::ACK, '.'),
    ];
    letters.into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, letter)| letter).collect()
}
