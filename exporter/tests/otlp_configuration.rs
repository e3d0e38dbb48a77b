//! What is sent to OpenTelemetry collectors: what each layer of the configuration says of it, and what each mistake is told as.

#![allow(clippy::unwrap_used, reason = "tests panic for a stack trace")]

mod check;

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, time::Duration};

use tempfile::TempDir;
use tidewaiter::{
    cli::Overrides,
    config::{
        Configuration,
        otlp::{Otlp, OtlpBatch, OtlpClient, OtlpCompression, OtlpHistograms, OtlpProtocol, OtlpTarget},
    },
};

use self::check::{Checked, NONE, check};

/// Bad configuration (`EX_CONFIG`, `sysexits.h`).
const BAD_CONFIGURATION: Option<i32> = Some(78);

/// Every key, none with its default.
const EXAMPLE: &str = r#"[otlp]
endpoint = "https://collector:4318"
protocol = "http/protobuf"
insecure = true
headers = { Authorization = "Bearer hush" }
compression = "none"
timeout = "3s"
certificate = "/etc/ca.pem"
client_certificate = "/etc/client.pem"
client_key = "/etc/client.key"
queue_bytes = 65536
flush_timeout = "0s"
[otlp.resource]
"deployment.environment.name" = "production"
service.name = "edge"
[otlp.metrics]
interval = "1s"
histograms = "explicit"
[otlp.traces]
sample_ratio = 0.25
batch_delay = "10ms"
batch_size = 7
queue_size = 8
endpoint = "traces"
protocol = "grpc"
insecure = false
headers = { x-a = "hush", x-b = "" }
compression = "gzip"
timeout = "1ms"
certificate = "/etc/traces.pem"
client_certificate = "/etc/traces-client.pem"
client_key = "/etc/traces-client.key"
[otlp.logs]
enabled = false
batch_delay = "2s"
batch_size = 65536
queue_size = 1048576
"#;

fn load(contents: &str) -> Result<Configuration, String> {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("tidewaiter.toml");
    fs::write(&path, contents).unwrap();
    Configuration::load(Some(&path), &Overrides::default())
        .map_err(|error| error.to_string().replace(&path.display().to_string(), "FILE"))
}

fn otlp(contents: &str) -> Otlp {
    load(contents).unwrap_or_else(|problems| panic!("{contents}\n{problems}")).otlp
}

#[track_caller]
fn assert_refused(cases: &[(&str, &str)]) {
    for (contents, expected) in cases {
        assert_eq!(load(contents).err().unwrap_or_default(), *expected, "{contents}");
    }
}

/// As [`assert_refused`], for lines from the third on of a file with an endpoint.
#[track_caller]
fn assert_otlp_refused(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        assert_refused(&[(&format!("[otlp]\nendpoint = 'http://c:4318'\n{lines}"), *expected)]);
    }
}

fn headers(target: &OtlpTarget) -> Vec<(&str, &str)> {
    target.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}

/// The lines about OTLP of a good configuration.
#[track_caller]
fn sent(checked: &Checked) -> String {
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{checked:?}");
    let keys = ["metrics ", "traces ", "logs ", "resource ", "otlp "];
    let lines: Vec<_> = checked.stdout.lines().filter(|line| keys.iter().any(|key| line.starts_with(key))).collect();
    lines.join("\n")
}

#[test]
fn nothing_is_sent_without_an_endpoint() {
    for contents in ["", "[otlp]\nprotocol = 'grpc'", "[otlp.traces]\nenabled = true"] {
        assert!(!otlp(contents).is_on(), "{contents}");
    }
    let everything_off =
        "[otlp]\nendpoint = 'http://c'\nmetrics.enabled = false\ntraces.enabled = false\nlogs.enabled = false";
    assert!(!otlp(everything_off).is_on());

    let Otlp { metrics, traces, logs, .. } = otlp("[otlp.logs]\nendpoint = 'http://c'");
    assert!(metrics.is_none() && traces.is_none() && logs.is_some());
}

#[test]
fn an_endpoint_is_all_that_it_takes() {
    let Otlp { metrics, traces, logs, resource, queue_bytes, flush_timeout } = otlp("otlp.endpoint = 'http://c:4318'");
    let (metrics, traces, logs) = (metrics.unwrap(), traces.unwrap(), logs.unwrap());
    for (target, url) in [
        (&metrics.target, "http://c:4318/v1/metrics"),
        (&traces.target, "http://c:4318/v1/traces"),
        (&logs.target, "http://c:4318/v1/logs"),
    ] {
        let OtlpTarget { endpoint, protocol, headers, compression, timeout, certificate, client } = target;
        assert_eq!(endpoint.to_string(), url);
        assert_eq!((*protocol, *compression), (OtlpProtocol::Http, OtlpCompression::Gzip));
        assert_eq!(*timeout, Duration::from_secs(10));
        assert!(headers.is_empty() && certificate.is_none() && client.is_none(), "{target:?}");
    }
    assert_eq!((metrics.interval, metrics.histograms), (Duration::from_mins(1), OtlpHistograms::Exponential));
    assert!((traces.sample_ratio - 1.0).abs() < f64::EPSILON);
    assert_eq!(traces.batch, OtlpBatch { delay: Duration::from_secs(5), size: 2048, queue: 16_384 });
    assert_eq!(logs.batch, OtlpBatch { delay: Duration::from_secs(1), size: 512, queue: 2048 });
    assert!(resource.is_empty(), "{resource:?}");
    assert_eq!((queue_bytes, flush_timeout), (16_777_216, Duration::from_secs(5)));
}

#[test]
fn a_full_file_resolves_to_what_it_says() {
    let Otlp { metrics, traces, logs, resource, queue_bytes, flush_timeout } = otlp(EXAMPLE);
    assert!(logs.is_none());
    let (metrics, traces) = (metrics.unwrap(), traces.unwrap());

    assert_eq!(headers(&metrics.target), [("authorization", "Bearer hush")]);
    let OtlpTarget { endpoint, protocol, headers: _, compression, timeout, certificate, client } = metrics.target;
    assert_eq!(endpoint, "https://collector:4318/v1/metrics");
    assert_eq!((protocol, compression), (OtlpProtocol::Http, OtlpCompression::None));
    assert_eq!((timeout, certificate), (Duration::from_secs(3), Some("/etc/ca.pem".into())));
    assert_eq!(client, Some(OtlpClient { certificate: "/etc/client.pem".into(), key: "/etc/client.key".into() }));
    assert_eq!((metrics.interval, metrics.histograms), (Duration::from_secs(1), OtlpHistograms::Explicit));

    assert_eq!(headers(&traces.target), [("x-a", "hush"), ("x-b", "")]);
    let OtlpTarget { endpoint, protocol, headers: _, compression, timeout, certificate, client } = traces.target;
    assert_eq!(endpoint, "https://traces:4317/");
    assert_eq!((protocol, compression), (OtlpProtocol::Grpc, OtlpCompression::Gzip));
    assert_eq!((timeout, certificate), (Duration::from_millis(1), Some("/etc/traces.pem".into())));
    let expected = OtlpClient { certificate: "/etc/traces-client.pem".into(), key: "/etc/traces-client.key".into() };
    assert_eq!(client, Some(expected));
    assert!((traces.sample_ratio - 0.25).abs() < f64::EPSILON);
    assert_eq!(traces.batch, OtlpBatch { delay: Duration::from_millis(10), size: 7, queue: 8 });

    let resource: Vec<_> = resource.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(resource, [("deployment.environment.name", "production"), ("service.name", "edge")]);
    assert_eq!((queue_bytes, flush_timeout), (65_536, Duration::ZERO));
}

#[test]
fn certificates_are_looked_for_beside_the_file_that_names_them() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("tidewaiter.toml");
    let contents = "[otlp]\nendpoint = 'https://c'\ncertificate = 'ca.pem'\n\
                    [otlp.traces]\nclient_certificate = 'tls/own.pem'\nclient_key = '/etc/own.key'";
    fs::write(&path, contents).unwrap();
    let Otlp { traces, .. } = Configuration::load(Some(&path), &Overrides::default()).unwrap().otlp;
    let OtlpTarget { certificate, client, .. } = traces.unwrap().target;
    assert_eq!(certificate, Some(directory.path().join("ca.pem")));
    let own = OtlpClient { certificate: directory.path().join("tls/own.pem"), key: "/etc/own.key".into() };
    assert_eq!(client, Some(own));
}

#[test]
fn a_small_queue_has_small_requests_unless_they_are_asked_for() {
    let batches = |contents: &str| {
        let Otlp { traces, logs, .. } = otlp(&format!("[otlp]\nendpoint = 'http://c'\n{contents}"));
        [traces.unwrap().batch.size, logs.unwrap().batch.size]
    };
    assert_eq!(batches("traces.queue_size = 100\nlogs.queue_size = 1"), [100, 1]);
    assert_eq!(batches("traces.batch_size = 16384"), [16_384, 512]);
}

/// The URL of traces, with an endpoint for all signals, or for them alone.
fn url(table: &str, endpoint: &str, protocol: &str, insecure: bool) -> Result<String, String> {
    let contents = format!("[{table}]\nprotocol = '{protocol}'\ninsecure = {insecure}\nendpoint = '{endpoint}'");
    load(&contents).map(|configuration| configuration.otlp.traces.unwrap().target.endpoint.to_string())
}

#[test]
fn endpoints_are_the_urls_that_the_specification_says() {
    for (endpoint, general, own) in [
        ("http://c:4318", "http://c:4318/v1/traces", "http://c:4318/"),
        ("http://c:4318/", "http://c:4318/v1/traces", "http://c:4318/"),
        ("http://c", "http://c/v1/traces", "http://c/"),
        ("https://c", "https://c/v1/traces", "https://c/"),
        ("http://c:", "http://c/v1/traces", "http://c/"),
        ("https://c:443/otlp", "https://c:443/otlp/v1/traces", "https://c:443/otlp"),
        ("https://c/otlp/", "https://c/otlp/v1/traces", "https://c/otlp/"),
        ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces/v1/traces", "https://c/otlp/v1/traces"),
        ("http://c/a@b", "http://c/a@b/v1/traces", "http://c/a@b"),
        ("http://c?key=x", "http://c/v1/traces?key=x", "http://c/?key=x"),
        ("http://c/a/?key=x#y", "http://c/a/v1/traces?key=x", "http://c/a/?key=x"),
        ("HTTPS://Collector.Example:1", "https://Collector.Example:1/v1/traces", "https://Collector.Example:1/"),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces", "http://127.0.0.1:4318/"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces", "http://[::1]:4318/"),
        ("http://[::1]", "http://[::1]/v1/traces", "http://[::1]/"),
    ] {
        for insecure in [false, true] {
            assert_eq!(url("otlp", endpoint, "http/protobuf", insecure).as_deref(), Ok(general), "{endpoint}");
            assert_eq!(url("otlp.traces", endpoint, "http/protobuf", insecure).as_deref(), Ok(own), "{endpoint}");
        }
    }
    for (endpoint, insecure, expected) in [
        ("http://c:4317", false, "http://c:4317/"),
        ("http://c:4317/", false, "http://c:4317/"),
        ("https://c:4317", true, "https://c:4317/"),
        ("http://c", false, "http://c:4317/"),
        ("https://c", false, "https://c:4317/"),
        ("https://c:443", false, "https://c:443/"),
        ("c:4317", false, "https://c:4317/"),
        ("c:4317", true, "http://c:4317/"),
        ("c", false, "https://c:4317/"),
        ("c", true, "http://c:4317/"),
        ("[::1]:1", true, "http://[::1]:1/"),
        ("[::1]", true, "http://[::1]:4317/"),
        ("127.0.0.1", true, "http://127.0.0.1:4317/"),
    ] {
        for table in ["otlp", "otlp.traces"] {
            assert_eq!(url(table, endpoint, "grpc", insecure).as_deref(), Ok(expected), "{endpoint} {insecure}");
        }
    }
}

#[test]
fn endpoints_that_cannot_be_are_told_without_their_secrets() {
    let http = r#"expected an http or https URL such as "http://collector:4318""#;
    let grpc = r#"expected an http or https URL such as "http://collector:4317""#;
    let path = "expected a URL without a path: gRPC has its own";
    let user = "a URL with a user in it, expected one without: use headers";
    for (protocol, endpoint, found, expected) in [
        ("http/protobuf", "", "\"\"", http),
        ("http/protobuf", "c:4318", "\"c:4318\"", http),
        ("http/protobuf", "c", "\"c\"", http),
        ("http/protobuf", "ftp://c", "\"ftp://c\"", http),
        ("http/protobuf", "http://", "\"http://\"", http),
        ("http/protobuf", "http:///v1", "\"http:///v1\"", http),
        ("http/protobuf", "http://:4318", "\"http://:4318\"", http),
        ("http/protobuf", "http://[]:1", "\"http://[]:1\"", http),
        ("http/protobuf", "http://::1:4318", "\"http://::1:4318\"", http),
        ("http/protobuf", "http://c:0", "\"http://c:0\"", http),
        ("http/protobuf", "http://c:65536", "\"http://c:65536\"", http),
        ("http/protobuf", "http://c:x", "\"http://c:x\"", http),
        ("http/protobuf", "http://c:+1", "\"http://c:+1\"", http),
        ("http/protobuf", "http://c:é", "\"http://c:é\"", http),
        ("http/protobuf", "http://[::1]1", "\"http://[::1]1\"", http),
        ("http/protobuf", "http://a b", "\"http://a b\"", http),
        ("http/protobuf", "http://c/a b", "\"http://c/a b\"", http),
        ("http/protobuf", "ftp://c?key=hush", "\"ftp://c?…\"", http),
        ("http/protobuf", "http://me:hush@c", user, ""),
        ("http/protobuf", "me:hush@c:4318", user, ""),
        ("http/protobuf", "http://me:hu/sh@c", "\"…@c\"", http),
        ("grpc", "", "\"\"", grpc),
        ("grpc", "grpc://c", "\"grpc://c\"", grpc),
        ("grpc", "c:x", "\"c:x\"", grpc),
        ("grpc", ":4317", "\":4317\"", grpc),
        ("grpc", "unix:/run/c", "\"unix:/run/c\"", path),
        ("grpc", "http://c:4317/v1/traces", "\"http://c:4317/v1/traces\"", path),
        ("grpc", "c/otlp", "\"c/otlp\"", path),
        ("grpc", "http://c?key=hush", "\"http://c?…\"", path),
        ("grpc", "me:hush@c", user, ""),
    ] {
        let separator = if expected.is_empty() { "" } else { ", " };
        for table in ["otlp", "otlp.traces"] {
            let refusal = url(table, endpoint, protocol, false);
            let expected = format!("FILE:4: {table}.endpoint: found {found}{separator}{expected}");
            assert_eq!(refusal, Err(expected), "{protocol} {endpoint}");
        }
    }
}

#[test]
fn a_general_endpoint_may_be_good_for_some_signals_only() {
    assert_refused(&[(
        "[otlp]\nendpoint = 'http://c/otlp'\n[otlp.traces]\nprotocol = 'grpc'",
        r#"FILE:2: otlp.endpoint: found "http://c/otlp", expected a URL without a path: gRPC has its own"#,
    )]);
    let Otlp { metrics, traces, .. } = otlp("[otlp]\nendpoint = 'http://c:4317'\n[otlp.traces]\nprotocol = 'grpc'");
    assert_eq!(metrics.unwrap().target.endpoint, "http://c:4317/v1/metrics");
    assert_eq!(traces.unwrap().target.endpoint, "http://c:4317/");
}

#[test]
fn unknown_keys_and_wrong_types_are_told() {
    let targets = r#""endpoint", "protocol", "insecure", "headers", "compression", "timeout", "certificate", "client_certificate", "client_key""#;
    let unknown = |key, own| format!("FILE:3: {key}: unknown key, expected one of {own}, {targets}");
    assert_refused(&[
        ("otlp = 3", "FILE:1: otlp: found 3, expected a table"),
        ("[otlp]\ntraces = true", "FILE:2: otlp.traces: found true, expected a table"),
    ]);
    assert_otlp_refused(&[
        (
            "url = 'x'",
            &unknown("otlp.url", r#""queue_bytes", "flush_timeout", "resource", "metrics", "traces", "logs""#),
        ),
        ("metrics.url = 'x'", &unknown("otlp.metrics.url", r#""enabled", "interval", "histograms""#)),
        (
            "traces.interval = '1s'",
            &unknown("otlp.traces.interval", r#""enabled", "sample_ratio", "batch_delay", "batch_size", "queue_size""#),
        ),
        (
            "logs.sample_ratio = 1",
            &unknown("otlp.logs.sample_ratio", r#""enabled", "batch_delay", "batch_size", "queue_size""#),
        ),
        ("logs.endpoint = 1", "FILE:3: otlp.logs.endpoint: found 1, expected a string"),
        ("protocol = 1", r#"FILE:3: otlp.protocol: found 1, expected "http/protobuf" or "grpc""#),
        (
            "protocol = 'http/json'",
            r#"FILE:3: otlp.protocol: found "http/json", expected one of "http/protobuf", "grpc""#,
        ),
        ("insecure = 'yes'", "FILE:3: otlp.insecure: found \"yes\", expected true or false"),
        ("logs.enabled = 1", "FILE:3: otlp.logs.enabled: found 1, expected true or false"),
        ("compression = 'zstd'", r#"FILE:3: otlp.compression: found "zstd", expected one of "gzip", "none""#),
        ("timeout = 10", r#"FILE:3: otlp.timeout: found 10, expected a span of time such as "30s" or "5m""#),
        ("certificate = 1", "FILE:3: otlp.certificate: found 1, expected path string"),
        ("queue_bytes = '1'", "FILE:3: otlp.queue_bytes: found \"1\", expected a whole number"),
        (
            "metrics.histograms = 'native'",
            r#"FILE:3: otlp.metrics.histograms: found "native", expected one of "exponential", "explicit""#,
        ),
        (
            "traces.sample_ratio = 'all'",
            "FILE:3: otlp.traces.sample_ratio: found \"all\", expected a number from 0 to 1",
        ),
        ("traces.batch_size = 1.5", "FILE:3: otlp.traces.batch_size: found 1.5, expected a whole number"),
        ("resource = 1", "FILE:3: otlp.resource: found 1, expected a table"),
        ("[otlp.resource]\n'a.b' = 1", "FILE:4: otlp.resource.a.b: found 1, expected a string"),
        ("[otlp.resource]\na.b.c = 1", "FILE:4: otlp.resource.a.b.c: found 1, expected a string"),
    ]);
}

#[test]
fn values_out_of_range_are_told() {
    let queue = "expected 65536 to 1073741824";
    assert_otlp_refused(&[
        ("queue_bytes = 65535", &format!("FILE:3: otlp.queue_bytes: found 65535, {queue}")),
        ("queue_bytes = 1073741825", &format!("FILE:3: otlp.queue_bytes: found 1073741825, {queue}")),
        ("queue_bytes = -1", &format!("FILE:3: otlp.queue_bytes: found -1, {queue}")),
        ("flush_timeout = '6m'", r#"FILE:3: otlp.flush_timeout: found "6m", expected at most "5m""#),
        ("timeout = '0s'", r#"FILE:3: otlp.timeout: found "0s", expected at least "1ms""#),
        ("timeout = '31days'", r#"FILE:3: otlp.timeout: found "1month 13h 26m 24s", expected at most "30days""#),
        ("logs.timeout = '0s'", r#"FILE:3: otlp.logs.timeout: found "0s", expected at least "1ms""#),
        ("metrics.interval = '999ms'", r#"FILE:3: otlp.metrics.interval: found "999ms", expected at least "1s""#),
        ("traces.batch_delay = '9ms'", r#"FILE:3: otlp.traces.batch_delay: found "9ms", expected at least "10ms""#),
        ("logs.batch_delay = '9ms'", r#"FILE:3: otlp.logs.batch_delay: found "9ms", expected at least "10ms""#),
        ("traces.sample_ratio = 2", "FILE:3: otlp.traces.sample_ratio: found 2, expected a number from 0 to 1"),
        ("traces.sample_ratio = -0.5", "FILE:3: otlp.traces.sample_ratio: found -0.5, expected a number from 0 to 1"),
        ("traces.sample_ratio = nan", "FILE:3: otlp.traces.sample_ratio: found NaN, expected a number from 0 to 1"),
        ("traces.batch_size = 0", "FILE:3: otlp.traces.batch_size: found 0, expected 1 to 65536"),
        (
            "logs.batch_size = 65537",
            "FILE:3: otlp.logs.batch_size: found 65537, expected 1 to 65536\n\
          FILE:3: otlp.logs.batch_size: found 65537, expected at most as many as may wait (queue_size), which is 2048",
        ),
        ("logs.queue_size = 0", "FILE:3: otlp.logs.queue_size: found 0, expected 1 to 1048576"),
        ("traces.queue_size = 1048577", "FILE:3: otlp.traces.queue_size: found 1048577, expected 1 to 1048576"),
        (
            "logs.queue_size = 10\nlogs.batch_size = 11",
            "FILE:4: otlp.logs.batch_size: found 11, expected at most as many as may wait (queue_size), which is 10",
        ),
        ("certificate = ''", "FILE:3: otlp.certificate: found \"\", expected the path of a file"),
        ("client_key = '/k'", "FILE:3: otlp.client_key: found no client_certificate with it, expected both or none"),
        (
            "logs.client_certificate = '/c'",
            "FILE:3: otlp.logs.client_certificate: found no client_key with it, expected both or none",
        ),
        (
            "resource = { '' = 'x' }",
            "FILE:3: otlp.resource.: found \"\", expected the name of an attribute such as \"deployment.environment.name\"",
        ),
    ]);
    // What is wrong is wrong whether or not anything is sent.
    assert_refused(&[(
        "[otlp]\nqueue_bytes = 1\nclient_key = '/k'",
        &format!(
            "FILE:3: otlp.client_key: found no client_certificate with it, expected both or none\n\
             FILE:2: otlp.queue_bytes: found 1, {queue}"
        ),
    )]);
}

#[test]
fn headers_that_cannot_be_are_told_without_what_is_in_them() {
    for name in [
        "content-type",
        "Content-Length",
        "content-encoding",
        "te",
        "host",
        "grpc-timeout",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "upgrade",
        "trailer",
        "expect",
        "proxy-connection",
        "accept-encoding",
    ] {
        let lower = name.to_ascii_lowercase();
        let expected = format!(
            "FILE:4: otlp.headers.{name}: found the header \"{lower}\", which is the protocol's own, expected others"
        );
        assert_otlp_refused(&[(&format!("[otlp.headers]\n{name} = 'hush'"), &expected)]);
    }
    let value = |name| {
        format!(
            "FILE:3: otlp.headers.{name}: found a value of the header \"{name}\" that it cannot have, expected printable ASCII"
        )
    };
    assert_otlp_refused(&[
        (
            "headers = { 'a b' = 'hush' }",
            "FILE:3: otlp.headers: found a key that is no name of a header, expected one such as \"x-api-key\"",
        ),
        (
            "headers = { '' = 'hush' }",
            "FILE:3: otlp.headers: found a key that is no name of a header, expected one such as \"x-api-key\"",
        ),
        // There may be a part of the value, and there may be something wrong with what is left of that.
        (
            "logs.headers = { 'authorization: Bearer hush' = 1 }",
            "FILE:3: otlp.logs.headers: found a key that is no name of a header, expected one such as \"x-api-key\"",
        ),
        ("headers = { a = \"hush\\n\" }", &value("a")),
        ("headers = { 'x.y' = 'hüsh' }", &value("x.y")),
        (
            "headers = { A = 'hush', a = 'hush' }",
            "FILE:3: otlp.headers.a: found the header \"a\" twice, expected each once",
        ),
        ("headers = { a = 12345 }", "FILE:3: otlp.headers.a: expected a string in quotes"),
        ("headers = { a = ['hush'] }", "FILE:3: otlp.headers.a: expected a string in quotes"),
        ("headers = 'a=hush'", "FILE:3: otlp.headers: found a string, expected a table such as { x-api-key = \"…\" }"),
        (
            "[otlp.logs.headers]\na = 'x'\nhost = 'hush'",
            "FILE:5: otlp.logs.headers.host: found the header \"host\", which is the protocol's own, expected others",
        ),
    ]);
    let Otlp { logs, .. } = otlp("[otlp]\nendpoint = 'http://c'\nheaders = { user-agent = 'me', 'x.y' = 'a=b, c' }");
    assert_eq!(headers(&logs.unwrap().target), [("user-agent", "me"), ("x.y", "a=b, c")]);
}

#[test]
fn what_is_in_headers_and_queries_is_shown_by_nobody() {
    let contents = EXAMPLE.replace("collector:4318", "collector:4318/?key=hush");
    let configuration = load(&contents).unwrap();
    let target = &configuration.otlp.metrics.as_ref().unwrap().target;
    // Both are there, where they are needed.
    assert_eq!((target.endpoint.query(), headers(target)), (Some("key=hush"), vec![("authorization", "Bearer hush")]));
    let shown = format!("{configuration:?}");
    assert!(shown.contains("https://collector:4318/v1/metrics") && !shown.contains("hush"), "{shown}");

    let checked = check(&contents, &[("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "a=hush")], &[]);
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{checked:?}");
    let is_shown = checked.stdout.contains("https://collector:4318/v1/metrics");
    assert!(is_shown && !checked.stdout.contains("hush"), "{checked:?}");
}

#[test]
fn check_prints_what_is_sent() {
    let expected = "\
metrics     https://collector:4318/v1/metrics by http/protobuf, not compressed, timeout 3s, headers authorization, certificate /etc/ca.pem, client certificate /etc/client.pem: every 1s, explicit histograms
traces      https://traces:4317 by grpc, gzip, timeout 1ms, headers x-a,x-b, certificate /etc/traces.pem, client certificate /etc/traces-client.pem: 0.25 of flows, at most 7 in a request, 8 waiting, every 10ms
logs        not sent by OTLP
resource    deployment.environment.name=production, service.name=edge
otlp        at most 65536 bytes of each signal wait; at the end, for 0s more";
    assert_eq!(sent(&check(EXAMPLE, NONE, &[])), expected);
    let off = "otlp        nothing is sent: no endpoint for a signal that is enabled";
    assert_eq!(sent(&check("", NONE, &[])), off);
    assert_eq!(sent(&check(EXAMPLE, &[("OTEL_SDK_DISABLED", "true")], &[])), off);
}

/// As what an endpoint and `variables` are shown.
#[track_caller]
fn shown(variables: &[(&str, &str)]) -> String {
    sent(&check("[otlp]\nendpoint = 'http://c'", variables, &[]))
}

/// As [`shown`], the line about `signal`.
#[track_caller]
fn shown_of(signal: &str, variables: &[(&str, &str)]) -> String {
    let shown = shown(variables);
    let line = shown.lines().find_map(|line| line.strip_prefix(signal)?.strip_prefix(' '));
    line.unwrap_or_default().trim_start().to_owned()
}

const METRICS: &str = "http://c/v1/metrics by http/protobuf, gzip, timeout 10s: every 1m, exponential histograms";
const TRACES: &str = "http://c/v1/traces by http/protobuf, gzip, timeout 10s: 1 of flows, at most 2048 in a request, 16384 waiting, every 5s";
const LOGS: &str =
    "http://c/v1/logs by http/protobuf, gzip, timeout 10s: at most 512 in a request, 2048 waiting, every 1s";
const OFF: &str = "not sent by OTLP";

#[test]
fn each_variable_of_open_telemetry_sets_its_key() {
    for (signal, line) in [("metrics", METRICS), ("traces", TRACES), ("logs", LOGS)] {
        assert_eq!(shown_of(signal, &[]), line);
        let infix = format!("{}_", signal.to_ascii_uppercase());
        for infix in ["", &infix] {
            let set =
                |name: &str, value: &str| shown_of(signal, &[(&format!("OTEL_EXPORTER_OTLP_{infix}{name}"), value)]);
            let path = if infix.is_empty() { format!("x/v1/{signal}") } else { "x".to_owned() };
            // The file's endpoint is a general one.
            assert_eq!(set("ENDPOINT", "http://d/x"), line.replace(&format!("c/v1/{signal}"), &format!("d/{path}")));
            assert_eq!(
                set("PROTOCOL", "grpc"),
                line.replace(&format!("http://c/v1/{signal} by http/protobuf"), "http://c:4317 by grpc")
            );
            assert_eq!(set("PROTOCOL", "HTTP/Protobuf"), line);
            let timeout = |then: &str| line.replace("timeout 10s", then);
            assert_eq!(set("HEADERS", "b=1,A=%20x,,c= d=e ,"), timeout("timeout 10s, headers a,b,c"));
            assert_eq!(set("TIMEOUT", "1500"), timeout("timeout 1s 500ms"));
            assert_eq!(set("TIMEOUT", " 7 "), timeout("timeout 7ms"));
            assert_eq!(set("COMPRESSION", "none"), line.replace("gzip", "not compressed"));
            assert_eq!(set("COMPRESSION", "GZIP"), line);
            assert_eq!(set("CERTIFICATE", "/ca.pem"), timeout("timeout 10s, certificate /ca.pem"));
            let [certificate, key] =
                ["CERTIFICATE", "KEY"].map(|name| format!("OTEL_EXPORTER_OTLP_{infix}CLIENT_{name}"));
            assert_eq!(
                shown_of(signal, &[(&certificate, "/client.pem"), (&key, "/key.pem")]),
                timeout("timeout 10s, client certificate /client.pem")
            );
            let [endpoint, protocol, insecure] =
                ["ENDPOINT", "PROTOCOL", "INSECURE"].map(|name| format!("OTEL_EXPORTER_OTLP_{infix}{name}"));
            for (value, scheme) in
                [("True", "http"), ("false", "https"), ("yes", "https"), ("1", "https"), ("", "https")]
            {
                let variables = [(endpoint.as_str(), "d"), (&protocol, "grpc"), (&insecure, value)];
                let shown = shown_of(signal, &variables);
                assert!(shown.starts_with(&format!("{scheme}://d:4317 by grpc")), "{infix} {value} {shown}");
            }
        }
    }
}

#[test]
fn variables_of_one_signal_set_its_keys() {
    for (signal, variable, value, expected) in [
        ("metrics", "OTEL_METRIC_EXPORT_INTERVAL", "5000", METRICS.replace("1m", "5s")),
        ("metrics", "OTEL_METRIC_EXPORT_TIMEOUT", "300", METRICS.replace("10s", "300ms")),
        ("metrics", "OTEL_METRIC_EXPORT_TIMEOUT", "30000", METRICS.to_owned()),
        ("metrics", "OTEL_METRIC_EXPORT_TIMEOUT", "0", METRICS.to_owned()),
        ("metrics", "OTEL_METRICS_EXPORTER", "none", OFF.to_owned()),
        ("metrics", "OTEL_METRICS_EXPORTER", "prometheus", OFF.to_owned()),
        ("metrics", "OTEL_METRICS_EXPORTER", "prometheus, otlp", METRICS.to_owned()),
        ("metrics", "OTEL_METRICS_EXPORTER", "", METRICS.to_owned()),
        ("metrics", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Cumulative", METRICS.to_owned()),
        (
            "metrics",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "explicit_bucket_histogram",
            METRICS.replace("exponential", "explicit"),
        ),
        (
            "metrics",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "base2_exponential_bucket_histogram",
            METRICS.to_owned(),
        ),
        ("traces", "OTEL_TRACES_EXPORTER", "console", OFF.to_owned()),
        ("traces", "OTEL_TRACES_SAMPLER", "always_on", TRACES.to_owned()),
        ("traces", "OTEL_TRACES_SAMPLER", "always_off", OFF.to_owned()),
        ("traces", "OTEL_TRACES_SAMPLER", "parentbased_always_off", OFF.to_owned()),
        ("traces", "OTEL_TRACES_SAMPLER", "parentbased_always_on", TRACES.to_owned()),
        ("traces", "OTEL_TRACES_SAMPLER", "traceidratio", TRACES.to_owned()),
        ("traces", "OTEL_TRACES_SAMPLER_ARG", "0.5", TRACES.to_owned()),
        ("traces", "OTEL_BSP_SCHEDULE_DELAY", "10", TRACES.replace("5s", "10ms")),
        ("traces", "OTEL_BSP_EXPORT_TIMEOUT", "9999", TRACES.replace("10s", "9s 999ms")),
        ("traces", "OTEL_BSP_EXPORT_TIMEOUT", "18446744073709551615", TRACES.to_owned()),
        ("traces", "OTEL_BSP_MAX_QUEUE_SIZE", "100", TRACES.replace("2048", "100").replace("16384", "100")),
        ("traces", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1", TRACES.replace("2048", "1")),
        ("logs", "OTEL_LOGS_EXPORTER", "otlp/stdout", OFF.to_owned()),
        ("logs", "OTEL_BLRP_SCHEDULE_DELAY", "5000", LOGS.replace("1s", "5s")),
        ("logs", "OTEL_BLRP_EXPORT_TIMEOUT", "1", LOGS.replace("10s", "1ms")),
        ("logs", "OTEL_BLRP_MAX_QUEUE_SIZE", "4096", LOGS.replace("2048", "4096")),
        ("logs", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "7", LOGS.replace("512", "7")),
        ("logs", "OTEL_BLRP_UNKNOWN", "x", LOGS.to_owned()),
        ("logs", "OTEL_EXPORTER_OTLP_URL", "x", LOGS.to_owned()),
    ] {
        assert_eq!(shown_of(signal, &[(variable, value)]), expected, "{variable}={value}");
    }
    for sampler in ["traceidratio", "parentbased_traceidratio", "TraceIdRatio"] {
        let variables = [("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", "0.1")];
        assert_eq!(shown_of("traces", &variables), TRACES.replace("1 of", "0.1 of"));
    }
    // How long an attempt may take we can be told otherwise.
    let variables = [("OTEL_BSP_EXPORT_TIMEOUT", "300"), ("TIDEWAITER_OTLP__TRACES__TIMEOUT", "20s")];
    assert_eq!(shown_of("traces", &variables), TRACES.replace("10s", "20s"));
}

#[test]
fn attributes_of_the_resource_are_gathered_from_all_layers() {
    let contents =
        "[otlp]\nendpoint = 'http://c'\n[otlp.resource]\na.b = 'file'\n'c.d' = 'file'\n'e.f' = 'file'\ng = 'file'";
    for (variables, expected) in [
        (&[("OTEL_RESOURCE_ATTRIBUTES", "")][..], "a.b=file, c.d=file, e.f=file, g=file"),
        (&[("OTEL_SERVICE_NAME", "x y")], "a.b=file, c.d=file, e.f=file, g=file, service.name=x y"),
        (
            &[
                ("OTEL_RESOURCE_ATTRIBUTES", "a.b=otel, e%2Ef = %20%C3%BC%2c= ,service.name=no,h=,"),
                ("OTEL_SERVICE_NAME", "yes"),
                ("TIDEWAITER_OTLP__RESOURCE__A__B", "ours"),
                ("TIDEWAITER_OTLP__RESOURCE__C__D", "ours"),
            ],
            "a.b=ours, c.d=ours, e.f= ü,=, g=file, h=, service.name=yes",
        ),
    ] {
        let shown = sent(&check(contents, variables, &[]));
        assert!(shown.contains(&format!("\nresource    {expected}\n")), "{shown}");
    }
}

#[test]
fn layers_go_over_each_other() {
    let contents = "[otlp]\nendpoint = 'http://file'\ntimeout = '1s'\nheaders = { a = 'x', b = 'x' }\n[otlp.logs]\nenabled = false\n\
                    [otlp.traces]\nsample_ratio = 0.5";
    let open_telemetry = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "c=x"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
    ];
    let ours = [
        ("TIDEWAITER_OTLP__ENDPOINT", "http://ours"),
        ("TIDEWAITER_OTLP__TIMEOUT", "3s"),
        ("TIDEWAITER_OTLP__HEADERS", "{d=\"x\", \"x-y\"=\"1\"}"),
        ("TIDEWAITER_OTLP__LOGS__ENABLED", "false"),
        ("TIDEWAITER_OTLP__TRACES__SAMPLE_RATIO", "0.1"),
    ];
    let all = [&open_telemetry[..], &ours[..]].concat();
    for (variables, arguments, endpoint, how, ratio, logs) in [
        (NONE, &[][..], "file", "timeout 1s, headers a,b", "0.5", false),
        (&open_telemetry, &[], "otel", "timeout 2s, headers c", "0.25", true),
        (&ours, &[], "ours", "timeout 3s, headers a,b,d,x-y", "0.1", false),
        // Headers that are meant for OpenTelemetry's endpoint are not sent to ours.
        (&all, &[], "ours", "timeout 3s, headers a,b,d,x-y", "0.1", false),
        (&all, &["--otlp-endpoint", "http://flag"], "flag", "timeout 3s, headers a,b,d,x-y", "0.1", false),
        (&open_telemetry, &["--otlp-endpoint", "http://flag"], "flag", "timeout 2s, headers c", "0.25", true),
    ] {
        let shown = sent(&check(contents, variables, arguments));
        let line = format!("traces      http://{endpoint}/v1/traces by http/protobuf, gzip, {how}: {ratio} of flows, ");
        assert!(shown.contains(&line), "{line}\n{shown}");
        assert_eq!(shown.contains("logs        http"), logs, "{shown}");
    }
    // What is said of a signal goes before what is said of all, wherever that is.
    let of_one = "[otlp.traces]\nendpoint = 'http://file'";
    let shown = sent(&check(of_one, &open_telemetry, &["--otlp-endpoint", "http://flag"]));
    assert!(shown.contains("http://flag/v1/metrics") && shown.contains("http://file/ by"), "{shown}");
}

#[test]
fn all_is_off_where_open_telemetry_is_disabled_unless_we_are_told_otherwise() {
    let off = "otlp        nothing is sent: no endpoint for a signal that is enabled";
    for (value, is_off) in [("true", true), ("TRUE", true), ("false", false), ("1", false), ("", false)] {
        assert_eq!(shown(&[("OTEL_SDK_DISABLED", value)]) == off, is_off, "{value}");
    }
    let ours = ("TIDEWAITER_OTLP__LOGS__ENABLED", "true");
    let shown = shown(&[("OTEL_SDK_DISABLED", "true"), ("OTEL_LOGS_EXPORTER", "none"), ours]);
    assert!(
        shown.contains(&format!("metrics     {OFF}\n")) && shown.contains(&format!("logs        {LOGS}")),
        "{shown}"
    );
}

/// Every variable of OpenTelemetry that can be wrong, wrong; and as what it is told.
const WRONG: [(&str, &str, &str); 33] = [
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "c", r#"found "c", expected an http or https URL such as "http://collector:4318""#),
    (
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
        "http://me:hush@c",
        "found a URL with a user in it, expected one without: use headers",
    ),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", r#"found "http/json", expected "http/protobuf" or "grpc""#),
    ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "x", r#"found "x", expected "http/protobuf" or "grpc""#),
    ("OTEL_EXPORTER_OTLP_HEADERS", "hush", "expected name=value pairs with commas between them, percent-encoded"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "a=%zz", "expected name=value pairs with commas between them, percent-encoded"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "a=%4", "expected name=value pairs with commas between them, percent-encoded"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "a=%ff", "expected name=value pairs with commas between them, percent-encoded"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "a=hush,A=hush", r#"found the header "a" twice, expected each once"#),
    (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "=hush",
        r#"found something before a "=" that is no name of a header, expected one such as "x-api-key""#,
    ),
    (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "authorization: Bearer hush==",
        r#"found something before a "=" that is no name of a header, expected one such as "x-api-key""#,
    ),
    (
        "OTEL_EXPORTER_OTLP_LOGS_HEADERS",
        "authorization: Bearer hush==,authorization: Bearer hush==",
        r#"found something before a "=" that is no name of a header, expected one such as "x-api-key""#,
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "Host=hush",
        r#"found the header "host", which is the protocol's own, expected others"#,
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
        "a=hush%0a",
        r#"found a value of the header "a" that it cannot have, expected printable ASCII"#,
    ),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", r#"found "10s", expected a whole number of milliseconds"#),
    ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "0", "found 0, expected at least 1, in milliseconds"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", r#"found "zstd", expected "gzip" or "none""#),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k", "found no client_certificate with it, expected both or none"),
    (
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "delta",
        r#"found "delta", expected "cumulative": counters are cumulative; the collector's processor cumulativetodelta converts them"#,
    ),
    (
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "lowmemory",
        r#"found "lowmemory", expected "cumulative": counters are cumulative; the collector's processor cumulativetodelta converts them"#,
    ),
    (
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "native",
        r#"found "native", expected "base2_exponential_bucket_histogram" or "explicit_bucket_histogram""#,
    ),
    (
        "OTEL_RESOURCE_ATTRIBUTES",
        "a=b,c",
        r#"found "a=b,c", expected name=value pairs with commas between them, percent-encoded"#,
    ),
    (
        "OTEL_RESOURCE_ATTRIBUTES",
        "%ff=b",
        r#"found "%ff=b", expected name=value pairs with commas between them, percent-encoded"#,
    ),
    (
        "OTEL_RESOURCE_ATTRIBUTES",
        "=b",
        r#"found "=b", expected name=value pairs with commas between them, percent-encoded"#,
    ),
    (
        "OTEL_TRACES_SAMPLER",
        "parentbased_jaeger_remote",
        r#"found "parentbased_jaeger_remote", expected "always_on", "always_off" or "traceidratio", or "parentbased_" with one of them"#,
    ),
    ("OTEL_METRIC_EXPORT_INTERVAL", "999", "found 999, expected at least 1000, in milliseconds"),
    (
        "OTEL_METRIC_EXPORT_INTERVAL",
        "18446744073709551615",
        "found 18446744073709551615, expected at most 2592000000, in milliseconds",
    ),
    ("OTEL_METRIC_EXPORT_TIMEOUT", "-1", r#"found "-1", expected a whole number of milliseconds"#),
    ("OTEL_BSP_SCHEDULE_DELAY", "5", "found 5, expected at least 10, in milliseconds"),
    ("OTEL_BSP_EXPORT_TIMEOUT", "x", r#"found "x", expected a whole number of milliseconds"#),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "many", r#"found "many", expected a whole number"#),
    ("OTEL_BLRP_MAX_QUEUE_SIZE", "0", "found 0, expected 1 to 1048576"),
    (
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
        "4096",
        "found 4096, expected at most as many as may wait (queue_size), which is 2048",
    ),
];

#[test]
fn mistakes_in_variables_of_open_telemetry_are_told_with_their_names() {
    let contents = "[otlp]\nendpoint = 'http://c'";
    for (variable, value, expected) in WRONG {
        let checked = check(contents, &[(variable, value)], &[]);
        let expected = format!("tidewaiter: environment variable {variable}: {expected}\n");
        assert_eq!((checked.code, checked.stderr), (BAD_CONFIGURATION, expected), "{variable}={value}");
    }
    for sampler in ["jaeger_remote", "xray", "0.5"] {
        let checked = check(contents, &[("OTEL_TRACES_SAMPLER", sampler)], &[]);
        assert_eq!(checked.code, BAD_CONFIGURATION, "{checked:?}");
    }
    for ratio in ["2", "-0.1", "nan", "half"] {
        let checked =
            check(contents, &[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", ratio)], &[]);
        let expected = format!(
            "tidewaiter: environment variable OTEL_TRACES_SAMPLER_ARG: found {ratio:?}, expected a number from 0 to 1\n"
        );
        assert_eq!((checked.code, checked.stderr), (BAD_CONFIGURATION, expected));
    }
    let not_text = [("OTEL_EXPORTER_OTLP_CERTIFICATE", OsStr::from_bytes(b"/\xff"))];
    let expected = "tidewaiter: environment variable OTEL_EXPORTER_OTLP_CERTIFICATE: found something that is not UTF-8, expected text\n";
    assert_eq!(check(contents, &not_text, &[]).stderr, expected);

    let several =
        [("OTEL_BSP_SCHEDULE_DELAY", "1"), ("TIDEWAITER_OTLP__QUEUE_BYTES", "1"), ("OTEL_BSP_EXPORT_TIMEOUT", "x")];
    let expected = "\
tidewaiter: environment variable OTEL_BSP_SCHEDULE_DELAY: found 1, expected at least 10, in milliseconds
environment variable TIDEWAITER_OTLP__QUEUE_BYTES: otlp.queue_bytes: found 1, expected 65536 to 1073741824
environment variable OTEL_BSP_EXPORT_TIMEOUT: found \"x\", expected a whole number of milliseconds
";
    assert_eq!(check(contents, &several, &[]).stderr, expected);
}

#[test]
fn nothing_in_variables_of_open_telemetry_is_wrong_while_nothing_is_sent() {
    for (variable, value, _) in WRONG.into_iter().filter(|(variable, ..)| !variable.ends_with("ENDPOINT")) {
        let checked = check("", &[(variable, value)], &[]);
        assert_eq!(
            sent(&checked),
            "otlp        nothing is sent: no endpoint for a signal that is enabled",
            "{variable}={value}"
        );
    }
    // Requests of the file's size do not go into the queue of the variable, but nobody will put them there.
    let sizes = "[otlp.traces]\nbatch_size = 4096";
    assert_eq!(check(sizes, &[("OTEL_BSP_MAX_QUEUE_SIZE", "1")], &[]).code, Some(0));

    let mut wrong: Vec<_> = WRONG.into_iter().map(|(variable, value, _)| (variable, value)).collect();
    wrong.push(("OTEL_SDK_DISABLED", "true"));
    let contents = "[otlp]\nendpoint = 'http://c'";
    assert!(sent(&check(contents, &wrong, &[])).starts_with("otlp        nothing is sent"));
    // What is wrong elsewhere is still told.
    let checked = check("[otlp]\ntimeout = '0s'", &wrong, &[]);
    let expected = "tidewaiter: FILE:2: otlp.timeout: found \"0s\", expected at least \"1ms\"\n";
    assert_eq!((checked.code, checked.stderr.as_str()), (BAD_CONFIGURATION, expected));
}

#[test]
fn nothing_in_variables_of_open_telemetry_is_wrong_that_we_are_told_otherwise() {
    for (variable, value, key, other) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hush", "HEADERS", "{a=\"x\"}"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "0", "LOGS__TIMEOUT", "1s"),
        ("OTEL_TRACES_SAMPLER", "xray", "TRACES__SAMPLE_RATIO", "1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "x", "TRACES__QUEUE_SIZE", "2048"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "x", "TRACES__TIMEOUT", "1s"),
        ("OTEL_METRIC_EXPORT_TIMEOUT", "-1", "METRICS__TIMEOUT", "1s"),
    ] {
        let key = format!("TIDEWAITER_OTLP__{key}");
        sent(&check("[otlp]\nendpoint = 'http://c'", &[(variable, value), (&key, other)], &[]));
    }
}

#[test]
fn mistakes_in_our_own_variables_and_on_the_command_line_are_told_with_their_keys() {
    for (variable, value, expected) in [
        ("TIDEWAITER_OTLP__TIMEOUT", "0s", r#"otlp.timeout: found "0s", expected at least "1ms""#),
        ("TIDEWAITER_OTLP__TRACES__QUEUE_SIZE", "0", "otlp.traces.queue_size: found 0, expected 1 to 1048576"),
        (
            "TIDEWAITER_OTLP__HEADERS",
            "a=hush",
            "otlp.headers: found a string, expected a table such as { x-api-key = \"…\" }",
        ),
        ("TIDEWAITER_OTLP__HEADERS__KEY", "12345", "otlp.headers.key: expected a string in quotes"),
        (
            "TIDEWAITER_OTLP__TRACES__SAMPLE_RATIO",
            "1.5",
            "otlp.traces.sample_ratio: found 1.5, expected a number from 0 to 1",
        ),
        (
            "TIDEWAITER_OTLP__TRACES__PROTOCOL",
            "http/json",
            r#"otlp.traces.protocol: found "http/json", expected one of "http/protobuf", "grpc""#,
        ),
    ] {
        let checked = check("", &[(variable, value)], &[]);
        let expected = format!("tidewaiter: environment variable {variable}: {expected}\n");
        assert_eq!((checked.code, checked.stderr), (BAD_CONFIGURATION, expected), "{variable}={value}");
    }
    let checked = check("", NONE, &["--otlp-endpoint", "c"]);
    let expected = "tidewaiter: command line: otlp.endpoint: found \"c\", expected an http or https URL such as \"http://collector:4318\"\n";
    assert_eq!((checked.code, checked.stderr.as_str()), (BAD_CONFIGURATION, expected));
}
