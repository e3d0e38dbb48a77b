//! `audit_…`: what is written to the audit log, and what is not.

use std::{fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{Families, NoLabels, collector};
use crate::snapshot::{AuditSnapshot, Snapshot};

#[derive(Debug)]
pub(super) struct AuditCollector(pub(super) Arc<Snapshot>);

collector!(AuditCollector);

impl AuditCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(audit) = &self.0.audit else { return Ok(()) };
        let AuditSnapshot { written, dropped, bytes, failures, rotations, is_writable, sequence } = audit;
        let none: NoLabels = [];
        families.counter(
            "audit_records",
            "Lines that were written to the audit log",
            written.iter().map(|(event, count)| ([("event", *event)], *count)),
        )?;
        families.counter(
            "audit_dropped",
            "Events that were not written to the audit log, by the reason why",
            dropped.iter().map(|(event, reason, count)| ([("event", *event), ("reason", *reason)], *count)),
        )?;
        families.counter("audit_bytes", "Bytes that were written to the audit log", [(none, *bytes)])?;
        families.counter("audit_failures", "How often the audit log could not be written", [(none, *failures)])?;
        families.counter(
            "audit_rotations",
            "How often the audit log has gone on in another file",
            [(none, *rotations)],
        )?;
        families.gauge(
            "audit_writable",
            "Whether the audit log could be written the last time",
            [(none, u64::from(*is_writable))],
        )?;
        families.gauge("audit_sequence", "Number of the last line of the audit log", [(none, *sequence)])
    }
}
