//! `/`: links, and a short status.

use crate::accounting::Accounting;

/// The page.
pub(super) fn page(accounting: &Accounting) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let interfaces: Vec<_> = accounting.interfaces().map(escape).collect();
    let interfaces = if interfaces.is_empty() { "none".to_owned() } else { interfaces.join(", ") };
    let apis = accounting.api_count();
    format!(
        "<!doctype html>
<html lang=\"en\">
<head><meta charset=\"utf-8\"><title>tidewaiter</title></head>
<body>
<h1>tidewaiter {version}</h1>
<p>Counts every packet per API in the kernel.</p>
<p>Interfaces: {interfaces}. APIs: {apis}.</p>
<ul>
<li><a href=\"/metrics\">/metrics</a>: for Prometheus</li>
<li><a href=\"/api/v1/apis\">/api/v1/apis</a>, <a href=\"/api/v1/flows\">/api/v1/flows</a>: JSON, for this host alone, or for whoever has shown who he is</li>
<li><a href=\"/healthz\">/healthz</a>: is the exporter alive?</li>
<li><a href=\"/readyz\">/readyz</a>: is it attached?</li>
</ul>
</body>
</html>
"
    )
}

/// An interface may be named almost anything.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
