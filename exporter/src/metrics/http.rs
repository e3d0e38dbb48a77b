//! `api_requests_…` and `api_responses_…`: HTTP/1 without TLS.

use std::{borrow::Cow, fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use tidewaiter_common::http::{METHODS, STATUS_CODES};

use super::{
    Families,
    api::{detailed, labels, labels_and},
    collector,
};
use crate::snapshot::Snapshot;

#[derive(Debug)]
pub(super) struct HttpCollector(pub(super) Arc<Snapshot>);

collector!(HttpCollector);

// Each method and code is there once it was seen: ten and 65 series for each API would be nearly all zeros. The first of
// each is lost to `rate()`; who wants it too can have Prometheus begin at zero (`created-timestamp-zero-ingestion`), for
// which the samples say since when they count.
impl HttpCollector {
    fn families(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter("api_requests", "HTTP/1 requests without TLS, by method", self.requests())?;
        families.counter("api_responses", "HTTP/1 responses without TLS, by status code", self.responses())
    }

    fn requests(&self) -> impl Iterator<Item = ([(&'static str, &str); 3], u64)> {
        detailed(&self.0).flat_map(|(api, details)| {
            let requests = METHODS.into_iter().zip(details.requests).filter(|(_, count)| *count > 0);
            requests.map(|(method, count)| (labels_and(api, "method", method), count))
        })
    }

    fn responses(&self) -> impl Iterator<Item = ([(&'static str, Cow<'_, str>); 3], u64)> {
        detailed(&self.0).flat_map(|(api, details)| {
            let responses = details.responses.into_iter().enumerate().filter(|(_, count)| *count > 0);
            responses.map(|(place, count)| {
                let [api, role] = labels(api).map(|(name, value)| (name, Cow::Borrowed(value)));
                ([api, role, ("code", code(place))], count)
            })
        })
    }
}

/// The status code that is counted at `place`.
fn code(place: usize) -> Cow<'static, str> {
    STATUS_CODES.get(place).map_or(Cow::Borrowed("other"), |code| code.to_string().into())
}
