//! Limits: what is accepted of what is offered, against what GCRA allows.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use tidewaiter_common::{packet::tcp_flag, transport::Transport};
use tidewaiter_tests::{
    frames::{Kind, Segment, frame, segment},
    guarded::{Guarded, PLACES},
    network::{INTERFACE, Network, send_frames},
    wait::wait_until,
};

/// A limit under test: the port of an API of its own.
struct Limited {
    name: &'static str,
    port: u16,
    unit: &'static str,
    /// Units in a second, and at once.
    rate: u64,
    burst: u64,
    /// Units of a frame.
    cost: u64,
    is_per_client: bool,
}

const LIMITS: [Limited; 4] = [
    Limited {
        name: "packets",
        port: 1001,
        unit: "packets_per_second",
        rate: 800,
        burst: 200,
        cost: 1,
        is_per_client: false,
    },
    Limited {
        name: "bytes",
        port: 1002,
        unit: "bytes_per_second",
        rate: 600_000,
        burst: 150_000,
        cost: 1000,
        is_per_client: false,
    },
    Limited {
        name: "connections",
        port: 1003,
        unit: "connections_per_second",
        rate: 400,
        burst: 100,
        cost: 1,
        is_per_client: false,
    },
    Limited {
        name: "clients",
        port: 1004,
        unit: "packets_per_second",
        rate: 400,
        burst: 100,
        cost: 1,
        is_per_client: true,
    },
];

/// How long each load goes on.
const LONG: Duration = Duration::from_secs(3);
/// Who sends; each from a CPU of its own, as far as there are some.
const SENDERS: [Ipv4Addr; 2] = [Network::CLIENT4, Ipv4Addr::new(10, 77, 0, 3)];

impl Limited {
    fn configuration(&self) -> String {
        let Self { name, port, unit, rate, burst, is_per_client, .. } = self;
        let per = if *is_per_client { "client" } else { "api" };
        format!(
            "[[api]]\nname = \"{name}\"\nports = [{port}]\ntransport = [\"tcp\", \"udp\"]\n\
             [[rule]]\nname = \"{name}\"\napi = \"{name}\"\naction = \"drop\"\nmode = \"enforce\"\n\
             limit = {{ {unit} = {rate}, burst = {burst}, per = \"{per}\" }}\n"
        )
    }

    fn frame(&self, sender: Ipv4Addr) -> Vec<u8> {
        let (client, server) = ((IpAddr::V4(sender), 40_000), (IpAddr::V4(Network::SERVER4), self.port));
        if self.name == "connections" {
            let opening = Segment { sequence: 1, acknowledgement: 0, flags: tcp_flag::SYN, payload: b"" };
            return segment(opening, client, server);
        }
        let payload = if self.name == "bytes" { 1000 - 42 } else { 20 };
        frame(Kind { transport: Transport::Udp, options: false, payload }, client, server)
    }

    /// Frames that one sender offers in a second at `tenths` of the limit: the limit of an API is shared.
    fn offered(&self, tenths: u64) -> u64 {
        let share = if self.is_per_client { 1 } else { SENDERS.len() as u64 };
        self.rate * tenths / 10 / self.cost / share
    }

    /// Frames that may pass in `time` of `offered`.
    fn allowed(&self, time: Duration, offered: u64) -> f64 {
        let buckets = if self.is_per_client { SENDERS.len() } else { 1 } as f64;
        let most = (self.burst as f64 + self.rate as f64 * time.as_secs_f64()) / self.cost as f64 * buckets;
        most.min(offered as f64)
    }
}

/// Sends frames of each limit, evenly, for [`LONG`]; answers with when it began and ended.
fn offer(sender: Ipv4Addr, tenths: u64) -> (Instant, Instant) {
    let frames = LIMITS.each_ref().map(|limited| [limited.frame(sender)]);
    let mut sent = [0; LIMITS.len()];
    let start = Instant::now();
    let mut last = start;
    loop {
        let now = start.elapsed();
        if now > LONG {
            return (start, last);
        }
        for ((limited, frame), sent) in LIMITS.iter().zip(&frames).zip(&mut sent) {
            let due = (limited.offered(tenths) as f64 * now.as_secs_f64()) as u64;
            // What comes all at once would find no room in the device.
            let some = due.saturating_sub(*sent).min(20);
            send_frames(INTERFACE, frame, some as usize).unwrap();
            *sent += some;
        }
        last = Instant::now();
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn as_much_is_accepted_as_the_definition_allows() {
    for place in PLACES {
        let mut guarded = Guarded::new(place);
        let none: String = LIMITS.iter().map(Limited::configuration).collect();
        for tenths in [5, 10, 20, 100] {
            // Another name is another bucket.
            let named = none.replace("[[rule]]\nname = \"", &format!("[[rule]]\nname = \"{tenths}-"));
            guarded.apply("", &named);
            let before = guarded.interface();
            let client = &guarded.network.client;
            let took = thread::scope(|scope| {
                let senders = SENDERS.map(|sender| scope.spawn(move || client.run(|| offer(sender, tenths))));
                senders.map(|sender| sender.join().unwrap())
            });
            let [first, last] = [took.iter().map(|(start, _)| *start).min(), took.iter().map(|(_, end)| *end).max()];
            let time = last.unwrap() - first.unwrap();
            let mut last = guarded.interface();
            wait_until("all to be judged", || std::mem::replace(&mut last, guarded.interface()) == last);
            for limited in &LIMITS {
                let decided = guarded.decided(&format!("{tenths}-{}", limited.name), limited.name);
                let count = |verdict: &str| decided.get(verdict).copied().unwrap_or_default();
                let (passed, dropped) = (count("pass"), count("drop"));
                let allowed = limited.allowed(time, passed + dropped);
                println!(
                    "{place}, {} at {tenths}/10: {passed} passed, {dropped} dropped, {allowed:.0} allowed",
                    limited.name
                );
                assert!(passed + dropped > 0);
                let error = (passed as f64 - allowed).abs() / allowed;
                assert!(error < 0.01, "{} at {tenths}/10: {passed} passed, {allowed} were allowed", limited.name);
            }
            let done = guarded.interface() - before;
            let dropped: u64 = LIMITS
                .iter()
                .map(|limited| {
                    guarded
                        .decided(&format!("{tenths}-{}", limited.name), limited.name)
                        .get("drop")
                        .copied()
                        .unwrap_or(0)
                })
                .sum();
            assert_eq!(done.dropped, dropped, "the interface's count and that of the rules");
        }
    }
}

#[test]
fn what_clients_have_left_can_be_forgotten() {
    let mut guarded = Guarded::new("tc");
    let api = |name: &str, port: u16| {
        format!(
            "[[api]]\nname = \"{name}\"\nports = [{port}]\ntransport = \"udp\"\n\
             [[rule]]\nname = \"{name}\"\napi = \"{name}\"\naction = \"drop\"\nmode = \"enforce\"\n\
             limit = {{ packets_per_second = 0.01, burst = 64, per = \"client\" }}\n"
        )
    };
    guarded.apply("", &(api("one", 1001) + &api("two", 1002)));
    let client = Network::CLIENT4.to_string();
    // As many as a limit lets through at once, and one more.
    let sent: Vec<_> = [1001, 1002].into_iter().flat_map(|port| vec![(client.as_str(), port); 65]).collect();
    let come = |guarded: &mut Guarded| {
        let arrived = guarded.arrive(&sent);
        [&arrived[..65], &arrived[65..]].map(|port| port.iter().filter(|has_arrived| **has_arrived).count())
    };
    assert_eq!(come(&mut guarded), [64, 64]);
    let clients = |guarded: &mut Guarded| guarded.accounting.snapshot().guard.expect("there are rules").clients;
    assert_eq!(clients(&mut guarded), 2);

    let kernel = guarded.accounting.kernel();
    let is_of_one = |place: &u16| {
        let record = kernel.pair_record(*place).expect("can be read");
        record.rule_length == 3 && record.names.starts_with(b"one")
    };
    let places: HashSet<_> = (1..100).filter(is_of_one).collect();
    assert_eq!(places.len(), 1);
    kernel.client_limits().expect("can be had").forget(&places).expect("can be removed");
    assert_eq!(clients(&mut guarded), 1);
    assert_eq!(come(&mut guarded), [64, 0]);
}
