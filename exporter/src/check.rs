//! `tidewaiter check`: what a configuration resolves to.

use std::fmt::{self, Display, Write as _};

mod guard;

use self::guard::guarded;
use crate::{
    anomaly::AnomalyKind,
    api::{Api, join},
    config::{
        ApiSource, Audit, AuditSync, Configuration, Discovery, Flows, InterfaceSelection,
        otlp::{
            Otlp, OtlpBatch, OtlpCompression, OtlpHistograms, OtlpLogs, OtlpMetrics, OtlpProtocol, OtlpTarget,
            OtlpTraces,
        },
        shown,
    },
    http::Access,
    interfaces::Links,
};

/// What `configuration` resolves to on a host with `links`, where `access` lets people in, for them to read.
pub fn describe(configuration: &Configuration, links: &Links, access: &Access) -> Result<String, fmt::Error> {
    let Configuration {
        file,
        listen,
        web_config,
        api_token_file,
        interfaces,
        attach,
        pin_path,
        persist,
        watch,
        flows,
        apis,
        anomalies,
        guard,
        otlp,
        audit,
        log,
        fingerprint,
    } = configuration;
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn Display| writeln!(text, "{key:<12}{value}");

    match file {
        Some(path) => line("file", &path.display())?,
        None => line("file", &"none: defaults, environment and command line")?,
    }
    line("listen", listen)?;
    let web = access.web().map_or("in the clear, for everybody".to_owned(), |web| web.describe());
    let from = web_config.as_ref().map_or(String::new(), |path| format!(" ({})", path.display()));
    line("http", &format_args!("{web}{from}"))?;
    if let Some(path) = api_token_file {
        line("token", &path.display())?;
    }
    let selection = match interfaces {
        InterfaceSelection::Default => "the default route's and lo".to_owned(),
        InterfaceSelection::Matching(matching) => join(matching.patterns.iter().map(|pattern| &pattern.text)),
    };
    let names: Vec<_> = links.select(interfaces).into_iter().map(|interface| interface.name).collect();
    line(
        "interfaces",
        &format_args!("{} ({selection})", if names.is_empty() { "none".into() } else { names.join(", ") }),
    )?;
    for interface in links.unreadable(interfaces) {
        line(
            "",
            &format_args!("not {}: its link layer is neither Ethernet nor IP, which cannot be read", interface.name),
        )?;
    }
    line("attach", &format!("{attach:?}").to_lowercase())?;
    let path = pin_path.as_ref().map_or("one for this network namespace".to_owned(), |path| path.display().to_string());
    line("pin_path", &path)?;
    line("persist", persist)?;
    line("watch", watch)?;
    let Flows { capacity, idle_timeout, active_timeout, clients } = flows;
    let [idle_timeout, active_timeout] = [idle_timeout, active_timeout].map(|time| humantime::format_duration(*time));
    line("flows", &format_args!("at most {capacity}, forgotten {idle_timeout} after the last packet"))?;
    line("", &format_args!("told in parts of {active_timeout} if they go on for longer"))?;
    line("clients", &format_args!("at most {clients} of each API"))?;
    let off: Vec<_> = AnomalyKind::ALL.iter().filter(|kind| !anomalies.is_enabled(**kind)).collect();
    match off.as_slice() {
        [] => line("anomalies", &"all kinds")?,
        off => line("anomalies", &format_args!("all kinds but {}", join(off.iter().map(|kind| kind.as_str()))))?,
    }
    for (part, how) in guarded(guard) {
        line(part, &how)?;
    }
    for (signal, how) in sent(otlp) {
        line(signal, &how)?;
    }
    line("audit", &audited(audit.as_ref()))?;
    line("log", &format!("{:?}, as {:?}", log.level, log.format).to_lowercase())?;

    match apis {
        ApiSource::Discovered(Discovery { interval, limit, forget_after }) => {
            let (interval, forget_after) =
                (humantime::format_duration(*interval), humantime::format_duration(*forget_after));
            line(
                "apis",
                &format_args!(
                    "the listening sockets, at most {limit}, every {interval}, forgotten after {forget_after}"
                ),
            )?;
        }
        ApiSource::Configured(apis) => {
            for api in apis {
                let Api { name, role, transports: _, ports: _, addresses, expect } = api;
                let (role, transports, ports) = (role.as_str(), api.transports_label(), api.ports_label());
                let at = if addresses.is_empty() { "any address".to_owned() } else { join(addresses) };
                let expects =
                    if expect.is_empty() { String::new() } else { format!(", expects {}", api.expect_label()) };
                line("api", &format_args!("{name}: {role}, {transports} {ports} at {at}{expects}"))?;
            }
        }
    }
    line("hash", &fingerprint.hash())?;
    Ok(text)
}

/// How the audit log is written.
fn audited(audit: Option<&Audit>) -> String {
    let Some(Audit { file, max_size, keep, sync, flows }) = audit else {
        return "no audit log: no audit.file".to_owned();
    };
    let sync = match sync {
        AuditSync::Interval => "kept on the disk each second",
        AuditSync::Never => "kept on the disk when the kernel likes",
    };
    let flows = if *flows { ", with each finished flow" } else { "" };
    format!("{}, {keep} files more of at most {} each, {sync}{flows}", file.display(), shown(*max_size))
}

/// What is sent to OpenTelemetry collectors: of each signal where to, and how.
fn sent(otlp: &Otlp) -> Vec<(&'static str, String)> {
    let Otlp { metrics, traces, logs, resource, queue_bytes, flush_timeout } = otlp;
    if !otlp.is_on() {
        return vec![("otlp", "nothing is sent: no endpoint for a signal that is enabled".to_owned())];
    }
    let metrics = metrics.as_ref().map(|OtlpMetrics { target, interval, histograms }| {
        let histograms = match histograms {
            OtlpHistograms::Exponential => "exponential",
            OtlpHistograms::Explicit => "explicit",
        };
        format!("{}: every {}, {histograms} histograms", route(target), humantime::format_duration(*interval))
    });
    let traces = traces.as_ref().map(|OtlpTraces { target, sample_ratio, batch }| {
        format!("{}: {sample_ratio} of flows, {}", route(target), gathered(batch))
    });
    let logs = logs.as_ref().map(|OtlpLogs { target, batch }| format!("{}: {}", route(target), gathered(batch)));

    let mut lines: Vec<_> = [("metrics", metrics), ("traces", traces), ("logs", logs)]
        .map(|(signal, how)| (signal, how.unwrap_or_else(|| "not sent by OTLP".to_owned())))
        .into();
    if !resource.is_empty() {
        let attributes: Vec<_> = resource.iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.push(("resource", attributes.join(", ")));
    }
    let flush_timeout = humantime::format_duration(*flush_timeout);
    lines.push((
        "otlp",
        format!("at most {queue_bytes} bytes of each signal wait; at the end, for {flush_timeout} more"),
    ));
    lines
}

/// Where a signal is sent. Of what may be a secret, only that it is there: values of headers, the query of a URL.
fn route(target: &OtlpTarget) -> String {
    let OtlpTarget { endpoint: _, protocol, headers, compression, timeout, certificate, client } = target;
    let protocol = match protocol {
        OtlpProtocol::Http => "http/protobuf",
        OtlpProtocol::Grpc => "grpc",
    };
    let compression = match compression {
        OtlpCompression::Gzip => "gzip",
        OtlpCompression::None => "not compressed",
    };
    let timeout = humantime::format_duration(*timeout);
    let mut parts =
        vec![format!("{} by {protocol}", target.shown()), compression.to_owned(), format!("timeout {timeout}")];
    if !headers.is_empty() {
        parts.push(format!("headers {}", join(headers.iter().map(|(name, _)| name))));
    }
    parts.extend(certificate.as_ref().map(|path| format!("certificate {}", path.display())));
    parts.extend(client.as_ref().map(|client| format!("client certificate {}", client.certificate.display())));
    parts.join(", ")
}

fn gathered(batch: &OtlpBatch) -> String {
    let OtlpBatch { delay, size, queue } = batch;
    format!("at most {size} in a request, {queue} waiting, every {}", humantime::format_duration(*delay))
}
