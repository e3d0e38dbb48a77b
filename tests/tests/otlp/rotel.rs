//! All three signals to rotel, a collector that has nothing to do with us.

use std::{
    net::{SocketAddr, UdpSocket},
    thread::sleep,
    time::{Duration, SystemTime},
};

use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    exporter::Exporter,
    network::{Network, Offload},
    otlp::printed_as_prometheus,
    rotel::{Contents, LogEntry, Point, Rotel, SpanRecord},
    servers::{Nginx, are_installed},
    traffic::exchange,
    wait::wait_for,
};

use super::{PROTOCOLS, TICK, assert_same, configuration, make_traffic, nanoseconds, without_itself};

/// Connections that the test makes beside others, and what is said on each.
const SIZES: [usize; 5] = [1, 20, 300, 4_000, 50_000];

/// Points that were exported at one moment after `since`, as far as they were printed.
fn export_after(received: &Contents, since: SystemTime) -> Option<Vec<Point>> {
    let mut times: Vec<_> = received.points.iter().map(|point| point.time).collect();
    times.sort_unstable();
    times.dedup();
    // There may be more of the last one to come.
    let complete = times.into_iter().rev().nth(1).filter(|time| *time > nanoseconds(since))?;
    Some(received.points.iter().filter(|point| point.time == complete).cloned().collect())
}

fn value(point: &str) -> u64 {
    let digits = point.strip_prefix("Int(").and_then(|value| value.strip_suffix(')'));
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no number: {point}"))
}

#[test]
fn a_collector_of_others_reads_what_was_sent() {
    if !are_installed(&["nginx"]) {
        return;
    }
    for protocol in PROTOCOLS {
        let network = Network::new(Offload::Off);
        let _nginx = Nginx::start(&network.server);
        let rotel = Rotel::start(&network.server);
        let exporter = Exporter::start(&network.server, &configuration(protocol, ""));
        make_traffic(&network);
        // Packets are timed in ticks: those of before must not seem to be of after, nor the other way round.
        sleep(Duration::from_millis(100));
        let before = SystemTime::now() - TICK;
        exchange(&network.server, &network.client, SocketAddr::new(Network::SERVERS[1], 8080), &SIZES);
        network.client.run(|| {
            let socket = UdpSocket::bind((Network::CLIENT4, 0)).unwrap();
            socket.send_to(b"SSH-2.0-nonsense", (Network::SERVER4, 53)).unwrap();
        });
        let (scraped, points) = wait_for("all flows to be over", || {
            let before = without_itself(exporter.metrics());
            let now = SystemTime::now();
            let points = wait_for("an export", || export_after(&rotel.received(), now));
            (without_itself(exporter.metrics()) == before).then_some((before, points))
        });
        assert_same(&scraped, &without_itself(printed_as_prometheus(&points)), protocol);

        let is_of_web = |span: &&SpanRecord| span.attributes["tidewaiter.api"] == "Str(web)";
        let is_ours = |span: &&SpanRecord| {
            let is_ipv6 = span.attributes["network.type"] == "Str(ipv6)";
            is_of_web(span) && is_ipv6 && span.start >= nanoseconds(before)
        };
        let is_nonsense = |log: &&LogEntry| {
            let bytes = log.attributes.get("tidewaiter.payload.first_bytes");
            bytes.is_some_and(|bytes| bytes == "Str(SSH-2.0-nonsense)")
        };
        // A flow is told a second or two after its end.
        let received = rotel.wait_for("all spans and the anomaly", |received| {
            received.spans.iter().filter(is_ours).count() >= SIZES.len()
                && received.logs.iter().any(|log| is_nonsense(&log))
        });
        let spans: Vec<_> = received.spans.iter().filter(is_ours).collect();
        assert_eq!(spans.len(), SIZES.len(), "by {protocol:?}");
        let mut received_bytes: Vec<_> =
            spans.iter().map(|span| value(&span.attributes["tidewaiter.flow.receive.bytes"])).collect();
        received_bytes.sort_unstable();
        for (bytes, said) in received_bytes.into_iter().zip(SIZES) {
            // What is said, and headers of no more than one packet for each kilobyte of it, and eight others.
            let said = said as u64;
            assert!((said..said + 100 * (said / 1000 + 8)).contains(&bytes), "{bytes} for {said}");
        }
        for direction in Direction::ALL {
            let key = format!("tidewaiter.flow.{}.bytes", direction.as_str());
            let of_web = received.spans.iter().filter(is_of_web);
            let sum: u64 = of_web.map(|span| value(&span.attributes[&key])).sum();
            let labels = [("api", "web"), ("role", "server"), ("direction", direction.as_str())];
            assert_eq!(Some(sum), scraped.get("tidewaiter_api_bytes_total", &labels), "by {protocol:?}");
        }
        let anomaly = received.logs.iter().find(is_nonsense);
        assert_eq!(anomaly.expect("is there").event, "tidewaiter.anomaly.unexpected_payload");
    }
}
