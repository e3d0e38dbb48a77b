//! Connections that go on for long are told in parts, and all flows before the exporter ends; the parts add up to what was sent.

#![allow(clippy::expect_used, reason = "a test panics for a stack trace")]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    slice::from_ref,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use tidewaiter::{
    accounting::Accounting,
    api::Transport,
    flow::{CloseReason, FlowEnd, FlowRecord},
    kernel::FlowTable::{Established, New},
    snapshot::Counters,
    tracker::FlowTracker,
};
use tidewaiter_common::direction::Direction;
use tidewaiter_tests::{
    accounting::{account, counted, flows},
    frames::{Kind, frame},
    network::{INTERFACE, Network, Offload, send_frames},
    wait::wait_until,
};
use tokio::sync::mpsc::Receiver;

const ACTIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Long enough for any look at the flows.
const NEVER_LATE: Duration = Duration::from_mins(1);
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Network::SERVER4), 8080);
/// The bytes of a question, and of its answer.
const QUESTION: [u8; 1_000] = [1; 1_000];
const ANSWER: [u8; 3_000] = [2; 3_000];

/// Accounting that tells flows to who has the other part.
fn follow(network: &Network) -> (Accounting, Receiver<Arc<FlowRecord>>) {
    let mut accounting = account(&network.server, INTERFACE, 1024, Duration::from_hours(1));
    let tracker = FlowTracker::new(20, Instant::now()).with_active_timeout(ACTIVE_TIMEOUT);
    accounting.follow_flows(tracker).expect("can be read");
    let records = accounting.tracker().expect("follows").add_sink("test", 10_000);
    (accounting, records)
}

/// Looks after the flows once, as the daemon does over and over.
fn look(accounting: &mut Accounting) {
    let deadline = Instant::now() + NEVER_LATE;
    assert!(!accounting.drain_flows(deadline).expect("can be read"));
    assert!(!accounting.sweep_flows(deadline).expect("can be read"));
}

/// Records of the API, which has no other flows than the test's.
fn read(records: &mut Receiver<Arc<FlowRecord>>) -> Vec<Arc<FlowRecord>> {
    let all = std::iter::from_fn(|| records.try_recv().ok());
    all.filter(|record| &*record.api == "orders").collect()
}

/// A connection from the client to the server.
struct Connection {
    client: TcpStream,
    server: TcpStream,
    questions: u64,
}

impl Connection {
    fn open(network: &Network) -> Self {
        let listener = network.server.run(|| TcpListener::bind(SERVER)).expect("is free");
        let client = network.client.run(|| TcpStream::connect(SERVER)).expect("is heard");
        let (server, _) = listener.accept().expect("a connection");
        Self { client, server, questions: 0 }
    }

    fn ask(&mut self) {
        self.client.write_all(&QUESTION).expect("is sent");
        self.server.read_exact(&mut { QUESTION }).expect("a question");
        self.server.write_all(&ANSWER).expect("is sent");
        self.client.read_exact(&mut { ANSWER }).expect("an answer");
        self.questions += 1;
    }

    fn remote(&self) -> SocketAddr {
        self.client.local_addr().expect("is bound")
    }

    /// Closes it, and waits until both ends know.
    fn close(self, network: &Network) -> (SocketAddr, u64) {
        let (remote, questions) = (self.remote(), self.questions);
        drop(self.client);
        drop(self.server);
        network.wait_until_quiet();
        (remote, questions)
    }
}

/// What `records` add up to.
fn sum(records: &[Arc<FlowRecord>]) -> [Counters; Direction::COUNT] {
    [0, 1].map(|at| records.iter().map(|record| record.wire[at]).sum())
}

/// Bytes of the API's clients, those with a name and the others.
fn of_clients(accounting: &mut Accounting) -> u64 {
    let snapshot = accounting.snapshot();
    let orders = snapshot.apis.iter().find(|api| api.name == "orders").expect("is counted");
    let clients = orders.clients.as_ref().expect("are followed");
    clients.named.iter().map(|client| client.bytes).sum::<u64>() + clients.other.unwrap_or_default()
}

fn bytes(wire: [Counters; Direction::COUNT]) -> u64 {
    wire.iter().map(|counters| counters.bytes).sum()
}

#[test]
fn a_connection_is_told_in_parts_that_add_up_to_what_was_sent() {
    let network = Network::new(Offload::Off);
    let (mut accounting, mut records) = follow(&network);
    let before = network.kernel_counters();
    let (start, began) = (Instant::now(), SystemTime::now());
    let mut connection = Connection::open(&network);
    let mut busy = Connection::open(&network);
    // It is quiet for a while in between, and the other is not.
    while start.elapsed() < 6 * ACTIVE_TIMEOUT {
        busy.ask();
        if !(3 * ACTIVE_TIMEOUT..5 * ACTIVE_TIMEOUT).contains(&start.elapsed()) {
            connection.ask();
        }
        look(&mut accounting);
        sleep(Duration::from_millis(100));
    }
    let ended = [connection, busy].map(|connection| connection.close(&network));
    wait_until("both to be over", || {
        look(&mut accounting);
        flows(&mut accounting, Established).is_empty()
    });
    let took = start.elapsed();
    let now = SystemTime::now();

    let told = read(&mut records);
    let (orders, _, _) = counted(&mut accounting);
    assert_eq!(sum(&told), orders.wire, "all of the API's packets");
    let kernel = network.kernel_counters() - before;
    assert!(sum(&told).map(|counters| counters.packets).iter().zip(kernel.packets).all(|(told, sent)| *told <= sent));
    assert_eq!(of_clients(&mut accounting), bytes(orders.wire));
    for (at, (remote, questions)) in ended.into_iter().enumerate() {
        let parts: Vec<_> = told.iter().filter(|record| record.remote == remote).cloned().collect();
        println!("{remote}: {} parts in {took:?}", parts.len());
        let (last, others) = parts.split_last().expect("records");
        assert_eq!(last.end, Some(FlowEnd::Closed(CloseReason::Fin)));
        assert!(others.iter().all(|part| part.end == Some(FlowEnd::ActiveTimeout)), "{others:?}");
        // The kernel tells no sooner than that, and is asked ten times a second.
        let periods = usize::try_from(took.as_secs() / ACTIVE_TIMEOUT.as_secs()).expect("a few");
        let quiet = if at == 0 { 2 } else { 0 };
        assert!((3..=periods - quiet / 2).contains(&others.len()), "{} of {periods}", others.len());

        // What was sent is in there, with its headers, and no part is empty.
        let [receive, transmit] = sum(&parts);
        let header = 14 + 20 + 32;
        for (counters, length) in [(receive, QUESTION.len()), (transmit, ANSWER.len())] {
            let payload = questions * length as u64;
            // Opening segments have more options than others.
            let headers = counters.bytes - payload;
            assert!((counters.packets * header..=counters.packets * header + 8).contains(&headers), "{counters:?}");
        }
        assert!(parts.iter().all(|part| part.wire.iter().any(|counters| counters.packets > 0)), "{parts:?}");
        assert_eq!(parts.iter().map(|part| part.responses).sum::<u64>(), questions);
        assert!(parts.iter().map(|part| part.response_time).sum::<Duration>() < took);
        assert!(parts[0].handshake.is_some() && parts[1..].iter().all(|part| part.handshake.is_none()));
        // Each begins where the one before ends.
        assert!(parts[0].first + Duration::from_secs(1) > began && last.last <= now, "{parts:?}");
        assert!(parts.windows(2).all(|pair| pair[1].first == pair[0].last), "{parts:?}");
        assert!(parts.iter().all(|part| part.first <= part.last));
        assert!(parts.iter().all(|part| part.community_id() == parts[0].community_id()));
    }
}

#[test]
fn all_flows_are_told_before_an_end() {
    let network = Network::new(Offload::Off);
    let (mut accounting, mut records) = follow(&network);
    let mut connection = Connection::open(&network);
    connection.ask();
    let mut closed = Connection::open(&network);
    closed.ask();
    // One part of it is told.
    wait_until("a part to be told", || {
        look(&mut accounting);
        connection.ask();
        !records.is_empty()
    });
    look(&mut accounting);
    let mut told = read(&mut records);
    let (remote, _) = closed.close(&network);
    // Nobody has looked at this one, which is not even answered.
    let kind = Kind { transport: Transport::Udp, options: false, payload: 0 };
    let datagram = frame(kind, (Network::CLIENT4.into(), 9), (SERVER.ip(), 8080));
    network.client.run(|| send_frames(INTERFACE, from_ref(&datagram), 1)).expect("is sent");
    connection.ask();
    network.wait_until_quiet();

    // There is no time for anything; then there is.
    let left = accounting.finish_all_flows(Instant::now()).expect("can be read");
    assert!(left > 0);
    assert_eq!(accounting.finish_all_flows(Instant::now() + NEVER_LATE).expect("can be read"), 0);
    let last = read(&mut records);
    let ends = |remote: SocketAddr| -> Vec<_> {
        last.iter().filter(|record| record.remote == remote).map(|record| record.end).collect()
    };
    let forced = Some(FlowEnd::ForcedEnd);
    assert_eq!(ends(connection.remote()), [forced]);
    assert_eq!(ends(remote), [Some(FlowEnd::Closed(CloseReason::Fin))], "without a rest");
    assert_eq!(ends(SocketAddr::new(Network::CLIENT4.into(), 9)), [forced], "not established");
    told.extend(last);
    let (orders, _, _) = counted(&mut accounting);
    assert_eq!(sum(&told), orders.wire);
    assert_eq!(of_clients(&mut accounting), bytes(orders.wire));
    // That is no end of the connection, and nothing is told twice.
    let details = accounting.snapshot().apis.into_iter().find(|api| api.name == "orders").and_then(|api| api.details);
    let details = details.expect("flows are kept");
    assert_eq!((details.closed, details.active()), ([1, 0, 0], 1));
    assert_eq!(flows(&mut accounting, Established).len(), 1);
    assert!(flows(&mut accounting, New).iter().all(|(_, flow)| tidewaiter::flow::is_empty(flow)));
    assert_eq!(accounting.finish_all_flows(Instant::now() + NEVER_LATE).expect("can be read"), 0);
    assert_eq!(read(&mut records).len(), 0);

    // What passes until the programs are detached can be told after that.
    connection.ask();
    network.client.run(|| send_frames(INTERFACE, from_ref(&datagram), 3)).expect("is sent");
    network.wait_until_quiet();
    accounting.end().expect("is detached");
    connection.ask();
    network.wait_until_quiet();
    assert_eq!(accounting.finish_all_flows(Instant::now() + NEVER_LATE).expect("can be read"), 0);
    told.extend(read(&mut records));
    let (orders, _, _) = counted(&mut accounting);
    assert_eq!(sum(&told), orders.wire);
    assert_eq!(of_clients(&mut accounting), bytes(orders.wire));
}
