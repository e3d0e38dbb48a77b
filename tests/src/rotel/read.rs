//! Reading what rotel prints. What is not known is an error: nothing that it says is passed over.

use opentelemetry_proto::tonic::{
    logs::v1::SeverityNumber,
    metrics::v1::AggregationTemporality,
    trace::v1::{span::SpanKind, status::StatusCode},
};

use super::values::{Attributes, LogEntry, Point, SpanRecord};

/// All that was printed, in its order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// Points of metrics.
    pub points: Vec<Point>,
    /// Spans.
    pub spans: Vec<SpanRecord>,
    /// Log records.
    pub logs: Vec<LogEntry>,
}

/// What lines that begin with an arrow are about.
#[derive(Clone, Copy, Debug, Default)]
enum List {
    #[default]
    Nothing,
    Resource,
    Metric,
    Item,
    Event,
    Link,
}

/// What was begun last.
#[derive(Clone, Copy, Debug, Default)]
enum Item {
    #[default]
    Nothing,
    Point,
    Span,
    Log,
}

#[derive(Default)]
struct Reader {
    received: Contents,
    resource: Attributes,
    /// What the points of a metric have in common.
    metric: Point,
    item: Item,
    list: List,
}

impl Contents {
    /// Reads what was printed; no value may have more than one line.
    ///
    /// # Panics
    /// If it is not what rotel is known to print.
    #[must_use]
    pub fn read(printed: &str) -> Self {
        let mut reader = Reader::default();
        // What it logs of itself is coloured.
        for line in printed.lines().filter(|line| !line.starts_with('\u{1b}')) {
            assert!(reader.read(line).is_some(), "rotel prints what nobody here knows: {line:?}");
        }
        reader.received
    }
}

impl Reader {
    fn read(&mut self, line: &str) -> Option<()> {
        if let Some((heading, number)) = line.split_once(" #")
            && number.parse::<u32>().is_ok()
        {
            return self.begin(heading);
        }
        if let Some((indentation, member)) = line.split_once("-> ")
            && indentation.trim().is_empty()
        {
            // "Attributes::" has no value.
            let (key, value) = member.split_once(": ").or_else(|| member.split_once(':'))?;
            return self.member(key, value);
        }
        if let Some(bucket) = line.strip_prefix("Bucket ") {
            return self.bucket(bucket);
        }
        if line.starts_with("InstrumentationScope ") {
            self.list = List::Nothing;
            return Some(());
        }
        let (key, value) = line.split_once(':')?;
        let (key, value) = (key.trim(), value.strip_prefix(' ').unwrap_or(value));
        match key {
            "Resource SchemaURL" | "ScopeSpans SchemaURL" | "ScopeMetrics SchemaURL" | "ScopeLogs SchemaURL" => {}
            "Resource attributes" => self.list = List::Resource,
            "Descriptor" => self.list = List::Metric,
            "Data point attributes" | "Attributes" => self.list = List::Item,
            "Events" | "Links" | "Exemplars" => self.list = List::Nothing,
            _ => return self.field(key, value),
        }
        Some(())
    }

    /// One more of what `heading` says.
    fn begin(&mut self, heading: &str) -> Option<()> {
        let resource = self.resource.clone();
        match heading {
            "ResourceSpans" | "ResourceMetrics" | "ResourceLog" => self.resource.clear(),
            "ScopeSpans" | "ScopeMetrics" | "ScopeLogs" => {}
            "Metric" => self.metric = Point { resource, ..Point::default() },
            "NumberDataPoints" | "HistogramDataPoints" | "ExponentialHistogramDataPoints" => {
                self.received.points.push(self.metric.clone());
                self.item = Item::Point;
            }
            "Exemplar" => self.list = List::Nothing,
            "Span" => {
                self.received.spans.push(SpanRecord { resource, ..SpanRecord::default() });
                self.item = Item::Span;
            }
            "SpanEvent" => {
                self.received.spans.last_mut()?.events.push(Default::default());
                self.list = List::Event;
            }
            "SpanLink" => {
                self.received.spans.last_mut()?.links.push(Default::default());
                self.list = List::Link;
            }
            "LogRecord" => {
                self.received.logs.push(LogEntry { resource, ..LogEntry::default() });
                self.item = Item::Log;
            }
            _ => return None,
        }
        Some(())
    }

    /// A line with an arrow.
    fn member(&mut self, key: &str, value: &str) -> Option<()> {
        let Contents { points, spans, logs } = &mut self.received;
        let attributes = match (self.list, self.item) {
            (List::Resource, _) => &mut self.resource,
            (List::Item, Item::Point) => &mut points.last_mut()?.attributes,
            (List::Item, Item::Span) => &mut spans.last_mut()?.attributes,
            (List::Item, Item::Log) => &mut logs.last_mut()?.attributes,
            (List::Item, Item::Nothing) => return None,
            (List::Nothing, _) => return Some(()),
            (List::Metric, _) => {
                match key {
                    "Name" => value.clone_into(&mut self.metric.name),
                    "Description" => value.clone_into(&mut self.metric.description),
                    "Unit" => value.clone_into(&mut self.metric.unit),
                    "DataType" => value.clone_into(&mut self.metric.kind),
                    "IsMonotonic" => self.metric.is_monotonic = Some(value.parse().ok()?),
                    "AggregationTemporality" => {
                        self.metric.temporality = Some(AggregationTemporality::from_str_name(value)?);
                    }
                    _ => return None,
                }
                return Some(());
            }
            (List::Event, _) => {
                let (name, time, attributes) = spans.last_mut()?.events.last_mut()?;
                match key {
                    "Name" => value.clone_into(name),
                    "Timestamp" => *time = value.parse().ok()?,
                    "DroppedAttributesCount" | "Attributes" => {}
                    _ => drop(attributes.insert(key.to_owned(), value.to_owned())),
                }
                return Some(());
            }
            (List::Link, _) => {
                let (trace, span) = spans.last_mut()?.links.last_mut()?;
                match key {
                    "Trace ID" => value.clone_into(trace),
                    "ID" => value.clone_into(span),
                    // Their attributes are passed over.
                    _ => {}
                }
                return Some(());
            }
        };
        attributes.insert(key.to_owned(), value.to_owned());
        Some(())
    }

    /// A line of what was begun last.
    fn field(&mut self, key: &str, value: &str) -> Option<()> {
        let Contents { points, spans, logs } = &mut self.received;
        match self.item {
            Item::Nothing => return None,
            Item::Point => {
                let point = points.last_mut()?;
                match key {
                    "StartTimestamp" => point.start = value.parse().ok()?,
                    "Timestamp" => point.time = value.parse().ok()?,
                    "Value" => point.number = Some(value.to_owned()),
                    "Count" => point.count = value.parse().ok()?,
                    "Sum" => point.sum = Some(value.parse().ok()?),
                    "Min" => point.min = Some(value.parse().ok()?),
                    "Max" => point.max = Some(value.parse().ok()?),
                    _ if key.starts_with("ExplicitBounds #") => point.bounds.push(value.parse().ok()?),
                    _ if key.starts_with("Buckets #") => point.buckets.push(value.parse().ok()?),
                    _ => return None,
                }
            }
            Item::Span => {
                let span = spans.last_mut()?;
                match key {
                    "Trace ID" => value.clone_into(&mut span.trace),
                    "Parent ID" => value.clone_into(&mut span.parent),
                    "ID" => value.clone_into(&mut span.id),
                    "Name" => value.clone_into(&mut span.name),
                    "Kind" => span.kind = SpanKind::from_str_name(value)?,
                    "TraceState" => {}
                    "Start time" => span.start = value.parse().ok()?,
                    "End time" => span.end = value.parse().ok()?,
                    "Status code" => span.status.0 = StatusCode::from_str_name(value)?,
                    "Status message" => value.clone_into(&mut span.status.1),
                    _ => return None,
                }
            }
            Item::Log => {
                let log = logs.last_mut()?;
                match key {
                    "ObservedTimestamp" => log.observed = value.parse().ok()?,
                    "Timestamp" => log.time = value.parse().ok()?,
                    "SeverityText" => value.clone_into(&mut log.severity_text),
                    "SeverityNumber" => log.severity = SeverityNumber::from_str_name(value.split_once('(')?.0)?,
                    "EventName" => value.clone_into(&mut log.event),
                    "Body" => value.clone_into(&mut log.body),
                    "Trace ID" => value.clone_into(&mut log.trace),
                    "Span ID" => value.clone_into(&mut log.span),
                    "Flags" => {}
                    _ => return None,
                }
            }
        }
        Some(())
    }

    /// A bucket of an exponential histogram, as in "(0.5, 1], Count: 4", of which the first says what scale they have.
    fn bucket(&mut self, bucket: &str) -> Option<()> {
        let point = self.received.points.last_mut()?;
        let (bounds, count) = bucket.split_once(", Count: ")?;
        let count = count.parse().ok()?;
        if bounds == "[0, 0]" {
            point.zero_count = count;
            return Some(());
        }
        let (lower, upper) = bounds.strip_prefix('(')?.strip_suffix(']')?.split_once(", ")?;
        let [lower, upper]: [f64; 2] = [lower.parse().ok()?, upper.parse().ok()?];
        if point.scale.is_none() {
            // A bucket ends at the 2 to the power of `index + 1` divided by 2 to the power of `scale`.
            let scale = -(upper / lower).log2().log2().round();
            point.scale = Some(scale as i32);
            point.offset = (lower.log2() * scale.exp2()).round() as i32;
        }
        point.buckets.push(count);
        Some(())
    }
}
