//! Spans: one for each record of a flow, with the packets' own times.

use std::{
    borrow::Cow,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry::{
    Context, InstrumentationScope, KeyValue, StringValue, Value,
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
        Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider,
        ShouldSample, Span, SpanData, SpanExporter as _, SpanLimits, SpanProcessor,
    },
};
use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, NETWORK_INTERFACE_NAME, NETWORK_TRANSPORT, NETWORK_TYPE, TLS_NEXT_PROTOCOL, TLS_PROTOCOL_VERSION,
};
use tidewaiter_common::packet::protocol;

use super::{
    attributes::{API, ROLE, application, ends},
    courier::Courier,
    gathered::{self, Gathered, LINK},
    outbox::Outbox,
    statistics::Statistics,
    worker::Maker,
};
use crate::{
    api::Role,
    flow::{CloseReason, FlowEnd, FlowRecord},
    snapshot::Direction,
    trace_context::TraceParent,
};

/// Makes spans of records, and requests of spans.
#[derive(Debug)]
pub(super) struct Spans {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    ended: Ended,
    ids: FlowIds,
    exporter: SpanExporter,
    courier: Courier,
    statistics: Arc<Statistics>,
}

/// Spans that have ended.
#[derive(Clone, Debug, Default)]
struct Ended(Gathered<SpanData>);

impl Spans {
    pub(super) fn new(
        resource: &Resource,
        scope: InstrumentationScope,
        sample_ratio: f64,
        outbox: Arc<Outbox>,
        statistics: Arc<Statistics>,
    ) -> Result<Self, ExporterBuildError> {
        let (ended, ids) = (Ended::default(), FlowIds::default());
        let sampler =
            KeepErrors { others: Sampler::TraceIdRatioBased(sample_ratio), statistics: Arc::clone(&statistics) };
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.clone())
            .with_sampler(sampler)
            .with_id_generator(ids.clone())
            // The environment shall not take away what says which flow it is.
            .with_span_limits(SpanLimits::default())
            .with_span_processor(ended.clone())
            .build();
        let courier = Courier::new(outbox);
        let mut exporter = courier.span_exporter()?;
        exporter.set_resource(resource);
        Ok(Self { tracer: provider.tracer_with_scope(scope), provider, ended, ids, exporter, courier, statistics })
    }
}

impl Maker for Spans {
    type Thing = FlowRecord;
    type Made = SpanData;

    fn add(&self, record: &FlowRecord) {
        self.ids.begin(record);
        let mut span = self.tracer.build_with_context(builder(record), &Context::new());
        if let Some(error) = error(record) {
            span.set_status(Status::error(error));
        }
        span.end_with_timestamp(record.last);
    }

    fn gathered(&self) -> &Gathered<SpanData> {
        &self.ended.0
    }

    fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.courier.announce(batch.len());
        self.exporter.export(batch).await
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        // All there is to end is this.
        let _ = self.provider.shutdown();
    }
}

impl SpanProcessor for Ended {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let bytes = gathered::bytes(&span.attributes) + span.links.len() * LINK;
        self.0.add(span, bytes);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Makes the identifiers of spans. All parts of a flow are in one trace: whoever looks at one finds the others, and the sampler
/// decides alike for all of them.
#[derive(Clone, Debug, Default)]
struct FlowIds {
    hasher: RandomState,
    /// The two halves of a trace's identifier.
    trace: Arc<[AtomicU64; 2]>,
    random: RandomIdGenerator,
}

impl FlowIds {
    /// Takes note that the next span is of `record`. Nobody can choose a flow's trace, nor with it whether it is sampled: the hash
    /// has a key of its own.
    fn begin(&self, record: &FlowRecord) {
        let FlowRecord { local, remote, protocol, interface, began, .. } = record;
        for (half, place) in self.trace.iter().zip(0_u8..) {
            half.store(self.hasher.hash_one((place, local, remote, protocol, interface, began)), Relaxed);
        }
    }
}

impl IdGenerator for FlowIds {
    fn new_trace_id(&self) -> TraceId {
        let [high, low] = [0, 1].map(|place: usize| u128::from(self.trace[place].load(Relaxed)));
        // All zeros is none.
        TraceId::from((high << 64 | low).max(1))
    }

    fn new_span_id(&self) -> SpanId {
        self.random.new_span_id()
    }
}

/// Keeps all that ended in error, and of others as many as another sampler does.
#[derive(Clone, Debug)]
struct KeepErrors {
    others: Sampler,
    statistics: Arc<Statistics>,
}

impl ShouldSample for KeepErrors {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        if attributes.iter().any(|attribute| attribute.key.as_str() == ERROR_TYPE) {
            let (decision, trace_state) = (SamplingDecision::RecordAndSample, TraceState::default());
            return SamplingResult { decision, attributes: Vec::new(), trace_state };
        }
        let result = self.others.should_sample(parent, trace, name, kind, attributes, links);
        if result.decision == SamplingDecision::Drop {
            self.statistics.leave_out();
        }
        result
    }
}

/// Why a flow is in error, if it is.
const fn error(record: &FlowRecord) -> Option<&'static str> {
    match record.end {
        Some(FlowEnd::Refused) => Some("refused"),
        Some(FlowEnd::Closed(CloseReason::Reset)) => Some("reset"),
        _ => None,
    }
}

fn builder(record: &FlowRecord) -> SpanBuilder {
    let transport = transport(record.protocol);
    let kind = match record.role {
        Some(Role::Server) => SpanKind::Server,
        Some(Role::Client) => SpanKind::Client,
        None => SpanKind::Internal,
    };
    SpanBuilder {
        span_kind: Some(kind),
        name: format!("{} {transport}", record.api).into(),
        start_time: Some(record.first),
        attributes: Some(attributes(record, transport)),
        links: (!record.trace_parents.is_empty()).then(|| record.trace_parents.iter().map(link).collect()),
        ..SpanBuilder::default()
    }
}

/// The trace that a request in the flow was part of.
fn link(parent: &TraceParent) -> Link {
    let TraceParent { trace_id, span_id, flags } = *parent;
    let (trace, span) = (TraceId::from_bytes(trace_id), SpanId::from_bytes(span_id));
    Link::with_context(SpanContext::new(trace, span, TraceFlags::new(flags), true, TraceState::default()))
}

fn attributes(record: &FlowRecord, transport: Cow<'static, str>) -> Vec<KeyValue> {
    let FlowRecord { api, role, interface, local, remote, wire, tcp_flags, .. } = record;
    // None is above 2^63.
    let number = |number: u64| Value::I64(number.cast_signed());
    let mut attributes = Vec::with_capacity(32);
    let mut add = |key: &'static str, value: Value| attributes.push(KeyValue::new(key, value));
    add(API, StringValue::from(Arc::clone(api)).into());
    add(ROLE, role.map_or("none", Role::as_str).into());
    add(NETWORK_TRANSPORT, transport.into());
    add(NETWORK_TYPE, if local.is_ipv4() { "ipv4" } else { "ipv6" }.into());
    add(NETWORK_INTERFACE_NAME, StringValue::from(Arc::clone(interface)).into());
    for (direction, packets, bytes) in [
        (Direction::Receive, "tidewaiter.flow.receive.packets", "tidewaiter.flow.receive.bytes"),
        (Direction::Transmit, "tidewaiter.flow.transmit.packets", "tidewaiter.flow.transmit.bytes"),
    ] {
        let counters = wire[direction.index()];
        add(packets, number(counters.packets));
        add(bytes, number(counters.bytes));
    }
    if record.protocol == protocol::TCP {
        let flags = tcp_flags[Direction::Receive.index()] | tcp_flags[Direction::Transmit.index()];
        add("tidewaiter.flow.tcp.flags", i64::from(flags).into());
        add("tidewaiter.flow.retransmitted.packets", number(record.retransmitted));
    }
    if let Some(end) = record.end {
        add("tidewaiter.flow.end_reason", end.as_str().into());
    }
    if let Some(community_id) = record.community_id() {
        add("tidewaiter.flow.community_id", community_id.into());
    }
    if let Some(error) = error(record) {
        add(ERROR_TYPE, error.into());
    }
    if let Some(handshake) = record.handshake {
        add("tidewaiter.flow.handshake.duration", handshake.as_secs_f64().into());
    }
    if record.responses > 0 {
        add("tidewaiter.flow.response.count", number(record.responses));
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let mean = record.response_time.as_secs_f64() / record.responses as f64;
        add("tidewaiter.flow.response.duration", mean.into());
    }
    if let Some(tls) = &record.tls {
        // What the client offers is not what was agreed on, which the server says, as far as it does in the clear.
        let protocols = (!tls.application_protocols.is_empty()).then(|| tls.application_protocols.join(","));
        let (chosen, offered) = if tls.protocol_is_chosen { (protocols, None) } else { (None, protocols) };
        for (key, value) in [
            (TLS_PROTOCOL_VERSION, tls.version.filter(|_| tls.version_is_chosen).map(Value::from)),
            ("tidewaiter.tls.server_name", tls.server_name.clone().map(Value::from)),
            (TLS_NEXT_PROTOCOL, chosen.map(Value::from)),
            ("tidewaiter.tls.offered_protocols", offered.map(Value::from)),
        ] {
            attributes.extend(value.map(|value| KeyValue::new(key, value)));
        }
    }
    attributes.extend(ends(*role, *local, *remote));
    attributes.extend(application(record.application));
    attributes
}

/// The protocol above IP, in lower case, as IANA calls it; its number if it is none of the usual ones.
fn transport(number: u8) -> Cow<'static, str> {
    match number {
        protocol::TCP => "tcp".into(),
        protocol::UDP => "udp".into(),
        protocol::SCTP => "sctp".into(),
        protocol::ICMP => "icmp".into(),
        protocol::ICMPV6 => "ipv6-icmp".into(),
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests;
