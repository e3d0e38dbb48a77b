//! `api_requests_…` and `api_responses_…`: HTTP/1 without TLS.

use std::{borrow::Cow, fmt, sync::Arc};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};

use super::{
    Families,
    api::{labels, labels_and},
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
        self.0
            .apis
            .iter()
            .flat_map(|api| api.requests().map(move |(method, count)| (labels_and(api, "method", method), count)))
    }

    fn responses(&self) -> impl Iterator<Item = ([(&'static str, Cow<'_, str>); 3], u64)> {
        self.0.apis.iter().flat_map(|api| {
            api.responses().map(move |(code, count)| {
                let [api, role] = labels(api).map(|(name, value)| (name, Cow::Borrowed(value)));
                ([api, role, ("code", code)], count)
            })
        })
    }
}
