//! The two text formats, which differ in how counters are called, and in what `OpenMetrics` says beside.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
    LabelPair, Metric, MetricFamily, MetricType,
};

use super::ExpositionError;

/// What ends the name of a counter's samples.
const TOTAL: &str = "_total";

/// The text format 0.0.4 of Prometheus' "Exposition formats": a counter is called as its samples are.
pub(super) fn classic(families: &[MetricFamily]) -> Result<Vec<u8>, ExpositionError> {
    let mut text = String::new();
    let mut bounds = Bounds::new(shortest);
    for family in families {
        write_head(&mut text, &family.name, &escape(&family.help, false), family)?;
        for metric in &family.metric {
            write_metric(&mut text, &family.name, metric, &labels(&metric.label)?, &mut bounds)?;
        }
    }
    Ok(text.into_bytes())
}

/// `OpenMetrics` text 1.0.0: a counter is called without `_total`; counters and histograms say since when they count.
pub(super) fn open_metrics(families: &[MetricFamily]) -> Result<Vec<u8>, ExpositionError> {
    let mut text = String::new();
    let mut bounds = Bounds::new(canonical);
    for family in families {
        let name = match family.r#type() {
            MetricType::Counter => family.name.strip_suffix(TOTAL).unwrap_or(&family.name),
            _ => &family.name,
        };
        // Other than in the classic format, quotes are escaped here too.
        write_head(&mut text, name, &escape(&family.help, true), family)?;
        for metric in &family.metric {
            let labels = labels(&metric.label)?;
            write_metric(&mut text, &family.name, metric, &labels, &mut bounds)?;
            let Metric { counter, histogram, .. } = metric;
            let created = counter.as_ref().and_then(|counter| counter.start_timestamp.as_ref());
            let created = created.or_else(|| histogram.as_ref()?.start_timestamp.as_ref());
            if let Some(created) = created {
                let milliseconds = created.seconds * 1000 + i64::from(created.nanos) / 1_000_000;
                #[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch have 13 digits")]
                let seconds = milliseconds as f64 / 1000.0;
                write_sample(&mut text, name, "_created", &labels, None, seconds)?;
            }
        }
    }
    text.push_str("# EOF\n");
    Ok(text.into_bytes())
}

fn write_head(text: &mut String, name: &str, help: &str, family: &MetricFamily) -> Result<(), ExpositionError> {
    let kind = match family.r#type() {
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
        MetricType::Histogram => "histogram",
        _ => return Err(ExpositionError::Kind { name: name.to_owned(), kind: family.r#type }),
    };
    writeln!(text, "# HELP {name} {help}")?;
    Ok(writeln!(text, "# TYPE {name} {kind}")?)
}

/// Bounds of buckets as they are written: histograms have the same ones over and over.
struct Bounds {
    write: fn(f64) -> String,
    written: Vec<(f64, String)>,
}

impl Bounds {
    const fn new(write: fn(f64) -> String) -> Self {
        Self { write, written: Vec::new() }
    }

    /// How the bound is written that is the next after so many others.
    fn get(&mut self, at: usize, bound: f64) -> &str {
        if at >= self.written.len() {
            self.written.resize(at + 1, (f64::NAN, String::new()));
        }
        let written = &mut self.written[at];
        // The very same number; another histogram may have others.
        if written.0.to_bits() != bound.to_bits() {
            *written = (bound, (self.write)(bound));
        }
        &written.1
    }
}

/// Writes all samples of `metric`, which has `labels`.
fn write_metric(text: &mut String, name: &str, metric: &Metric, labels: &str, bounds: &mut Bounds) -> fmt::Result {
    let Metric { label: _, counter, gauge, histogram, .. } = metric;
    let Some(histogram) = histogram else {
        let value = counter.as_ref().map(|counter| counter.value).or(gauge.as_ref().map(|gauge| gauge.value));
        return write_sample(text, name, "", labels, None, value.unwrap_or(f64::NAN));
    };
    for (at, bucket) in histogram.bucket.iter().enumerate() {
        let bound = bounds.get(at, bucket.upper_bound);
        write_sample(text, name, "_bucket", labels, Some(bound), bucket.cumulative_count)?;
    }
    write_sample(text, name, "_bucket", labels, Some("+Inf"), histogram.sample_count)?;
    write_sample(text, name, "_sum", labels, None, histogram.sample_sum)?;
    write_sample(text, name, "_count", labels, None, histogram.sample_count)
}

/// Labels as they are written between braces.
fn labels(labels: &[LabelPair]) -> Result<String, fmt::Error> {
    let mut text = String::new();
    for LabelPair { name, value } in labels {
        let separator = if text.is_empty() { "" } else { "," };
        write!(text, "{separator}{name}=\"{}\"", escape(value, true))?;
    }
    Ok(text)
}

fn write_sample(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: &str,
    bound: Option<&str>,
    value: impl fmt::Display,
) -> fmt::Result {
    for part in [name, suffix] {
        text.push_str(part);
    }
    let has_labels = !labels.is_empty();
    if has_labels || bound.is_some() {
        text.push('{');
        text.push_str(labels);
        if let Some(bound) = bound {
            for part in [if has_labels { "," } else { "" }, "le=\"", bound, "\""] {
                text.push_str(part);
            }
        }
        text.push('}');
    }
    writeln!(text, " {value}")
}

/// A finite number as Prometheus' own clients write it, which is Go's `strconv.FormatFloat(number, 'g', -1, 64)`: a bound is
/// part of what a series is called, so all have to call it the same.
fn shortest(number: f64) -> String {
    let scientific = format!("{number:e}");
    match scientific.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
        Some((digits, Ok(exponent))) if !(-4..6).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => number.to_string(),
    }
}

/// A finite number as `OpenMetrics` wants it in bounds: as [`shortest`], but never like a whole number.
fn canonical(number: f64) -> String {
    let shortest = shortest(number);
    if shortest.contains(['.', 'e']) { shortest } else { shortest + ".0" }
}

fn escape(text: &str, quotes: bool) -> Cow<'_, str> {
    if !text.contains(['\\', '\n', '"']) {
        return text.into();
    }
    let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { escaped.replace('"', "\\\"") } else { escaped }.into()
}

#[cfg(test)]
mod tests {
    use super::{canonical, shortest};

    #[test]
    fn bounds_are_written_as_go_writes_them() {
        for (number, classic, open_metrics) in [
            (1.0 / 1_048_576.0, "9.5367431640625e-07", "9.5367431640625e-07"),
            (1.0 / 16_384.0, "6.103515625e-05", "6.103515625e-05"),
            (1.0 / 8192.0, "0.0001220703125", "0.0001220703125"),
            (0.5, "0.5", "0.5"),
            (1.0, "1", "1.0"),
            (65_536.0, "65536", "65536.0"),
            (999_999.0, "999999", "999999.0"),
            (1_048_576.0, "1.048576e+06", "1.048576e+06"),
            (1e-12, "1e-12", "1e-12"),
            (1e100, "1e+100", "1e+100"),
            (0.0, "0", "0.0"),
        ] {
            assert_eq!((shortest(number).as_str(), canonical(number).as_str()), (classic, open_metrics));
        }
    }
}
