//! The two text formats, which differ in how counters are called, and in what `OpenMetrics` says beside.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::prometheus_protobuf::prometheus_data_model::{
    LabelPair, Metric, MetricFamily, MetricType,
};

use super::ExpositionError;

/// What ends the name of a counter's samples.
const TOTAL: &str = "_total";

/// The text format 0.0.4 of Prometheus' "Exposition formats": a counter is called as its samples are.
pub(super) fn classic(families: &[MetricFamily]) -> Result<Vec<u8>, ExpositionError> {
    let mut text = String::new();
    for family in families {
        write_head(&mut text, &family.name, &escape(&family.help, false), family)?;
        for metric in &family.metric {
            write_metric(&mut text, &family.name, metric, shortest)?;
        }
    }
    Ok(text.into_bytes())
}

/// `OpenMetrics` text 1.0.0: a counter is called without `_total`; counters and histograms say since when they count.
pub(super) fn open_metrics(families: &[MetricFamily]) -> Result<Vec<u8>, ExpositionError> {
    let mut text = String::new();
    for family in families {
        let name = match family.r#type() {
            MetricType::Counter => family.name.strip_suffix(TOTAL).unwrap_or(&family.name),
            _ => &family.name,
        };
        // Other than in the classic format, quotes are escaped here too.
        write_head(&mut text, name, &escape(&family.help, true), family)?;
        for metric in &family.metric {
            write_metric(&mut text, &family.name, metric, canonical)?;
            let Metric { counter, histogram, .. } = metric;
            let created = counter.as_ref().and_then(|counter| counter.start_timestamp.as_ref());
            let created = created.or_else(|| histogram.as_ref()?.start_timestamp.as_ref());
            if let Some(created) = created {
                let milliseconds = created.seconds * 1000 + i64::from(created.nanos) / 1_000_000;
                #[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch have 13 digits")]
                let seconds = milliseconds as f64 / 1000.0;
                write_sample(&mut text, name, "_created", &metric.label, None, seconds)?;
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

/// Writes all samples of `metric`; `bound` writes the bounds of buckets.
fn write_metric(text: &mut String, name: &str, metric: &Metric, bound: fn(f64) -> String) -> fmt::Result {
    let Metric { label, counter, gauge, histogram, .. } = metric;
    let Some(histogram) = histogram else {
        let value = counter.as_ref().map(|counter| counter.value).or(gauge.as_ref().map(|gauge| gauge.value));
        return write_sample(text, name, "", label, None, value.unwrap_or(f64::NAN));
    };
    for bucket in &histogram.bucket {
        write_sample(text, name, "_bucket", label, Some(&bound(bucket.upper_bound)), bucket.cumulative_count)?;
    }
    write_sample(text, name, "_bucket", label, Some("+Inf"), histogram.sample_count)?;
    write_sample(text, name, "_sum", label, None, histogram.sample_sum)?;
    write_sample(text, name, "_count", label, None, histogram.sample_count)
}

fn write_sample(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: &[LabelPair],
    bound: Option<&str>,
    value: impl fmt::Display,
) -> fmt::Result {
    write!(text, "{name}{suffix}")?;
    let mut separator = '{';
    for LabelPair { name, value } in labels {
        write!(text, "{separator}{name}=\"{}\"", escape(value, true))?;
        separator = ',';
    }
    if let Some(bound) = bound {
        write!(text, "{separator}le=\"{bound}\"")?;
        separator = ',';
    }
    if separator == ',' {
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

fn escape(text: &str, quotes: bool) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { escaped.replace('"', "\\\"") } else { escaped }
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
