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
    statistics::{Dropped, Statistics},
    worker::{Maker, Waiting},
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

    fn add(&self, record: &FlowRecord) {
        self.ids.begin(record);
        let mut span = self.tracer.build_with_context(builder(record), &Context::new());
        if let Some(error) = error(record) {
            span.set_status(Status::error(error));
        }
        span.end_with_timestamp(record.last);
    }

    fn waiting(&self) -> Waiting {
        self.ended.0.waiting()
    }

    async fn flush(&self) {
        let batch = self.ended.0.take();
        let items = batch.len();
        if items == 0 {
            return;
        }
        self.courier.announce(items);
        if let Err(error) = self.exporter.export(batch).await {
            self.statistics.failed(&error, items);
        }
    }

    fn give_up(&self, more: usize) {
        self.statistics.dropped(Dropped::Shutdown, (self.ended.0.take().len() + more) as u64);
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
    trace: Arc<AtomicU64Pair>,
    random: RandomIdGenerator,
}

/// The two halves of a trace's identifier.
type AtomicU64Pair = [AtomicU64; 2];

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
mod tests {
    use std::{
        collections::BTreeMap,
        net::SocketAddr,
        sync::Arc,
        time::{Duration, SystemTime, UNIX_EPOCH},
    };

    use opentelemetry::{
        InstrumentationScope, KeyValue, Value,
        trace::{SpanKind, Status},
    };
    use opentelemetry_sdk::trace::SpanData;

    use super::Spans;
    use crate::{
        api::{Role, reserved},
        flow::{CloseReason, FlowEnd, FlowRecord, Protocol, TlsHello},
        otlp::{
            Signal, Statistics,
            outbox::Outbox,
            resource::resource,
            worker::{Maker as _, Waiting},
        },
        snapshot::Counters,
    };

    const ROOM: usize = 1 << 20;

    fn at(milliseconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + milliseconds)
    }

    fn record() -> FlowRecord {
        FlowRecord {
            api: "orders".into(),
            role: Some(Role::Server),
            interface: "eth0".into(),
            local: SocketAddr::from(([10, 0, 0, 1], 8080)),
            remote: SocketAddr::from(([10, 0, 0, 2], 40_000)),
            protocol: 6,
            wire: [Counters { packets: 5, bytes: 500 }, Counters { packets: 4, bytes: 4000 }],
            tcp_flags: [0x02, 0x11],
            first: at(0),
            last: at(1500),
            end: Some(FlowEnd::Closed(CloseReason::Fin)),
            handshake: Some(Duration::from_millis(20)),
            responses: 4,
            response_time: Duration::from_millis(100),
            retransmitted: 1,
            application: Protocol::Http1,
            tls: None,
            trace_parents: Vec::new(),
            began: 7,
        }
    }

    fn spans(sample_ratio: f64) -> (Spans, Arc<Outbox>, Arc<Statistics>) {
        let statistics = Arc::new(Statistics::new(Signal::Traces, ROOM));
        let outbox = Arc::new(Outbox::new(ROOM, Arc::clone(&statistics)));
        let (resource, scope) = (resource(&BTreeMap::new(), ""), InstrumentationScope::builder("test").build());
        let (waiting, counts) = (Arc::clone(&outbox), Arc::clone(&statistics));
        (Spans::new(&resource, scope, sample_ratio, outbox, statistics).expect("starts"), waiting, counts)
    }

    fn span(record: &FlowRecord) -> SpanData {
        let (spans, ..) = spans(1.0);
        spans.add(record);
        spans.ended.0.take().pop().expect("has ended")
    }

    fn attribute<'a>(span: &'a SpanData, key: &str) -> Option<&'a Value> {
        span.attributes.iter().find(|KeyValue { key: name, .. }| name.as_str() == key).map(|attribute| &attribute.value)
    }

    fn text(span: &SpanData, key: &str) -> String {
        attribute(span, key).map_or_else(|| "-".to_owned(), ToString::to_string)
    }

    #[test]
    fn a_span_says_all_that_a_record_does() {
        let span = span(&record());
        assert_eq!((&*span.name, &span.span_kind, &span.status), ("orders tcp", &SpanKind::Server, &Status::Unset));
        assert_eq!((span.start_time, span.end_time), (at(0), at(1500)));
        let mut told: Vec<_> =
            span.attributes.iter().map(|KeyValue { key, value, .. }| format!("{key}={value}")).collect();
        told.sort_unstable();
        assert_eq!(
            told,
            [
                "client.address=10.0.0.2",
                "client.port=40000",
                "network.interface.name=eth0",
                "network.protocol.name=http",
                "network.protocol.version=1",
                "network.transport=tcp",
                "network.type=ipv4",
                "server.address=10.0.0.1",
                "server.port=8080",
                "tidewaiter.api=orders",
                "tidewaiter.flow.community_id=1:IHM3YPTZ7HUTvuRDYhLeJClYCV8=",
                "tidewaiter.flow.end_reason=fin",
                "tidewaiter.flow.handshake.duration=0.02",
                "tidewaiter.flow.receive.bytes=500",
                "tidewaiter.flow.receive.packets=5",
                "tidewaiter.flow.response.count=4",
                "tidewaiter.flow.response.duration=0.025",
                "tidewaiter.flow.retransmitted.packets=1",
                "tidewaiter.flow.tcp.flags=19",
                "tidewaiter.flow.transmit.bytes=4000",
                "tidewaiter.flow.transmit.packets=4",
                "tidewaiter.role=server",
            ]
        );
    }

    #[test]
    fn who_is_the_client_is_said_where_it_is_known() {
        let client = span(&FlowRecord { role: Some(Role::Client), ..record() });
        assert_eq!(client.span_kind, SpanKind::Client);
        assert_eq!(
            (text(&client, "client.port"), text(&client, "server.port")),
            ("8080".to_owned(), "40000".to_owned())
        );
        let unmapped = span(&FlowRecord { role: None, api: reserved::UNMAPPED.into(), protocol: 1, ..record() });
        assert_eq!((&*unmapped.name, &unmapped.span_kind), ("unmapped icmp", &SpanKind::Internal));
        assert_eq!(text(&unmapped, "client.address"), "-");
        assert_eq!(text(&unmapped, "network.local.address"), "10.0.0.1");
        assert_eq!(text(&unmapped, "network.peer.port"), "40000");
        assert_eq!(text(&unmapped, "tidewaiter.flow.tcp.flags"), "-");
        assert_eq!(text(&span(&FlowRecord { protocol: 253, ..record() }), "network.transport"), "253");
    }

    #[test]
    fn what_tls_says_in_the_clear_is_said() {
        let tls = TlsHello {
            version: Some("1.3"),
            server_name: Some("shop.example.com".to_owned()),
            application_protocols: vec!["h2".to_owned()],
            version_is_chosen: true,
            protocol_is_chosen: true,
        };
        let offered = TlsHello { version_is_chosen: false, protocol_is_chosen: false, ..tls.clone() };
        let offered = span(&FlowRecord { tls: Some(Arc::new(offered)), ..record() });
        for (key, value) in
            [("tls.protocol.version", "-"), ("tls.next_protocol", "-"), ("tidewaiter.tls.offered_protocols", "h2")]
        {
            assert_eq!(text(&offered, key), value, "{key}");
        }
        let span = span(&FlowRecord { tls: Some(Arc::new(tls)), application: Protocol::Tls, ..record() });
        for (key, value) in [
            ("tls.protocol.version", "1.3"),
            ("tls.next_protocol", "h2"),
            ("tidewaiter.tls.server_name", "shop.example.com"),
            ("network.protocol.name", "tls"),
        ] {
            assert_eq!(text(&span, key), value, "{key}");
        }
    }

    #[test]
    fn a_connection_that_ended_in_error_is_in_error_and_always_kept() {
        let (spans, _, statistics) = spans(0.0);
        for (end, error) in [
            (Some(FlowEnd::Closed(CloseReason::Reset)), Some("reset")),
            (Some(FlowEnd::Refused), Some("refused")),
            (Some(FlowEnd::Closed(CloseReason::Fin)), None),
            (Some(FlowEnd::Closed(CloseReason::Idle)), None),
            (None, None),
        ] {
            spans.add(&FlowRecord { end, ..record() });
            let ended = spans.ended.0.take();
            assert_eq!(ended.len(), usize::from(error.is_some()), "{end:?}");
            let (Some(error), Some(span)) = (error, ended.first()) else { continue };
            assert_eq!(span.status, Status::error(error));
            assert_eq!(text(span, "error.type"), error);
        }
        assert_eq!(statistics.snapshot().unsampled, Some(3));
    }

    #[test]
    fn all_parts_of_a_flow_are_in_one_trace_and_other_flows_are_not() {
        let (spans, ..) = spans(0.5);
        let mut kept = 0;
        for began in 0..100 {
            for part in 0..3 {
                let end = Some(if part < 2 { FlowEnd::ActiveTimeout } else { FlowEnd::Closed(CloseReason::Fin) });
                spans.add(&FlowRecord { began, first: at(part), end, ..record() });
            }
            let parts = spans.ended.0.take();
            assert!([0, 3].contains(&parts.len()), "{}", parts.len());
            kept += parts.len();
            assert!(parts.windows(2).all(|pair| pair[0].span_context.trace_id() == pair[1].span_context.trace_id()));
            assert!(parts.windows(2).all(|pair| pair[0].span_context.span_id() != pair[1].span_context.span_id()));
        }
        // Eight standard deviations of a hundred flows are 40.
        assert!((30..270).contains(&kept), "{kept}");
    }

    #[tokio::test]
    async fn of_the_others_a_share_is_kept_and_all_that_are_kept_are_in_a_request() {
        let (spans, outbox, statistics) = spans(0.25);
        for began in 0..4000 {
            spans.add(&FlowRecord { began, ..record() });
        }
        let kept = spans.waiting().items;
        // Eight standard deviations: sqrt(4000 * 0.25 * 0.75) is 27.
        assert!((1000_usize.abs_diff(kept)) < 8 * 27, "{kept}");
        assert_eq!(statistics.snapshot().unsampled, Some(4000 - kept as u64));
        spans.flush().await;
        assert_eq!(spans.waiting(), Waiting::default());
        let parcel = outbox.take().await.expect("waits");
        assert_eq!(parcel.items, kept as u64);
    }
}
