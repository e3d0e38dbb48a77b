//! Log records: one for each event.

use std::{fmt, sync::Arc, time::Duration};

use opentelemetry::{
    Array, InstrumentationScope, KeyValue, StringValue, Value,
    logs::{AnyValue, LogRecord as _, Logger as _, LoggerProvider as _, Severity},
};
use opentelemetry_otlp::{ExporterBuildError, LogExporter};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{LogBatch, LogExporter as _, LogProcessor, SdkLogRecord, SdkLogger, SdkLoggerProvider},
};

use super::{
    attributes::{application, known_ends},
    courier::Courier,
    gathered::Gathered,
    outbox::Outbox,
    statistics::Statistics,
    worker::Maker,
};
use crate::event::{
    self, Event,
    facts::{Facts, Value as Fact},
    texts::{rfc3339, shortened},
};

/// What a log record takes of a request beside the texts of its attributes, about: times, a name, a body of a line, and what
/// it takes to tell a dozen attributes apart.
const OVERHEAD: usize = 512;

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
        let severity = what.severity();
        record.set_severity_number(match severity {
            event::Severity::Info => Severity::Info,
            event::Severity::Warn => Severity::Warn,
        });
        record.set_severity_text(severity.as_str());
        record.set_event_name(what.name());
        record.set_body(shortened(&what.message()).into_owned().into());
        let attributes = attributes(what.facts());
        record.add_attributes(attributes.into_iter().map(|KeyValue { key, value, .. }| (key, any_value(value))));
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
        let texts: usize = record.attributes_iter().map(|(key, value)| key.as_str().len() + length(value)).sum();
        self.0.add(record.clone(), OVERHEAD + texts);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The attributes that say what `facts` do.
fn attributes(facts: Facts) -> Vec<KeyValue> {
    let Facts { fields, role, local, remote, application: looks_like } = facts;
    let mut attributes: Vec<_> =
        fields.into_iter().map(|(key, fact)| KeyValue::new(key.attribute(), value(fact))).collect();
    attributes.extend(known_ends(role, local, remote));
    attributes.extend(looks_like.map(application).into_iter().flatten());
    attributes
}

fn value(fact: Fact) -> Value {
    match fact {
        Fact::Text(text) => text.into(),
        Fact::Number(number) => i64::try_from(number).unwrap_or(i64::MAX).into(),
        Fact::Flag(flag) => flag.into(),
        Fact::Time(time) => rfc3339(time).into(),
        Fact::List(texts) => Value::Array(texts.into_iter().map(StringValue::from).collect::<Vec<_>>().into()),
    }
}

/// The same value, as log records have them.
fn any_value(value: Value) -> AnyValue {
    match value {
        Value::Bool(value) => value.into(),
        Value::I64(value) => value.into(),
        Value::F64(value) => value.into(),
        Value::Array(Array::String(texts)) => {
            AnyValue::ListAny(Box::new(texts.into_iter().map(AnyValue::from).collect()))
        }
        other => other.as_str().into_owned().into(),
    }
}

/// About how many bytes of text there are in `value`.
fn length(value: &AnyValue) -> usize {
    match value {
        AnyValue::String(text) => text.as_str().len(),
        AnyValue::ListAny(values) => values.iter().map(length).sum(),
        _ => 0,
    }
}
