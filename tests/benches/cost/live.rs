//! The daemon, and traffic that it sees: frames made by the other end of a wire, as fast as that can.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use tidewaiter_common::{packet::tcp_flag, transport::Transport};
use tidewaiter_tests::{
    bpf::generator::Generator,
    command::output,
    exporter::Exporter,
    frames::{Kind, Segment, frame, segment},
    measure::stay_on,
    namespace::Namespace,
    network::{INTERFACE, Network, Offload},
};

use crate::subject::PORT;

/// Time between two requests: so long that what the daemon does by itself falls into few of them.
pub(crate) const PAUSE: Duration = Duration::from_millis(30);
/// The first client, with which the next ones count up: of 11.0.0.0/8, in which nothing is.
const CLIENT: u32 = 0x0b00_0000;
/// Frames that are sent at once.
const CHUNK: u32 = 65_536;

/// A wire that takes frames made by XDP.
pub(crate) fn wire() -> Network {
    // A veth device takes them only if its peer merges, or has a program itself.
    let network = Network::new(Offload::Both);
    // What merges has a ring that can be full: only one CPU may fill it, which then empties it.
    output(network.client.command("ethtool").args(["-K", INTERFACE, "gro", "off"]));
    network
}

/// The index of the wire at `host`.
pub(crate) fn index(host: &Namespace) -> u32 {
    let link: serde_json::Value = serde_json::from_str(&host.ip(&format!("-j link show {INTERFACE}"))).unwrap();
    link[0]["ifindex"].as_u64().and_then(|index| u32::try_from(index).ok()).expect("an index")
}

/// A frame of UDP, 64 bytes long, for nobody: the stack looks at its Ethernet address and drops it, so that nothing but that is
/// measured beside what is.
pub(crate) fn datagram() -> Vec<u8> {
    let kind = Kind { transport: Transport::Udp, options: false, payload: 22 };
    for_nobody(frame(kind, (Network::CLIENTS[0], 40_000), (Network::SERVERS[0], PORT)))
}

fn for_nobody(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x99]);
    frame
}

/// Configuration of a daemon on the wire with so many APIs, and `flows` in `[flows]`.
pub(crate) fn configuration(apis: u16, flows: &str) -> String {
    let apis = (0..apis)
        .map(|at| format!("[[api]]\nname = \"api-{at}\"\nports = [{}]\ntransport = [\"tcp\", \"udp\"]\n", PORT + at));
    format!("interfaces = [\"{INTERFACE}\"]\n[flows]\n{flows}\n{}", apis.collect::<String>())
}

/// Starts the daemon at the server's end.
pub(crate) fn start<'a>(network: &'a Network, configuration: &str) -> Exporter<'a> {
    Exporter::start(&network.server, configuration)
}

/// Sends the packets of so many flows to the server's end, `each` of each, and `pause`s after some.
pub(crate) fn send(network: &Network, is_tcp: bool, flows: u32, each: u32, pause: Duration) {
    let frame = if is_tcp {
        let said = Segment { sequence: 1, acknowledgement: 1, flags: tcp_flag::ACK, payload: &[b'x'; 100] };
        for_nobody(segment(said, (Network::CLIENTS[0], 40_000), (Network::SERVERS[0], PORT)))
    } else {
        datagram()
    };
    let index = index(&network.client);
    network.client.run(|| {
        stay_on(1);
        let generator = Generator::flows(index, is_tcp, CLIENT, each.try_into().expect("a few"));
        let mut left = flows * each;
        while left > 0 {
            let some = CHUNK.min(left);
            generator.program.run_live(&frame, some).expect("is run");
            left -= some;
            sleep(pause);
        }
    });
}

/// How many times a second more connections come.
const BEATS: u32 = 20;

/// Makes `rate` connections a second for so long, with `each` packets each.
pub(crate) fn send_at(network: &Network, rate: u32, each: u32, long: Duration) {
    let said = Segment { sequence: 1, acknowledgement: 1, flags: tcp_flag::ACK, payload: &[b'x'; 100] };
    let frame = for_nobody(segment(said, (Network::CLIENTS[0], 40_000), (Network::SERVERS[0], PORT)));
    let index = index(&network.client);
    network.client.run(|| {
        stay_on(1);
        let first = CLIENT + FLOWS_MADE.fetch_add(rate * long.as_secs() as u32, Ordering::Relaxed);
        let generator = Generator::flows(index, true, first, each.try_into().expect("a few"));
        let start = Instant::now();
        let beat = Duration::from_secs(1) / BEATS;
        for number in 1..=BEATS * long.as_secs() as u32 {
            generator.program.run_live(&frame, rate * each / BEATS).expect("is run");
            sleep((start + beat * number).saturating_duration_since(Instant::now()));
        }
    });
}

/// So that no two connections have the same ends.
static FLOWS_MADE: AtomicU32 = AtomicU32::new(0);
