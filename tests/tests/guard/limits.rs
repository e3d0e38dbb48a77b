//! Limits: what is accepted of what is offered, against what the definition allows of just that.
//!
//! Who sends notes when: the time before and the time after each call that sends, between which the other end judges the frame. A
//! plain token bucket is run over those times, however evenly or not a busy machine has let them be sent: once over the times
//! before, once over those after. What is accepted must be within 1 % of both.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use tidewaiter_common::{packet::tcp_flag, transport::Transport};
use tidewaiter_tests::{
    frames::{Kind, Segment, frame, segment},
    guarded::{Guarded, PLACES},
    measure::stay_on,
    network::{FrameSocket, INTERFACE, Network},
    wait::wait_until,
};

use crate::requests::{Asking, answer_all};

/// Who has a limit of his own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Api,
    Client,
    /// Each network of 256 addresses.
    Prefix,
}

/// What is limited, and how.
#[derive(Clone, Copy, Debug)]
struct Unit {
    name: &'static str,
    /// Units in a second and at once, of whoever has a limit of his own.
    rate: f64,
    burst: f64,
    /// Units that one frame is.
    cost: f64,
    /// Requests are marked: what is rejected would end its connection.
    action: &'static str,
}

const UNITS: [Unit; 4] = [
    Unit { name: "packets", rate: 200.0, burst: 70.0, cost: 1.0, action: "drop" },
    Unit { name: "bytes", rate: 200_000.0, burst: 140_000.0, cost: 1000.0, action: "drop" },
    Unit { name: "connections", rate: 200.0, burst: 50.0, cost: 1.0, action: "drop" },
    Unit { name: "requests", rate: 50.0, burst: 20.0, cost: 1.0, action: "mark" },
];

/// The limits under test: each has an API of its own, and they are tested side by side.
const LIMITS: usize = UNITS.len() * 3;

/// Who sends: two threads, each from a CPU of its own, have two addresses each, which are of two networks. So clients send from one
/// CPU, and each network, and the API, from both at once.
const SENDERS: [[Ipv4Addr; 2]; 2] =
    [[Network::CLIENT4, Ipv4Addr::new(10, 77, 1, 2)], [Ipv4Addr::new(10, 77, 0, 3), Ipv4Addr::new(10, 77, 1, 3)]];

/// The loads, in tenths of the limit.
const LOADS: [u32; 4] = [5, 10, 20, 100];

/// How long each load goes on: where packets are judged by XDP, and by TC, of which it is known by then that it counts the same.
const LONG: [Duration; PLACES.len()] = [Duration::from_secs(10), Duration::from_secs(4)];

/// How far what is accepted may be from what is allowed.
const TOLERANCE: f64 = 0.01;

/// How many frames of a limit are sent at once, at most, by who has fallen behind: more would find no room in the device.
const AT_ONCE: u64 = 8;

#[derive(Clone, Copy, Debug)]
struct Limited {
    unit: Unit,
    per: Per,
    port: u16,
}

/// When something was sent: some time between these two.
#[derive(Clone, Copy, Debug)]
struct Sent {
    at: [Instant; 2],
    from: Ipv4Addr,
}

fn limits() -> [Limited; LIMITS] {
    let pers = [Per::Api, Per::Client, Per::Prefix];
    std::array::from_fn(|at| Limited { unit: UNITS[at / 3], per: pers[at % 3], port: 1001 + at as u16 })
}

impl Limited {
    fn name(&self) -> String {
        format!("{}-per-{:?}", self.unit.name, self.per).to_lowercase()
    }

    /// The API, and the rule: another name of that is another bucket.
    fn configuration(&self, load: u32) -> String {
        let Unit { name: unit, rate, burst, action, .. } = self.unit;
        let (name, port) = (self.name(), self.port);
        let per = match self.per {
            Per::Api => "per = \"api\"",
            Per::Client => "per = \"client\"",
            Per::Prefix => "per = \"client\", ipv4_prefix = 24",
        };
        let mark = if action == "mark" { "mark = 7\n" } else { "" };
        format!(
            "[[api]]\nname = \"{name}\"\nports = [{port}]\ntransport = [\"tcp\", \"udp\"]\n\
             [[rule]]\nname = \"{load}-{name}\"\napi = \"{name}\"\naction = \"{action}\"\n{mark}mode = \"enforce\"\n\
             limit = {{ {unit}_per_second = {rate:.1}, burst = {burst:.0}, {per} }}\n"
        )
    }

    fn is_of_requests(&self) -> bool {
        self.unit.name == "requests"
    }

    fn frame(&self, sender: Ipv4Addr) -> Vec<u8> {
        let (client, server) = ((IpAddr::V4(sender), 40_000), (IpAddr::V4(Network::SERVER4), self.port));
        if self.unit.name == "connections" {
            let opening = Segment { sequence: 1, acknowledgement: 0, flags: tcp_flag::SYN, payload: b"" };
            return segment(opening, client, server);
        }
        let payload = if self.unit.name == "bytes" { self.unit.cost as usize - 42 } else { 20 };
        frame(Kind { transport: Transport::Udp, options: false, payload }, client, server)
    }

    /// Whose bucket what `sender` sends is taken from.
    fn bucket(&self, sender: Ipv4Addr) -> u32 {
        match self.per {
            Per::Api => 0,
            Per::Client => sender.into(),
            Per::Prefix => u32::from(sender) >> 8,
        }
    }

    /// Frames that each address offers in a second at `load`, so that each bucket is offered that.
    fn offered(&self, load: u32) -> f64 {
        let senders = SENDERS.as_flattened();
        let sharing = senders.iter().filter(|other| self.bucket(**other) == self.bucket(senders[0])).count();
        self.unit.rate / self.unit.cost * f64::from(load) / 10.0 / sharing as f64
    }

    /// How many of `sent` the definition lets pass if they were sent at the times before (0) or after (1).
    fn allowed(&self, sent: &[Sent], which: usize) -> u64 {
        let mut times: Vec<_> = sent.iter().map(|sent| (sent.at[which], self.bucket(sent.from))).collect();
        times.sort_unstable();
        let mut buckets = std::collections::HashMap::new();
        let mut passed = 0;
        for (time, bucket) in times {
            let (left, last) = buckets.entry(bucket).or_insert((self.unit.burst, time));
            *left = (*left + self.unit.rate * (time - *last).as_secs_f64()).min(self.unit.burst);
            *last = time;
            if *left >= self.unit.cost {
                *left -= self.unit.cost;
                passed += 1;
            }
        }
        passed
    }
}

/// Sends what is due, evenly, of each of `sources` for so long; `send` does so for the one at a place. Answers with the times, by
/// limit.
fn evenly(load: u32, long: Duration, sources: &[(usize, Ipv4Addr)], mut send: impl FnMut(usize)) -> Vec<(usize, Sent)> {
    let limits = limits();
    let mut counts = vec![0; sources.len()];
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < long {
        for (at, (limit, from)) in sources.iter().enumerate() {
            let due = (limits[*limit].offered(load) * start.elapsed().as_secs_f64()) as u64;
            for _ in counts[at]..due.min(counts[at] + AT_ONCE) {
                counts[at] += 1;
                let before = Instant::now();
                send(at);
                times.push((*limit, Sent { at: [before, Instant::now()], from: *from }));
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    times
}

/// Where there is something to be sent: which limit is offered it, and by which address.
fn sources(addresses: [Ipv4Addr; 2], are_requests: bool) -> Vec<(usize, Ipv4Addr)> {
    let limits = limits().into_iter().enumerate().filter(|(_, limited)| limited.is_of_requests() == are_requests);
    limits.flat_map(|(at, _)| addresses.map(|address| (at, address))).collect()
}

fn send_all(addresses: [Ipv4Addr; 2], load: u32, long: Duration) -> Vec<(usize, Sent)> {
    let sources = sources(addresses, false);
    let frames: Vec<_> = sources.iter().map(|(limit, from)| limits()[*limit].frame(*from)).collect();
    let socket = FrameSocket::new(INTERFACE).expect("is permitted");
    evenly(load, long, &sources, |at| socket.send(&frames[at]).expect("is sent"))
}

fn ask_all(addresses: [Ipv4Addr; 2], load: u32, long: Duration) -> Vec<(usize, Sent)> {
    let sources = sources(addresses, true);
    let to = |limit: usize| SocketAddr::new(Network::SERVER4.into(), limits()[limit].port);
    let mut asking: Vec<_> = sources.iter().map(|(limit, from)| Asking::connect(*from, to(*limit))).collect();
    evenly(load, long, &sources, |at| asking[at].ask())
}

/// Offers all limits `load` for so long, from two CPUs at once. Answers with what was sent to each.
fn offer(guarded: &Guarded, load: u32, long: Duration) -> Vec<Vec<Sent>> {
    let client = &guarded.network.client;
    let mut sent = vec![Vec::new(); LIMITS];
    thread::scope(|scope| {
        let threads: Vec<_> = SENDERS
            .iter()
            .enumerate()
            .flat_map(|(cpu, &addresses)| [send_all, ask_all].map(|send| (cpu, send, addresses)))
            .map(|(cpu, send, addresses)| {
                scope.spawn(move || {
                    client.run(|| {
                        stay_on(cpu);
                        send(addresses, load, long)
                    })
                })
            })
            .collect();
        for (limit, one) in threads.into_iter().flat_map(|thread| thread.join().expect("sends")) {
            sent[limit].push(one);
        }
    });
    sent
}

#[test]
fn as_much_is_accepted_as_the_definition_allows() {
    for (place, long) in PLACES.into_iter().zip(LONG) {
        let mut guarded = Guarded::new(place);
        let network = &guarded.network;
        for [address, other] in SENDERS {
            // The first one it has already.
            let known = if address == Network::CLIENT4 { None } else { Some(address) };
            for address in known.into_iter().chain([other]) {
                network.client.ip(&format!("address add {address}/24 dev {INTERFACE}"));
            }
        }
        network.server.ip(&format!("route add 10.77.1.0/24 dev {INTERFACE}"));
        let limits = limits();
        let listening = limits.iter().filter(|limited| limited.is_of_requests());
        listening.for_each(|limited| answer_all(&network.server, limited.port));
        for load in LOADS {
            guarded.apply("", &limits.iter().map(|limited| limited.configuration(load)).collect::<String>());
            let before = guarded.interface();
            let sent = offer(&guarded, load, long);
            let mut last = guarded.interface();
            wait_until("all to be judged", || std::mem::replace(&mut last, guarded.interface()) == last);
            let mut dropped = 0;
            for (limited, sent) in limits.iter().zip(&sent) {
                dropped += assert_as_allowed(&mut guarded, limited, load, sent);
            }
            assert_eq!((guarded.interface() - before).dropped, dropped, "the interface's count and that of the rules");
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

/// Sees that as much of `sent` was accepted as is allowed; answers with how many were dropped.
fn assert_as_allowed(guarded: &mut Guarded, limited: &Limited, load: u32, sent: &[Sent]) -> u64 {
    let name = limited.name();
    let decided = guarded.decided(&format!("{load}-{name}"), &name);
    let count = |verdict: &str| decided.get(verdict).copied().unwrap_or_default();
    let (passed, above) = (count("pass"), count(limited.unit.action));
    // What the device had no room for was sent, but nobody could judge it. Had it come, no fewer would have passed, and more only
    // by as many: so this is within what is asserted as long as it is nothing beside that.
    let lost = (sent.len() as u64).checked_sub(passed + above).expect("nothing is judged that was not sent");
    let bounds = [0, 1].map(|which| limited.allowed(sent, which));
    let (least, most) = (bounds[0].min(bounds[1]).saturating_sub(lost), bounds[0].max(bounds[1]));
    let text =
        format!("{name} at {load}/10: {} sent, {passed} passed, {least} to {most} allowed, {lost} lost", sent.len());
    println!("{}, {text}", guarded.place());
    assert!(passed as f64 >= least as f64 * (1.0 - TOLERANCE), "too few: {text}");
    assert!(passed as f64 <= most as f64 * (1.0 + TOLERANCE), "too many: {text}");
    assert!(lost as f64 <= passed as f64 * TOLERANCE, "too many were lost by the device: {text}");
    // However slow the machine is, ten times the limit is more than that.
    assert!(load < 100 || above > 0, "{text}");
    if limited.unit.action == "drop" { above } else { 0 }
}
