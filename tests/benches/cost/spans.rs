//! Spans of finished flows: what the daemon takes of a CPU while it sends ten thousand a second, over either protocol; and while
//! the collector is away, and when it is back.
//!
//! Connections come at that pace, of as many clients, ten packets each: a SYN, payload, and a reset. They are one-sided: nobody
//! answers, so there is neither a handshake nor an answer in them, and their spans say less than those of a real server's
//! connections. The receiver decodes and counts them, in this process.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tidewaiter_tests::{
    collector::{Collector, Protocol},
    exporter::Exporter,
    measure::{PROFILE, goal, memory, process_cpu_time},
};

use crate::live;

/// Connections that end in a second.
const RATE: u32 = 10_000;
/// Packets of each.
const EACH: u32 = 10;
/// For how long they are measured.
const SECONDS: u32 = 20;
/// For how long the collector is away.
const AWAY: Duration = Duration::from_mins(2);
/// How many MiB may wait for it then: too little for all.
const ROOM_MIB: u32 = 32;
/// The same in bytes.
const ROOM: u32 = ROOM_MIB << 20;
/// The share of a CPU that it may take.
const GOAL: f64 = 50.0;
/// How much of memory more than at the start: what may wait, as much again for what is being made and sent, and what the
/// allocator holds back.
const MEMORY_GOAL: f64 = 3.0 * ROOM_MIB as f64;

fn configuration(protocol: Option<Protocol>) -> String {
    let otlp = protocol.map_or_else(String::new, |protocol| {
        let (name, port) = (protocol.name(), protocol.port());
        format!(
            "[otlp]\nendpoint = \"http://127.0.0.1:{port}\"\nprotocol = \"{name}\"\nqueue_bytes = {ROOM}\n\
             [otlp.metrics]\ninterval = \"10s\"\n"
        )
    });
    live::configuration(10, "") + &otlp
}

/// What the daemon counts of its spans.
#[derive(Clone, Copy)]
struct Counts {
    records: u64,
    exported: u64,
    /// For want of room in the queue, because too many waited to be put into it, and because the collector would not have them.
    dropped: [u64; 3],
    queued: u64,
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, exported, dropped: [no_room, backlog, rejected], queued } = self;
        let dropped = no_room + backlog + rejected;
        #[expect(clippy::cast_precision_loss, reason = "to be shown")]
        let queued = *queued as f64 / f64::from(1 << 20);
        write!(
            formatter,
            "{records} flows told, {exported} spans accepted, {dropped} dropped ({no_room} for want of room in the queue, \
             {backlog} before it), {queued:.1} MiB waiting"
        )
    }
}

impl Counts {
    fn of(exporter: &Exporter<'_>) -> Self {
        let metrics = exporter.metrics();
        let get = |name: &str, labels: &[(&str, &str)]| metrics.get(name, labels).unwrap_or_default();
        let traces = ("signal", "traces");
        let dropped = |reason| get("tidewaiter_otlp_dropped_total", &[traces, ("reason", reason)]);
        Self {
            records: get("tidewaiter_flow_records_total", &[("sink", "otlp")]),
            exported: get("tidewaiter_otlp_exported_total", &[traces]),
            dropped: ["queue_full", "backlog", "rejected"].map(dropped),
            queued: get("tidewaiter_otlp_queue_bytes", &[traces]),
        }
    }
}

/// Waits until nothing more comes.
fn settle(exporter: &Exporter<'_>) -> Counts {
    let mut before = Counts::of(exporter);
    loop {
        thread::sleep(Duration::from_secs(7));
        let now = Counts::of(exporter);
        if now.records == before.records && now.exported == before.exported {
            return now;
        }
        before = now;
    }
}

pub(crate) fn print() {
    println!("{RATE} connections a second, of {EACH} packets each, for {SECONDS} s ({PROFILE} build)");
    let mut without = 0.0;
    for protocol in [None, Some(Protocol::Http), Some(Protocol::Grpc)] {
        let network = live::wire();
        let collector = Collector::new(&network.server);
        let (spans, bytes) = count(&collector);
        let exporter = live::start(&network, &configuration(protocol));
        let before = process_cpu_time(exporter.pid());
        live::send_at(&network, RATE, EACH, Duration::from_secs(SECONDS.into()));
        let counts = settle(&exporter);
        // All that it took, also after the last connection, is held against the time in which they came.
        let used = process_cpu_time(exporter.pid()).saturating_sub(before);
        let share = 100.0 * used.as_secs_f64() / f64::from(SECONDS);
        let Some(protocol) = protocol else {
            without = share;
            println!("without OTLP: {share:.1} % of a CPU, for all that the daemon does");
            continue;
        };
        let received = spans.load(Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "to be shown")]
        let each = bytes.load(Relaxed) as f64 / received.max(1) as f64;
        println!(
            "{protocol:?}: {share:.1} % of a CPU, {:.1} more; {counts}; {received} received, {each:.0} bytes each on the wire; \
             at most {:.1} MiB of memory",
            share - without,
            memory(exporter.pid(), "VmHWM"),
        );
        goal(format!("{protocol:?}, all that the daemon does"), share, GOAL, "% of a CPU");
        let made = u64::from(RATE) * u64::from(SECONDS);
        let is_all = counts.records == made && counts.exported == counts.records;
        let verdict = if is_all { "all" } else { "NOT ALL" };
        println!("{protocol:?}, {made} connections: {verdict} of them were told and accepted");
    }
}

/// Has the collector keep nothing, but count spans and bytes.
fn count(collector: &Collector<'_>) -> (Arc<AtomicU64>, Arc<AtomicU64>) {
    let [spans, bytes] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let (count, size) = (Arc::clone(&spans), Arc::clone(&bytes));
    collector.only_look(move |request| {
        let spans = request.export.spans().count() as u64;
        if spans > 0 {
            count.fetch_add(spans, Relaxed);
            size.fetch_add(request.wire_size as u64, Relaxed);
        }
    });
    (spans, bytes)
}

/// The collector is stopped under the same load, and comes back.
pub(crate) fn print_outage() {
    println!(
        "{RATE} connections a second, and the collector is away for {} s of it; {} MiB of requests may wait",
        AWAY.as_secs(),
        ROOM_MIB
    );
    let network = live::wire();
    let mut collector = Collector::new(&network.server);
    let (spans, _) = count(&collector);
    let exporter = live::start(&network, &configuration(Some(Protocol::Grpc)));
    let at_start = memory(exporter.pid(), "VmRSS");
    let calm = Duration::from_secs(10);
    live::send_at(&network, RATE, EACH, calm);
    println!("before: {}, {:.1} MiB of memory", Counts::of(&exporter), memory(exporter.pid(), "VmRSS"));
    collector.stop();
    live::send_at(&network, RATE, EACH, AWAY);
    println!("away:   {}, {:.1} MiB of memory", Counts::of(&exporter), memory(exporter.pid(), "VmRSS"));
    collector.start();
    live::send_at(&network, RATE, EACH, calm);
    let counts = settle(&exporter);
    println!("back:   {counts}, {:.1} MiB of memory", memory(exporter.pid(), "VmRSS"));
    let connections = u64::from(RATE) * (2 * calm + AWAY).as_secs();
    let opened =
        exporter.metrics().get("tidewaiter_api_connections_opened_total", &[("api", "api-0"), ("role", "server")]);
    let Counts { records, exported, dropped, .. } = counts;
    println!(
        "{connections} connections made, {} counted as opened, {records} flows told; {exported} spans accepted ({} received) and \
         {} dropped: {}",
        opened.unwrap_or_default(),
        spans.load(Relaxed),
        dropped.iter().sum::<u64>(),
        if exported + dropped.iter().sum::<u64>() == records { "that is all" } else { "THAT IS NOT ALL" },
    );
    goal("memory above that at the start, at most", memory(exporter.pid(), "VmHWM") - at_start, MEMORY_GOAL, "MiB");
}
