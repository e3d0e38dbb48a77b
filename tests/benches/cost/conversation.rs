//! What a packet costs, by what it means: frames that differ from run to run, so that each means the same as the one before.
//!
//! A small program changes each frame before it is dealt with ([`drive`](tidewaiter_tests::bpf::drive)): sequence numbers go
//! on, for the same segment again would be a retransmission; or the client's address does. The no-op beside it is what the same
//! small program costs with nothing behind it. Rounds are taken as for shapes.

use std::net::IpAddr;

use tidewaiter::accounting::Accounting;
use tidewaiter_common::{direction::Direction, packet::tcp_flag, transport::Transport};
use tidewaiter_tests::{
    bpf::{
        Program,
        drive::{Change, Drive, Target},
    },
    connections::{ANSWER, Connections, REQUEST, Step},
    frames::{Kind, frame},
    measure::quick,
};

use crate::subject::{CLIENT_PORT, CLIENT4, CLIENT6, PORT, SERVER4, SERVER6, apis, subject};

/// Turns that each kind of packet takes.
const ROUNDS: usize = 50;
/// Packets in each turn, where nothing says otherwise.
const REPEAT: u32 = 20_000;
/// Room for all flows here.
const CAPACITY: u32 = 1 << 20;
/// What a hot packet may cost above the no-op, in nanoseconds.
const BUDGET: f64 = 60.0;
/// Bytes of payload of a bulk packet.
const BULK: usize = 100;

/// Connections that take turns in asking: few enough to stay in the CPU's cache.
const ASKING: u32 = 64;
/// Questions and answers of each in one round.
const QUESTIONS: u32 = 200;
/// Connections that are used in rotation.
const MANY: u32 = 100_000;
/// Connections that are opened and closed in each round.
const OPENED: u32 = 2_000;
/// The first of each kind, among all clients.
mod first {
    pub(super) const HOT: u32 = 1;
    pub(super) const HTTP: u32 = 2;
    pub(super) const DOWNLOAD: u32 = 3;
    pub(super) const ASKING: u32 = 1_000;
    pub(super) const ASKING_HTTP: u32 = 2_000;
    pub(super) const MANY: u32 = 10_000;
    pub(super) const OPENED: u32 = 200_000;
}

/// Nanoseconds of the no-op, and of what was measured.
type Pair = [f64; 2];

/// Kinds of packets that are measured together, and what measures each of them once.
struct Turn {
    kinds: Vec<(&'static str, Direction)>,
    take: Box<dyn FnMut() -> Vec<Pair>>,
}

pub(crate) fn print() {
    println!("\nin a conversation, with room for {CAPACITY} flows; TC alone, there is no XDP program:");
    let clock = clock();
    for (version, client, server) in [("IPv4", CLIENT4, SERVER4), ("IPv6", CLIENT6, SERVER6)] {
        let mut accounting = subject(CAPACITY, &apis(1));
        let mut turns = turns(&mut accounting, client, server);
        let mut rounds: Vec<Vec<Vec<Pair>>> = turns.iter().map(|turn| vec![Vec::new(); turn.kinds.len()]).collect();
        for _ in 0..ROUNDS {
            for (turn, rounds) in turns.iter_mut().zip(&mut rounds) {
                for (figure, round) in (turn.take)().into_iter().zip(rounds) {
                    round.push(figure);
                }
            }
        }
        println!("{:<58}{:>10}{:>20}", format!("{version}, nanoseconds per packet"), "no-op", "program");
        let mut worst: [f64; 2] = [0.0; 2];
        let kinds = turns.iter().flat_map(|turn| &turn.kinds);
        for ((what, direction), round) in kinds.zip(rounds.iter().flatten()) {
            let [noop, program] = [0, 1].map(|at| quick(&round.iter().map(|pair| pair[at]).collect::<Vec<_>>()));
            let above = program - noop;
            println!(
                "{:<58}{noop:>10.1}{:>20}",
                format!("{what}, {}", direction.as_str()),
                format!("{program:.1} ({above:+.1})")
            );
            if what.starts_with("hot") {
                worst[0] = worst[0].max(above);
            } else if what.starts_with("ends a request") {
                worst[1] = worst[1].max(above);
            }
        }
        budget("a hot packet, bulk or ACK", worst[0], BUDGET);
        budget("the end of a request", worst[1], BUDGET + clock);
        drop(turns);
        let snapshot = accounting.snapshot();
        let api = snapshot.apis.iter().find(|api| api.name == "api-0").expect("is there");
        println!(
            "(untracked packets: {}; connections in the table at the end: {})",
            api.counters.untracked.packets,
            flows(&mut accounting)
        );
    }
}

fn budget(what: &str, above: f64, budget: f64) {
    let verdict = if above <= budget { "within" } else { "OVER" };
    println!("{what}: +{above:.1} ns, {verdict} the budget of {budget:.0} ns above the no-op");
}

fn flows(accounting: &mut Accounting) -> usize {
    accounting.kernel().all_flows(tidewaiter::kernel::FlowTable::Established).expect("can be read").len()
}

/// Prints and answers with what one look at the precise clock costs.
fn clock() -> f64 {
    let (nothing, clock) = (Program::nothing(), Program::clock());
    let frame = &mut [0; 64];
    let mut rounds: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (round, program) in rounds.iter_mut().zip([&nothing, &clock]) {
            round.push(program.run(frame, REPEAT).as_secs_f64() * 1e9);
        }
    }
    let [nothing, clock] = rounds.map(|round| quick(&round));
    println!(
        "the precise clock (bpf_ktime_get_ns): {clock:.1} ns, a no-op {nothing:.1}: +{:.1} a look",
        clock - nothing
    );
    clock - nothing
}

/// All that is measured between `client` and `server`.
fn turns(accounting: &mut Accounting, client: IpAddr, server: IpAddr) -> Vec<Turn> {
    use Direction::{Receive, Transmit};
    let some = Connections::new(accounting.kernel(), (client, CLIENT_PORT), (server, PORT));
    some.open(0, 10);
    some.open(first::ASKING, ASKING);
    some.open(first::ASKING_HTTP, ASKING);
    some.open(first::MANY, MANY);
    speak_http(&some, first::ASKING_HTTP, ASKING);
    speak_http(&some, first::HTTP, 1);
    speak_http(&some, first::DOWNLOAD, 1);

    let mut turns = Vec::new();
    for direction in Direction::ALL {
        turns.push(single("hot flow: bulk packet", direction, bulk(&some, first::HOT, direction)));
    }
    for direction in Direction::ALL {
        turns.push(single("hot flow: pure ACK", direction, acknowledgement(&some, direction)));
    }
    turns.push(questions(
        &some,
        first::ASKING,
        [b"question", b"answer, "],
        ["ends a request (PSH)", "first packet of its answer"],
    ));
    turns.push(questions(
        &some,
        first::ASKING_HTTP,
        [b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"],
        ["HTTP/1: ends a request (PSH)", "HTTP/1: first packet of its answer"],
    ));
    // A request that has begun, and goes on.
    let upload = upload(&some);
    turns.push(single("HTTP/1: packet of a request's body", Receive, upload));
    turns.push(single("HTTP/1: packet of an answer's body", Transmit, bulk(&some, first::DOWNLOAD, Transmit)));
    for direction in Direction::ALL {
        turns.push(single(
            "bulk packet, 64 flows in rotation",
            direction,
            many(&some, direction, first::ASKING, ASKING),
        ));
    }
    for direction in Direction::ALL {
        turns.push(single(
            "bulk packet, 100,000 flows in rotation",
            direction,
            many(&some, direction, first::MANY, MANY),
        ));
    }
    turns.push(connections(&some));
    turns.push(single("SYN flood, each of a new source", Receive, flood(&some, Transport::Tcp, (client, server))));
    turns.push(single("UDP flood, each of a new source", Receive, flood(&some, Transport::Udp, (client, server))));
    turns
}

/// One kind of packet.
fn single(what: &'static str, direction: Direction, (drive, frame): (Drive, Vec<u8>)) -> Turn {
    let mut frames = [frame.clone(), frame];
    let take = Box::new(move || vec![pair(&drive, direction, &mut frames, REPEAT)]);
    Turn { kinds: vec![(what, direction)], take }
}

/// The no-op on the first of `frames`, then the program on the second; each goes on from there the next time.
fn pair(drive: &Drive, direction: Direction, frames: &mut [Vec<u8>; 2], times: u32) -> Pair {
    let [first, second] = frames;
    [drive.run(Target::Nothing, first, times), drive.run(Target::Account(direction), second, times)]
}

/// A step of a connection that is under way.
fn step(direction: Direction, flags: u8) -> Step {
    let numbers = [REQUEST, ANSWER];
    let [sequence, acknowledgement] = [numbers[direction.index()], numbers[direction.opposite().index()]];
    Step { direction, flags: flags | tcp_flag::ACK, sequence, acknowledgement }
}

/// Payload without PSH, each after the one before.
fn bulk(some: &Connections, client: u32, direction: Direction) -> (Drive, Vec<u8>) {
    let at = some.offsets().sequence;
    let frame = some.frame(client, step(direction, 0), &[b'x'; BULK]);
    (some.targets().drive(&[Change::Grow { at, by: BULK as u32 }]), frame)
}

/// An acknowledgement of what the other side sends meanwhile.
fn acknowledgement(some: &Connections, direction: Direction) -> (Drive, Vec<u8>) {
    let at = some.offsets().acknowledgement;
    let frame = some.frame(first::HOT, step(direction, 0), &[]);
    (some.targets().drive(&[Change::Grow { at, by: BULK as u32 }]), frame)
}

/// Payload of many connections in turn.
fn many(some: &Connections, direction: Direction, first: u32, count: u32) -> (Drive, Vec<u8>) {
    let frame = some.frame(first, step(direction, 0), &[b'x'; BULK]);
    (some.rotation(direction, first, count), frame)
}

/// Has `count` connections from `client` on ask something in HTTP/1, and answered.
fn speak_http(some: &Connections, client: u32, count: u32) {
    let mut question = step(Direction::Receive, tcp_flag::PSH);
    let mut answer = step(Direction::Transmit, tcp_flag::PSH);
    let texts: [&[u8]; 2] = [b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"];
    // Before what is measured, without a gap.
    question.sequence -= texts[0].len() as u32;
    answer.sequence -= texts[1].len() as u32;
    question.acknowledgement = answer.sequence;
    for (step, text) in [question, answer].into_iter().zip(texts) {
        let mut frame = some.frame(client.wrapping_sub(1), step, text);
        some.next(step.direction).run(Target::Account(step.direction), &mut frame, count);
    }
}

/// A request of HTTP/1 whose body is under way.
fn upload(some: &Connections) -> (Drive, Vec<u8>) {
    let head: &[u8] = b"POST / HTTP/1.1\r\n\r\n";
    let mut begin = step(Direction::Receive, 0);
    let mut frame = some.frame(first::HTTP - 1, begin, head);
    some.next(Direction::Receive).run(Target::Account(Direction::Receive), &mut frame, 1);
    begin.sequence += head.len() as u32;
    let at = some.offsets().sequence;
    let frame = some.frame(first::HTTP, begin, &[b'x'; BULK]);
    (some.targets().drive(&[Change::Grow { at, by: BULK as u32 }]), frame)
}

/// Each of [`ASKING`] connections asks, then each is answered, and so on: so each question is the first since an answer, and
/// each answer the first to a question.
fn questions(some: &Connections, client: u32, texts: [&'static [u8]; 2], what: [&'static str; 2]) -> Turn {
    let [question, answer] = Direction::ALL;
    let drives = [question, answer].map(|direction| some.rotation(direction, client, ASKING));
    let offsets = some.offsets();
    let lengths = texts.map(|text| text.len() as u32);
    let mut steps = [question, answer].map(|direction| step(direction, tcp_flag::PSH));
    let mut frames = [0, 1].map(|at| some.frame(client, steps[at], texts[at]));
    let take = move || {
        let mut sums = [[0.0; 2]; 2];
        for _ in 0..QUESTIONS {
            steps[1].acknowledgement = steps[0].sequence.wrapping_add(lengths[0]);
            for (at, direction) in Direction::ALL.into_iter().enumerate() {
                let frame = &mut frames[at];
                for (offset, number) in
                    [(offsets.sequence, steps[at].sequence), (offsets.acknowledgement, steps[at].acknowledgement)]
                {
                    frame[offset..][..4].copy_from_slice(&number.to_be_bytes());
                }
                let both = &mut [frame.clone(), frame.clone()];
                for (sum, figure) in sums[at].iter_mut().zip(pair(&drives[at], direction, both, ASKING)) {
                    *sum += figure / f64::from(QUESTIONS);
                }
            }
            steps[0].sequence = steps[1].acknowledgement;
            steps[1].sequence = steps[1].sequence.wrapping_add(lengths[1]);
            steps[0].acknowledgement = steps[1].sequence;
        }
        sums.to_vec()
    };
    Turn { kinds: what.into_iter().zip(Direction::ALL).collect(), take: Box::new(take) }
}

/// Connections that were never there before: what opens them, and what closes them.
fn connections(some: &Connections) -> Turn {
    const WHAT: [&str; 6] = [
        "a new connection: SYN",
        "a new connection: SYN-ACK",
        "a new connection: ACK, which establishes it",
        "its end: the first FIN",
        "its end: the other FIN",
        "its end: the last ACK",
    ];
    let steps: Vec<Step> = Step::OPENING.into_iter().chain(Step::CLOSING).collect();
    let drives = Direction::ALL.map(|direction| some.next(direction));
    let frames: Vec<_> = steps.iter().map(|&step| some.frame(0, step, &[])).collect();
    let kinds = WHAT.into_iter().zip(steps.iter().map(|step| step.direction)).collect();
    let places = Direction::ALL.map(|direction| some.at(direction));
    let mut next = some.client(first::OPENED);
    let take = move || {
        let pairs = steps.iter().zip(&frames).map(|(step, frame)| {
            let at = step.direction.index();
            let mut frame = frame.clone();
            frame[places[at]..][..4].copy_from_slice(&next.to_be_bytes());
            pair(&drives[at], step.direction, &mut [frame.clone(), frame], OPENED)
        });
        let pairs = pairs.collect();
        next += OPENED;
        pairs
    };
    Turn { kinds, take: Box::new(take) }
}

/// The first packets of clients that look random: over all rounds a million.
fn flood(some: &Connections, transport: Transport, (client, server): (IpAddr, IpAddr)) -> (Drive, Vec<u8>) {
    let frame = match transport {
        Transport::Tcp => some.frame(0, Step::OPENING[0], &[]),
        _ => frame(Kind { transport, options: false, payload: BULK }, (client, CLIENT_PORT + 1), (server, PORT)),
    };
    (some.targets().drive(&[Change::Scatter { at: some.at(Direction::Receive) }]), frame)
}
