//! What a replay says: tables for people, JSON, or the metrics that the exporter would have shown.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    net::IpAddr,
    sync::Arc,
};

use clap::ValueEnum;
use serde::Serialize;
use thiserror::Error;

use super::{
    Outcome,
    rules::{self, RuleRow},
};
use crate::{
    flow::{FlowClock, FlowContext, FlowRecord},
    greeting::Greetings,
    metrics::exposition::{ExpositionError, Format as Exposition},
    report::{Count, api::ApiRow, flow::FlowRow},
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
    rules: Vec<RuleRow>,
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
struct UncountedRow {
    reason: &'static str,
    receive: Count,
    transmit: Count,
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
            apis: self.snapshot.apis.iter().map(ApiRow::from).collect(),
            uncounted: uncounted.filter(|row| row.receive.packets + row.transmit.packets > 0).collect(),
            rules: rules::rows(self),
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
        flows.sort_by_key(|(key, flow, _)| (flow.first, IpAddr::from(key.local), key.local_port, key.remote_port));
        let context = FlowContext {
            apis: self.apis.clone(),
            interfaces: HashMap::new(),
            clock: FlowClock::Captured,
            greetings: Greetings::default(),
        };
        let rows = flows
            .into_iter()
            .map(|(key, flow, known)| FlowRow::from(&FlowRecord::with(key, flow, known.clone(), &context)));
        // A capture does not say which it was.
        rows.map(|row| FlowRow { interface: None, ..row }).collect()
    }
}

impl Report {
    fn table(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let Self { frames, bytes, apis, uncounted, rules, flows, refused, refusals, unreadable, .. } = self;
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
        if !rules.is_empty() {
            writeln!(text, "\n{:<24} {:<24} {:<13}{:>12}", "rule", "api", "verdict", "packets")?;
            for row in rules {
                writeln!(text, "{row}")?;
            }
        }
        if let Some(flows) = flows {
            let (local, remote) = ("local", "remote");
            writeln!(
                text,
                "\n{:<16} {:<9}{local:<47} {remote:<47}{:>12} {:>14} {:>12} {:>14} {:>10} {:<9}{:<9} {:<8}{:>13}{:>9}{:>13}  looks like",
                "flow of",
                "protocol",
                "receive",
                "bytes",
                "transmit",
                "bytes",
                "seconds",
                "flags in",
                "flags out",
                "end",
                "handshake ms",
                "answers",
                "mean ms",
            )?;
            for flow in flows {
                let FlowRow { api, protocol, local, remote, receive, transmit, first, last, .. } = flow;
                let milliseconds =
                    |seconds: Option<f64>| seconds.map_or_else(String::new, |s| format!("{:.3}", s * 1e3));
                writeln!(
                    text,
                    "{api:<16} {protocol:<9}{:<47} {:<47}{} {} {:>10.3} {:<9}{:<9} {:<8}{:>13}{:>9}{:>13}  {}",
                    local.to_string(),
                    remote.to_string(),
                    receive.count,
                    transmit.count,
                    last - first,
                    receive.tcp_flags.as_deref().unwrap_or_default(),
                    transmit.tcp_flags.as_deref().unwrap_or_default(),
                    flow.end.unwrap_or_default(),
                    milliseconds(flow.handshake),
                    flow.responses.as_ref().map_or_else(String::new, |responses| responses.count.to_string()),
                    milliseconds(flow.responses.as_ref().map(|responses| responses.mean)),
                    flow.looks_like()
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
