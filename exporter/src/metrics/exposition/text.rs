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
            write_sample(&mut text, &family.name, &metric.label, value(metric))?;
        }
    }
    Ok(text.into_bytes())
}

/// `OpenMetrics` text 1.0.0: a counter is called without `_total`, and says since when it counts.
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
            write_sample(&mut text, &family.name, &metric.label, value(metric))?;
            let created = metric.counter.as_ref().and_then(|counter| counter.start_timestamp.as_ref());
            if let Some(created) = created {
                let milliseconds = created.seconds * 1000 + i64::from(created.nanos) / 1_000_000;
                #[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch have 13 digits")]
                let seconds = milliseconds as f64 / 1000.0;
                write_sample(&mut text, &format!("{name}_created"), &metric.label, seconds)?;
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
        _ => return Err(ExpositionError::Kind { name: name.to_owned(), kind: family.r#type }),
    };
    writeln!(text, "# HELP {name} {help}")?;
    Ok(writeln!(text, "# TYPE {name} {kind}")?)
}

fn value(Metric { counter, gauge, .. }: &Metric) -> f64 {
    let value = counter.as_ref().map(|counter| counter.value).or(gauge.as_ref().map(|gauge| gauge.value));
    value.unwrap_or(f64::NAN)
}

fn write_sample(text: &mut String, name: &str, labels: &[LabelPair], value: f64) -> fmt::Result {
    text.push_str(name);
    let mut separator = '{';
    for LabelPair { name, value } in labels {
        write!(text, "{separator}{name}=\"{}\"", escape(value, true))?;
        separator = ',';
    }
    if separator == ',' {
        text.push('}');
    }
    writeln!(text, " {value}")
}

fn escape(text: &str, quotes: bool) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { escaped.replace('"', "\\\"") } else { escaped }
}
