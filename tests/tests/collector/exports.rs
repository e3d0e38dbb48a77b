//! What is sent.

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, ArrayValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    metrics::v1::{
        AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram,
        HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
        exponential_histogram_data_point::Buckets, metric::Data, number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span, Status,
        span::{Event, Link, SpanKind},
        status::StatusCode,
    },
};
use tidewaiter_tests::collector::{Export, Signal};

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn attributes(key: &str, value: &str) -> Vec<KeyValue> {
    vec![attribute(key, Value::StringValue(value.to_owned()))]
}

pub(crate) fn resource() -> Resource {
    Resource { attributes: attributes("service.name", "test"), ..Resource::default() }
}

/// One request of `spans`.
fn of_spans(spans: Vec<Span>) -> Export {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let of_resource = ResourceSpans { resource: Some(resource()), scope_spans, ..ResourceSpans::default() };
    Export::Traces(ExportTraceServiceRequest { resource_spans: vec![of_resource] })
}

/// One request of `metrics`.
fn of_metrics(metrics: Vec<Metric>) -> Export {
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let of_resource = ResourceMetrics { resource: Some(resource()), scope_metrics, ..ResourceMetrics::default() };
    Export::Metrics(ExportMetricsServiceRequest { resource_metrics: vec![of_resource] })
}

/// One request of `log_records`.
fn of_logs(log_records: Vec<LogRecord>) -> Export {
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let of_resource = ResourceLogs { resource: Some(resource()), scope_logs, ..ResourceLogs::default() };
    Export::Logs(ExportLogsServiceRequest { resource_logs: vec![of_resource] })
}

/// As many `items` of `signal`, in one request.
pub(crate) fn export(signal: Signal, items: usize) -> Export {
    let each = (0..items).map(|number| (number, attributes("number", &number.to_string())));
    match signal {
        Signal::Traces => of_spans(
            each.map(|(number, attributes)| Span { name: format!("span {number}"), attributes, ..Span::default() })
                .collect(),
        ),
        Signal::Metrics => {
            let point = |(number, attributes): (usize, _)| {
                let value = Some(number_data_point::Value::AsInt(i64::try_from(number).unwrap()));
                NumberDataPoint { value, attributes, ..NumberDataPoint::default() }
            };
            let data = Some(Data::Gauge(Gauge { data_points: each.map(point).collect() }));
            of_metrics(vec![Metric { name: "metric".to_owned(), data, ..Metric::default() }])
        }
        Signal::Logs => of_logs(each.map(|(_, attributes)| LogRecord { attributes, ..LogRecord::default() }).collect()),
    }
}

/// When all of the samples happened, in nanoseconds since 1970.
const TIME: u64 = 1_700_000_000_123_456_789;

/// A sample of everything that is sent by whoever counts packets: a request of each signal.
pub(crate) fn samples() -> [Export; 3] {
    [of_spans(spans()), of_metrics(metrics()), of_logs(logs())]
}

fn spans() -> Vec<Span> {
    let values = [Value::StringValue("a: b".to_owned()), Value::IntValue(-3)];
    let values = values.map(|value| AnyValue { value: Some(value) }).to_vec();
    let many = vec![
        attribute("text", Value::StringValue("-> x".to_owned())),
        attribute("integer", Value::IntValue(i64::MAX)),
        attribute("double", Value::DoubleValue(0.1)),
        attribute("flag", Value::BoolValue(true)),
        attribute("list", Value::ArrayValue(ArrayValue { values })),
    ];
    let event = Event { time_unix_nano: TIME, name: "reset".to_owned(), attributes: many.clone(), ..Event::default() };
    let link = Link { trace_id: vec![7; 16], span_id: vec![8; 8], ..Link::default() };
    let full = Span {
        trace_id: vec![0xab; 16],
        span_id: vec![2; 8],
        parent_span_id: vec![3; 8],
        name: "GET /: all".to_owned(),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: TIME,
        end_time_unix_nano: TIME + 1,
        attributes: many,
        events: vec![event.clone(), Event { attributes: Vec::new(), ..event }],
        links: vec![link],
        status: Some(Status { message: "refused".to_owned(), code: StatusCode::Error.into() }),
        ..Span::default()
    };
    vec![full, Span { kind: SpanKind::Client.into(), ..Span::default() }, Span::default()]
}

fn metrics() -> Vec<Metric> {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let number = |value, api| NumberDataPoint {
        value: Some(value),
        attributes: attributes("api", api),
        start_time_unix_nano: TIME,
        time_unix_nano: TIME + 1,
        ..NumberDataPoint::default()
    };
    let integer = |value, api| number(number_data_point::Value::AsInt(value), api);
    let classic = HistogramDataPoint {
        attributes: attributes("api", "web"),
        start_time_unix_nano: TIME,
        time_unix_nano: TIME + 1,
        count: 3,
        sum: Some(4.5),
        min: Some(0.5),
        max: Some(3.0),
        explicit_bounds: vec![1.0, 2.5],
        bucket_counts: vec![1, 0, 2],
        ..HistogramDataPoint::default()
    };
    let exponential = |scale, offset, bucket_counts: Vec<u64>| ExponentialHistogramDataPoint {
        attributes: attributes("scale", &format!("{scale} {offset}")),
        start_time_unix_nano: TIME,
        time_unix_nano: TIME + 1,
        count: 1 + bucket_counts.iter().sum::<u64>(),
        sum: Some(7.25),
        scale,
        zero_count: 1,
        positive: Some(Buckets { offset, bucket_counts }),
        ..ExponentialHistogramDataPoint::default()
    };
    let scales = [(2, -120), (0, 3), (-1, -4), (20, -30_000_000), (3, 0)];
    let exponentials = scales.map(|(scale, offset)| exponential(scale, offset, vec![1, 0, 5, 0]));
    let empty = ExponentialHistogramDataPoint { positive: None, sum: None, ..exponential(2, 0, Vec::new()) };
    let data = [
        // More than a double can tell from its neighbour.
        Data::Sum(Sum {
            data_points: vec![integer((1 << 53) + 1, "web"), integer(0, "x: y")],
            aggregation_temporality,
            is_monotonic: true,
        }),
        Data::Sum(Sum { data_points: Vec::new(), aggregation_temporality, is_monotonic: false }),
        Data::Gauge(Gauge { data_points: vec![number(number_data_point::Value::AsDouble(0.1), "web")] }),
        Data::Histogram(Histogram { data_points: vec![classic], aggregation_temporality }),
        Data::ExponentialHistogram(ExponentialHistogram {
            data_points: exponentials.into_iter().chain([empty]).collect(),
            aggregation_temporality,
        }),
    ];
    let metric = |(number, data)| Metric {
        name: format!("metric.{number}"),
        description: "What: it is".to_owned(),
        unit: "{packet}".to_owned(),
        data: Some(data),
        ..Metric::default()
    };
    data.into_iter().enumerate().map(metric).collect()
}

fn logs() -> Vec<LogRecord> {
    let text = |text: &str| Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    let full = LogRecord {
        time_unix_nano: TIME,
        observed_time_unix_nano: TIME + 1,
        severity_number: SeverityNumber::Warn.into(),
        severity_text: "warning".to_owned(),
        body: text("it: is gone"),
        attributes: attributes("interface", "eth0"),
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        event_name: "interface.gone".to_owned(),
        ..LogRecord::default()
    };
    vec![full, LogRecord { body: text("nothing else"), ..LogRecord::default() }, LogRecord::default()]
}
