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
    let mut told: Vec<_> = span.attributes.iter().map(|KeyValue { key, value, .. }| format!("{key}={value}")).collect();
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
    assert_eq!((text(&client, "client.port"), text(&client, "server.port")), ("8080".to_owned(), "40000".to_owned()));
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
