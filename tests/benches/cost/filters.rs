//! Other ways to count packets of one port, on the same traffic: a classic BPF filter on a packet socket, and a packet socket
//! whose reader filters. Frames are 64 bytes of UDP, of which all are to the port, or one in ten.
//!
//! Everything happens on one CPU and in one thread: frames are made by XDP and sent over a veth pair, received, and counted,
//! some thousands at a time; the next are sent when these are counted. So nothing is lost for want of a buffer, and what counts
//! is the CPU time of all of it: of the thread, in whose name the kernel receives the frames too, and of the kernel's own thread
//! for what it puts off. What the wire takes by itself, with nothing on it, is measured in the same rounds and taken off. It is
//! the best that a reader can hope for: it never wakes up for a few packets, nor is there another thread that competes for the
//! CPU.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use tidewaiter::{accounting::Accounting, snapshot::Direction};
use tidewaiter_tests::{
    accounting::{account, counted},
    bpf::generator::Generator,
    measure::{kernel_thread, process_cpu_time, quick, stay_on, thread_cpu_time},
    network::{INTERFACE, Network},
    packet_socket::{PacketRing, PacketSocket, port_filter},
};

use crate::{live, subject::PORT};

/// Turns that each way takes.
const ROUNDS: usize = 60;
/// Frames in each turn. All of them fit into a buffer.
const FRAMES: u32 = 16_384;
/// Room for flows, of which there is one.
const CAPACITY: u32 = 1024;
/// Where the packets go that are not to be counted.
const OTHER_PORT: u16 = 9_999;
/// How long packets may take that were sent.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two looks whether there are more: the last block of a ring is handed over when it has been quiet for a while.
const PAUSE: Duration = Duration::from_micros(500);
/// The CPU that everything happens on.
const CPU: usize = 0;

/// Who counts.
enum Counter {
    Nobody,
    Ours(Box<Accounting>, u64),
    /// The kernel filters: what it lets through is counted by blocks of the ring.
    Filter(PacketRing),
    Messages(PacketSocket),
    Ring(PacketRing),
}

impl Counter {
    const NAMES: [&str; 6] = [
        "the wire alone",
        "tidewaiter: account_receive on TCX",
        "the same without flows (capacity = 0)",
        "classic BPF socket filter, TPACKET_V3",
        "filtered by the reader, recvmmsg",
        "filtered by the reader, TPACKET_V3",
    ];

    /// One of each, on `network`.
    fn new(at: usize, network: &Network) -> Self {
        match at {
            0 => Self::Nobody,
            1 | 2 => {
                let capacity = if at == 1 { CAPACITY } else { 0 };
                Self::Ours(Box::new(account(&network.server, INTERFACE, capacity, Duration::MAX)), 0)
            }
            3 => Self::Filter(network.server.run(|| PacketRing::new(INTERFACE, Some(&port_filter(PORT))))),
            4 => Self::Messages(network.server.run(|| PacketSocket::new(INTERFACE))),
            _ => Self::Ring(network.server.run(|| PacketRing::new(INTERFACE, None))),
        }
    }

    /// Counts what there is now; answers with packets that it has read, and how many of them were to the port.
    fn count(&mut self) -> [u64; 2] {
        match self {
            // These have counted already.
            Self::Nobody | Self::Ours(..) => [0, 0],
            Self::Filter(ring) => {
                let packets = ring.count();
                [packets, packets]
            }
            Self::Messages(socket) => socket.count(PORT),
            Self::Ring(ring) => ring.count_to(PORT),
        }
    }

    /// How many packets were to be counted since the last time, if it was not said by [`Counter::count`].
    fn counted(&mut self) -> Option<u64> {
        let Self::Ours(accounting, before) = self else { return None };
        let (orders, ..) = counted(accounting);
        let now = orders.wire[Direction::Receive.index()].packets;
        Some(now - std::mem::replace(before, now))
    }

    /// How many of `frames` of which `matching` are to the port it reads.
    const fn reads(&self, frames: u64, matching: u64) -> u64 {
        match self {
            Self::Nobody | Self::Ours(..) => 0,
            Self::Filter(_) => matching,
            Self::Messages(_) | Self::Ring(_) => frames,
        }
    }
}

pub(crate) fn print() {
    println!(
        "everything on one CPU, {FRAMES} frames of 64 bytes at a time; the figure that a tenth of {ROUNDS} rounds are below"
    );
    // Each has a wire of its own, so that none hears what is for another.
    let networks: Vec<Network> = Counter::NAMES.iter().map(|_| live::wire()).collect();
    let mut counters: Vec<Counter> =
        networks.iter().enumerate().map(|(at, network)| Counter::new(at, network)).collect();
    for (what, each) in [("every packet to the port", 1), ("one packet in ten to the port", 10)] {
        let generators: Vec<Generator> = networks
            .iter()
            .map(|network| Generator::one_in(live::index(&network.client), each, PORT, OTHER_PORT))
            .collect();
        let mut rounds = vec![Vec::new(); networks.len()];
        let mut lost = vec![0; networks.len()];
        let mut sent = vec![0_u64; networks.len()];
        for _ in 0..ROUNDS {
            for (at, network) in networks.iter().enumerate() {
                let (generator, counter) = (&generators[at], &mut counters[at]);
                let all = |frames: u64| frames.div_ceil(u64::from(each.unsigned_abs()));
                let matching = all(sent[at] + u64::from(FRAMES)) - all(sent[at]);
                sent[at] += u64::from(FRAMES);
                let (time, found) = network.client.run(|| turn(generator, counter, matching));
                rounds[at].push(time);
                let found = counter.counted().unwrap_or(found);
                if at > 0 {
                    lost[at] += matching.abs_diff(found);
                }
            }
        }
        println!("\n{what:<40}{:>14}{:>16}{:>22}{:>8}", "ns a packet", "packets/s", "above the wire alone", "lost");
        let wire = quick(&rounds[0]);
        for ((name, rounds), lost) in Counter::NAMES.iter().zip(&rounds).zip(&lost) {
            let time = quick(rounds);
            println!("{name:<40}{time:>14.0}{:>16.0}{:>19.0} ns{lost:>8}", 1e9 / time, time - wire);
        }
    }
    println!(
        "(a reader's kernel side copies each packet that it is to see; recvmmsg also needs a buffer for each, and a look at each"
    );
    println!(
        "by the kernel; tidewaiter counts every packet, for its API, its interface and its flow, whatever its port)"
    );
}

/// Sends frames and has them counted. Answers with nanoseconds for each, and how many were found to be to the port.
fn turn(generator: &Generator, counter: &mut Counter, matching: u64) -> (f64, u64) {
    stay_on(CPU);
    let frame = live::datagram();
    let wanted = counter.reads(FRAMES.into(), matching);
    let put_off = kernel_thread(&format!("ksoftirqd/{CPU}"));
    let time = || thread_cpu_time() + process_cpu_time(put_off);
    let (start, before) = (Instant::now(), time());
    generator.program.run_live(&frame, FRAMES).expect("is run");
    let [mut read, mut found] = counter.count();
    while read < wanted && start.elapsed() < PATIENCE {
        sleep(PAUSE);
        let some = counter.count();
        read += some[0];
        found += some[1];
    }
    (time().saturating_sub(before).as_secs_f64() * 1e9 / f64::from(FRAMES), found)
}
