//! What is judged while no exporter is there, and when the next one comes.

use std::{
    net::{Ipv4Addr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    bpf_file_system::BpfFileSystem,
    exporter::Exporter,
    guarded::PLACES,
    network::{INTERFACE, Network, Offload},
    wait::{wait_for, wait_until, while_others},
};

/// Who may not, who may.
const BAD: &str = "10.77.0.9";
const GOOD: &str = "10.77.0.2";
const PORT: u16 = 8080;

pub(crate) fn configuration(place: &str, hold: &str) -> String {
    format!(
        "interfaces = [\"{INTERFACE}\"]\n\
         [guard]\nattach = \"{place}\"\nhold = \"{hold}\"\n\
         [[api]]\nname = \"orders\"\nports = [{PORT}]\ntransport = [\"tcp\", \"udp\"]\n\
         [[rule]]\nname = \"bad\"\nfrom = \"{BAD}\"\naction = \"drop\"\nmode = \"enforce\"\n"
    )
}

/// Datagrams from both senders, all the time; how many were sent and how many have come, of those who may not and who may.
#[derive(Default)]
pub(crate) struct Stream {
    is_over: AtomicBool,
    sent: [AtomicU64; 2],
    come: [AtomicU64; 2],
}

impl Stream {
    pub(crate) fn come(&self) -> [u64; 2] {
        self.come.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    pub(crate) fn sent(&self) -> [u64; 2] {
        self.sent.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    fn send(&self) {
        let sockets = [BAD, GOOD].map(|sender| {
            let socket = UdpSocket::bind((sender, 0)).unwrap();
            socket.connect((Network::SERVER4, PORT)).unwrap();
            socket
        });
        while !self.is_over.load(Ordering::Relaxed) {
            for (sender, socket) in (0..).zip(&sockets) {
                socket.send(&[sender]).unwrap();
                self.sent[usize::from(sender)].fetch_add(1, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn receive(&self, socket: &UdpSocket) {
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        while !self.is_over.load(Ordering::Relaxed) {
            let mut datagram = [0; 9];
            if socket.recv(&mut datagram).is_ok() {
                self.come[usize::from(datagram[0])].fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until so many more were sent by both.
    pub(crate) fn go_on(&self, count: u64) {
        let before = self.sent();
        wait_until("more to be sent", || self.sent().iter().zip(before).all(|(now, before)| now - before >= count));
    }

    /// While datagrams are sent and received, what `during` does.
    pub(crate) fn under<T>(&self, network: &Network, during: impl FnOnce() -> T) -> T {
        let socket = network.server.run(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
        thread::scope(|scope| {
            scope.spawn(|| network.client.run(|| self.send()));
            scope.spawn(|| self.receive(&socket));
            while_others(&self.is_over, during)
        })
    }
}

pub(crate) fn network() -> Network {
    let network = Network::new(Offload::Off);
    network.client.ip(&format!("address add {BAD}/24 dev {INTERFACE}"));
    network
}

#[test]
fn who_takes_over_leaves_no_gap() {
    for place in PLACES {
        let network = network();
        let bpf = Arc::new(BpfFileSystem::mount());
        let configuration = configuration(place, "60s");
        let start = || Exporter::start_after(&bpf, &network.server, &configuration, &[]);
        let mut exporter = start();
        let stream = Stream::default();
        stream.under(&network, || {
            stream.go_on(100);
            for _ in 0..2 {
                let before = exporter.metrics();
                exporter.end(Signal::KILL);
                stream.go_on(100);
                exporter = start();
                stream.go_on(100);
                let after = exporter.metrics();
                for (series, value) in before
                    .0
                    .iter()
                    .filter(|(series, _)| series.starts_with("tidewaiter_") && series.contains("_total{"))
                {
                    let now = after.0.get(series).unwrap_or_else(|| panic!("{series} is no more"));
                    assert!(now >= value, "{place}: {series} was {value} and is {now}");
                }
            }
        });
        let ([bad_sent, good_sent], [bad, good]) = (stream.sent(), stream.come());
        assert_eq!(bad, 0, "{place}: of {bad_sent}");
        // A datagram may be under way when all is over.
        assert!(good_sent - good < 10, "{place}: {good} of {good_sent}");
        exporter.metrics().assert_the_sums_prove_it();
        exporter.end(Signal::TERM);
    }
}

#[test]
fn without_an_exporter_all_passes_in_the_end() {
    for place in PLACES {
        let network = network();
        let bpf = Arc::new(BpfFileSystem::mount());
        let configuration = configuration(place, "5s");
        let start = || Exporter::start_after(&bpf, &network.server, &configuration, &[]);
        let mut exporter = start();
        let stream = Stream::default();
        stream.under(&network, || {
            stream.go_on(100);
            exporter.end(Signal::KILL);
            let killed = Instant::now();
            assert_eq!(stream.come()[0], 0, "{place}");
            let held = wait_for("all to pass", || (stream.come()[0] > 0).then(|| killed.elapsed()));
            // It was last heard of up to a second before, or two where CPUs are busy.
            assert!(held > Duration::from_secs(3), "{place}: {held:?}");
            exporter = start();
            // What is under way has come by then.
            stream.go_on(50);
            let already = stream.come()[0];
            stream.go_on(100);
            assert_eq!(stream.come()[0], already, "{place}: judged again");
        });
        // What was dropped is not part of what the interface has received.
        let metrics = exporter.metrics();
        metrics.assert_the_sums_prove_it();
        let received = metrics.interface(INTERFACE, Direction::Receive).packets;
        let [sent, come] = [stream.sent(), stream.come()].map(|counts| counts.iter().sum::<u64>());
        assert!(received >= come && received < sent, "{place}: {received} counted, {sent} sent, {come} come");
        exporter.end(Signal::TERM);
    }
}

#[test]
fn what_listens_is_known_before_anything_is_judged() {
    let network = network();
    let bpf = Arc::new(BpfFileSystem::mount());
    // No API is named, so those are the listening sockets: their traffic is not what the rule is about.
    let configuration = format!(
        "interfaces = [\"{INTERFACE}\"]\n\
         [guard]\nattach = \"xdp\"\nhold = \"60s\"\n\
         [[rule]]\nname = \"strangers\"\napi = \"unmapped\"\naction = \"drop\"\nmode = \"enforce\"\n"
    );
    let start = || Exporter::start_after(&bpf, &network.server, &configuration, &[]);
    let stream = Stream::default();
    stream.under(&network, || {
        stream.go_on(10);
        let mut exporter = start();
        for _ in 0..2 {
            stream.go_on(100);
            exporter.end(Signal::KILL);
            stream.go_on(100);
            exporter = start();
        }
        let stranger = network.client.run(|| UdpSocket::bind((GOOD, 0)).unwrap());
        let dropped = [("api", "unmapped"), ("rule", "strangers"), ("verdict", "drop")];
        wait_until("a stranger to be dropped", || {
            stranger.send_to(b"?", (Network::SERVER4, PORT + 1)).unwrap();
            exporter.metrics().get("tidewaiter_guard_packets_total", &dropped).is_some_and(|count| count > 0)
        });
        exporter.end(Signal::TERM);
    });
    let (sent, come) = (stream.sent().iter().sum::<u64>(), stream.come().iter().sum::<u64>());
    assert!(sent - come < 10, "{come} of {sent}");
}

#[test]
fn room_for_more_prefixes_drops_nobody_who_may_come() {
    let network = network();
    let bpf = Arc::new(BpfFileSystem::mount());
    // Who may is let in by a rule of their own: everybody else is not. More prefixes than there was room for come with the restart.
    let configuration = |count: u32| {
        let more = (0..count).map(|number| format!(", \"{}/32\"", Ipv4Addr::from_bits(0x0b00_0000 + 2 * number)));
        format!(
            "interfaces = [\"{INTERFACE}\"]\n\
             [guard]\nattach = \"tc\"\nhold = \"60s\"\n\
             [[api]]\nname = \"orders\"\nports = [{PORT}]\ntransport = \"udp\"\n\
             [[rule]]\nname = \"known\"\nfrom = [\"{GOOD}\"{}]\naction = \"allow\"\n\
             [[rule]]\nname = \"others\"\naction = \"drop\"\nmode = \"enforce\"\n",
            more.collect::<String>()
        )
    };
    let start = |count| Exporter::start_after(&bpf, &network.server, &configuration(count), &[]);
    let mut exporter = start(0);
    let stream = Stream::default();
    stream.under(&network, || {
        stream.go_on(100);
        assert_eq!(stream.come()[0], 0, "who may not");
        for count in [5_000, 20_000] {
            exporter.end(Signal::KILL);
            stream.go_on(100);
            exporter = start(count);
            // What is under way has come by then.
            stream.go_on(50);
            let already = stream.come()[0];
            stream.go_on(100);
            assert_eq!(stream.come()[0], already, "judged again");
        }
    });
    let (sent, come) = (stream.sent()[1], stream.come()[1]);
    assert!(sent - come < 10, "{come} of {sent}");
    exporter.end(Signal::TERM);
}
