//! From what was written in `[otlp]` to what is meant.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderName, HeaderValue, Uri};

use super::{
    Otlp, OtlpBatch, OtlpClient, OtlpCompression, OtlpLogs, OtlpMetrics, OtlpProtocol, OtlpTarget, OtlpTraces,
    endpoint::endpoint,
    headers::header,
    raw::{Ratio, RawOtlp, RawTarget},
    resource::RawResource,
};
use crate::config::{error::Place, raw::Interval, validate::Check};

/// How long an attempt may take, if nobody says (OpenTelemetry specification, "Protocol Exporter").
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest span of time: nobody means a longer one, and clocks can still add it.
pub(super) const LONGEST: Duration = Duration::from_hours(30 * 24);

/// How long an attempt may take.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=LONGEST;

/// Time between two exports of metrics: each reads all that there is in the kernel.
const INTERVALS: RangeInclusive<Duration> = Duration::from_secs(1)..=LONGEST;

/// How long records wait until they make a request: at most a hundred requests in a second.
const DELAYS: RangeInclusive<Duration> = Duration::from_millis(10)..=LONGEST;

/// How long an end may take.
const FLUSHES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_mins(5);

/// What may wait of requests, in bytes.
const QUEUE_BYTES: RangeInclusive<i64> = 65_536..=1 << 30;

/// How many records may be in a request, and wait to be put into one.
const BATCH_SIZES: RangeInclusive<i64> = 1..=65_536;
const QUEUE_SIZES: RangeInclusive<i64> = 1..=1_048_576;

/// How many spans, and how many log records, there are in a request if nobody says.
const SPANS: usize = 2048;
const RECORDS: usize = 512;

/// The tables that say where a signal is sent, and how.
struct Tables<'a> {
    signal: &'static str,
    own: RawTarget<'a>,
    general: RawTarget<'a>,
}

impl<'a> Tables<'a> {
    /// What goes for the signal, its own before the general, and its key.
    fn get<T>(&self, name: &'static str, of: impl Fn(&RawTarget<'a>) -> Option<T>) -> Option<(T, Vec<&'static str>)> {
        let own = of(&self.own).map(|value| (value, vec!["otlp", self.signal, name]));
        own.or_else(|| of(&self.general).map(|value| (value, vec!["otlp", name])))
    }
}

impl Check<'_> {
    pub(in crate::config) fn otlp(&mut self, raw: RawOtlp) -> Otlp {
        let general = raw.target();
        let target = |check: &mut Self, signal, own, enabled: bool| {
            let target = check.target(&Tables { signal, own, general });
            target.filter(|_| enabled)
        };
        let metrics = target(self, "metrics", raw.metrics.target(), raw.metrics.enabled);
        let interval = self.time(&["otlp", "metrics", "interval"], raw.metrics.interval, &INTERVALS);
        let histograms = raw.metrics.histograms;

        let traces = target(self, "traces", raw.traces.target(), raw.traces.enabled);
        let sample_ratio = self.ratio(&["otlp", "traces", "sample_ratio"], raw.traces.sample_ratio);
        let size = raw.traces.batch_size;
        let spans = self.batch("traces", raw.traces.batch_delay, (size, SPANS), raw.traces.queue_size);

        let logs = target(self, "logs", raw.logs.target(), raw.logs.enabled);
        let size = raw.logs.batch_size;
        let records = self.batch("logs", raw.logs.batch_delay, (size, RECORDS), raw.logs.queue_size);

        Otlp {
            metrics: metrics.map(|target| OtlpMetrics { target, interval, histograms }),
            traces: traces.map(|target| OtlpTraces { target, sample_ratio, batch: spans }),
            logs: logs.map(|target| OtlpLogs { target, batch: records }),
            queue_bytes: self.count(&["otlp", "queue_bytes"], raw.queue_bytes, &QUEUE_BYTES),
            flush_timeout: self.time(&["otlp", "flush_timeout"], raw.flush_timeout, &FLUSHES),
            resource: self.resource(raw.resource),
        }
    }

    /// Where a signal is sent, if that is said.
    fn target(&mut self, tables: &Tables<'_>) -> Option<OtlpTarget> {
        let protocol =
            tables.get("protocol", |table| table.protocol).map_or(OtlpProtocol::Http, |(protocol, _)| protocol);
        let compression = tables.get("compression", |table| table.compression);
        let timeout = match tables.get("timeout", |table| table.timeout) {
            Some((timeout, key)) => self.time(&key, timeout, &TIMEOUTS),
            None => TIMEOUT,
        };
        let limit = self.variables.limit(tables.signal);
        let headers = self.headers(tables);
        let certificate = self.path(tables, "certificate", |table| table.certificate).map(|(path, _)| path);
        let client = self.client(tables);
        let endpoint = self.endpoint(tables, protocol)?;
        Some(OtlpTarget {
            endpoint,
            protocol,
            headers,
            compression: compression.map_or(OtlpCompression::Gzip, |(compression, _)| compression),
            timeout: limit.map_or(timeout, |limit| limit.min(timeout)),
            certificate,
            client,
        })
    }

    fn endpoint(&mut self, tables: &Tables<'_>, protocol: OtlpProtocol) -> Option<Uri> {
        let (text, key) = tables.get("endpoint", |table| table.endpoint)?;
        let is_insecure = tables.get("insecure", |table| table.insecure).is_some_and(|(insecure, _)| insecure);
        let path = tables.own.endpoint.is_none().then(|| format!("v1/{}", tables.signal));
        let endpoint = endpoint(text, protocol, is_insecure, path.as_deref());
        endpoint.map_err(|message| self.problem_at(&key, message)).ok()
    }

    /// Those of a signal replace the general ones as a whole, as every other option does.
    fn headers(&mut self, tables: &Tables<'_>) -> Vec<(HeaderName, HeaderValue)> {
        let Some((raw, key)) = tables.get("headers", |table| table.headers) else { return Vec::new() };
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in &raw.0 {
            let complaint = match header(name, value) {
                Ok((name, _)) if headers.iter().any(|(other, _)| *other == name) => {
                    format!("found the header \"{name}\" twice, expected each once")
                }
                Ok(header) => {
                    headers.push(header);
                    continue;
                }
                Err(complaint) => complaint,
            };
            let key: Vec<_> = key.iter().copied().chain([name.as_str()]).collect();
            self.problem_at(&key, complaint);
        }
        headers
    }

    fn path<'a>(
        &mut self,
        tables: &Tables<'a>,
        name: &'static str,
        of: impl Fn(&RawTarget<'a>) -> Option<&'a Path>,
    ) -> Option<(PathBuf, Vec<&'static str>)> {
        let (path, key) = tables.get(name, of)?;
        if path.as_os_str().is_empty() {
            self.problem_at(&key, "found \"\", expected the path of a file".to_owned());
        }
        Some((self.resolved(&key.join("."), path.to_owned()), key))
    }

    fn client(&mut self, tables: &Tables<'_>) -> Option<OtlpClient> {
        let certificate = self.path(tables, "client_certificate", |table| table.client_certificate);
        let key = self.path(tables, "client_key", |table| table.client_key);
        let (lone, other) = match (certificate, key) {
            (Some((certificate, _)), Some((key, _))) => return Some(OtlpClient { certificate, key }),
            (None, None) => return None,
            (Some((_, lone)), None) => (lone, "client_key"),
            (None, Some((_, lone))) => (lone, "client_certificate"),
        };
        self.problem_at(&lone, format!("found no {other} with it, expected both or none"));
        None
    }

    fn batch(&mut self, signal: &str, delay: Interval, size: (Option<i64>, usize), queue: i64) -> OtlpBatch {
        let delay = self.time(&["otlp", signal, "batch_delay"], delay, &DELAYS);
        let queue = self.count(&["otlp", signal, "queue_size"], queue, &QUEUE_SIZES);
        let key = ["otlp", signal, "batch_size"];
        let size = match size {
            (None, default) => default.min(queue),
            (Some(size), _) => self.count(&key, size, &BATCH_SIZES),
        };
        if size > queue {
            let expected = format!("expected at most as many as may wait (queue_size), which is {queue}");
            self.problem_at(&key, format!("found {size}, {expected}"));
        }
        OtlpBatch { delay, size, queue }
    }

    fn resource(&mut self, RawResource(attributes): RawResource) -> BTreeMap<String, String> {
        if attributes.contains_key("") {
            let expected = "expected the name of an attribute such as \"deployment.environment.name\"";
            self.problem_at(&["otlp", "resource", ""], format!("found \"\", {expected}"));
        }
        attributes
    }

    fn ratio(&mut self, key: &[&str], Ratio(ratio): Ratio) -> f64 {
        if !(0.0..=1.0).contains(&ratio) {
            self.problem_at(key, format!("found {ratio}, expected a number from 0 to 1"));
        }
        ratio
    }

    fn count(&mut self, key: &[&str], number: i64, range: &RangeInclusive<i64>) -> usize {
        if !range.contains(&number) {
            self.problem_at(key, format!("found {number}, expected {} to {}", range.start(), range.end()));
        }
        usize::try_from(number).unwrap_or_default()
    }

    fn time(&mut self, key: &[&str], Interval(time): Interval, range: &RangeInclusive<Duration>) -> Duration {
        if !range.contains(&time) {
            let (which, bound) =
                if time < *range.start() { ("at least", *range.start()) } else { ("at most", *range.end()) };
            // In the words of whoever wrote it: OpenTelemetry's variables are in milliseconds.
            let message = if let Place::Variable(_) = self.place(key) {
                format!("found {}, expected {which} {}, in milliseconds", time.as_millis(), bound.as_millis())
            } else {
                let [found, bound] = [time, bound].map(humantime::format_duration);
                format!("found \"{found}\", expected {which} \"{bound}\"")
            };
            self.problem_at(key, message);
        }
        time
    }
}
