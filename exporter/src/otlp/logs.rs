//! Log records: one for each event.

use std::{fmt, sync::Arc, time::Duration};

use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity},
};
use opentelemetry_otlp::{ExporterBuildError, LogExporter};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{LogBatch, LogExporter as _, LogProcessor, SdkLogRecord, SdkLogger, SdkLoggerProvider},
};

use super::{
    attributes::{API, ROLE, application, known_ends},
    courier::Courier,
    gathered::Gathered,
    outbox::Outbox,
    statistics::Statistics,
    worker::Maker,
};
use crate::{
    anomaly::{Anomaly, AnomalyKind},
    api::Role,
    event::{Event, Happening},
};

/// What a log record takes of a request, at most: a dozen attributes, with 32 bytes of a payload as text.
const RECORD_BYTES: usize = 1024;

/// The kind of an anomaly, as metrics have it too.
const ANOMALY_KIND: &str = "tidewaiter.anomaly.kind";

/// Makes log records of events, and requests of log records.
pub(super) struct Logs {
    provider: SdkLoggerProvider,
    logger: SdkLogger,
    scope: InstrumentationScope,
    emitted: Emitted,
    exporter: LogExporter,
    courier: Courier,
    statistics: Arc<Statistics>,
}

impl fmt::Debug for Logs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Logs").field("emitted", &self.emitted).finish_non_exhaustive()
    }
}

/// Log records that were emitted.
#[derive(Clone, Debug, Default)]
struct Emitted(Gathered<SdkLogRecord>);

impl Logs {
    pub(super) fn new(
        resource: &Resource,
        scope: InstrumentationScope,
        outbox: Arc<Outbox>,
        statistics: Arc<Statistics>,
    ) -> Result<Self, ExporterBuildError> {
        let emitted = Emitted::default();
        let provider =
            SdkLoggerProvider::builder().with_resource(resource.clone()).with_log_processor(emitted.clone()).build();
        let courier = Courier::new(outbox);
        let mut exporter = courier.log_exporter()?;
        exporter.set_resource(resource);
        let logger = provider.logger_with_scope(scope.clone());
        Ok(Self { provider, logger, scope, emitted, exporter, courier, statistics })
    }
}

impl Maker for Logs {
    type Thing = Event;
    type Made = SdkLogRecord;

    fn add(&self, event: &Event) {
        let Event { time, what } = event;
        let mut record = self.logger.create_log_record();
        record.set_timestamp(*time);
        record.set_observed_timestamp(*time);
        record.set_severity_number(Severity::Warn);
        record.set_severity_text("WARN");
        match what {
            Happening::Anomaly(anomaly) => {
                record.set_event_name(anomaly_name(anomaly.kind));
                record.set_body(anomaly.detail.clone().into());
                add_all(&mut record, attributes(anomaly));
            }
            Happening::MoreAnomalies { api, kind, untold } => {
                record.set_event_name("tidewaiter.anomaly.more");
                record.set_body("more anomalies of the last minute: they are counted all".into());
                let count = i64::try_from(*untold).unwrap_or(i64::MAX);
                add_all(
                    &mut record,
                    vec![
                        KeyValue::new(API, Arc::clone(api)),
                        KeyValue::new(ANOMALY_KIND, kind.as_str()),
                        KeyValue::new("tidewaiter.anomaly.count", count),
                    ],
                );
            }
            // Nobody makes others yet.
            _ => return,
        }
        self.logger.emit(record);
    }

    fn gathered(&self) -> &Gathered<SdkLogRecord> {
        &self.emitted.0
    }

    fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    async fn export(&self, batch: Vec<SdkLogRecord>) -> OTelSdkResult {
        self.courier.announce(batch.len());
        let batch: Vec<_> = batch.iter().map(|record| (record, &self.scope)).collect();
        self.exporter.export(LogBatch::new(&batch)).await
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        // All there is to end is this.
        let _ = self.provider.shutdown();
    }
}

impl LogProcessor for Emitted {
    fn emit(&self, record: &mut SdkLogRecord, _: &InstrumentationScope) {
        // All that is long in one is the beginning of a payload, which is short.
        self.0.add(record.clone(), RECORD_BYTES);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The name of the event, which has to be a static one.
const fn anomaly_name(kind: AnomalyKind) -> &'static str {
    macro_rules! names {
        ($($kind:ident = $name:literal,)+) => {
            match kind { $(AnomalyKind::$kind => concat!("tidewaiter.anomaly.", $name),)+ }
        };
    }
    names! {
        UnexpectedPayload = "unexpected_payload",
        BadTcpFlags = "bad_tcp_flags",
        Land = "land",
        Malformed = "malformed",
        TinyFragment = "tiny_fragment",
        OverlappingFragment = "overlapping_fragment",
        UnexpectedProtocol = "unexpected_protocol",
        PortScan = "port_scan",
        SynFlood = "syn_flood",
        ConnectionChurn = "connection_churn",
        Amplification = "amplification",
        IcmpFlood = "icmp_flood",
    }
}

fn attributes(anomaly: &Anomaly) -> Vec<KeyValue> {
    let Anomaly { kind, api, role, local, remote, application: looks_like, rule, detail: _, first_bytes } = anomaly;
    let mut attributes = vec![
        KeyValue::new(API, Arc::clone(api)),
        KeyValue::new(ROLE, role.map_or("none", Role::as_str)),
        KeyValue::new(ANOMALY_KIND, kind.as_str()),
        KeyValue::new("tidewaiter.payload.first_bytes", first_bytes.escape_ascii().to_string()),
    ];
    attributes.extend(rule.iter().map(|rule| KeyValue::new("tidewaiter.rule", Arc::clone(rule))));
    attributes.extend(known_ends(*role, *local, *remote));
    attributes.extend(looks_like.map(application).into_iter().flatten());
    attributes
}

fn add_all(record: &mut SdkLogRecord, attributes: Vec<KeyValue>) {
    record.add_attributes(attributes.into_iter().map(|KeyValue { key, value, .. }| (key, any_value(value))));
}

/// The same value, as log records have them.
fn any_value(value: Value) -> AnyValue {
    match value {
        Value::Bool(value) => value.into(),
        Value::I64(value) => value.into(),
        Value::F64(value) => value.into(),
        other => other.as_str().into_owned().into(),
    }
}
