//! What a packet of an established flow costs, by its shape: both programs beside one that does nothing, in the same run.
//!
//! By `BPF_PROG_TEST_RUN`, which repeats the very same frame. In each round every program runs on every kind of packet, so that
//! whatever else the machine does hits all of them alike; a shared machine has slow spells that last longer than a round, so
//! each figure is that of the round which a tenth of all rounds are faster than.

use tidewaiter::{accounting::Accounting, kernel::Kernel, snapshot::Direction};
use tidewaiter_common::{flow::DEFAULT_CAPACITY, transport::Transport};
use tidewaiter_tests::{
    frames::{Kind, frame},
    measure::quick,
};

use crate::subject::{CLIENT_PORT, CLIENT4, CLIENT6, PORT, SERVER4, SERVER6, api, subject};

/// Turns that each program takes on each kind of packet.
const ROUNDS: usize = 100;
/// What the first kind of packet may cost above the no-op, in nanoseconds: without flows, and with them.
const BUDGETS: [f64; 2] = [30.0, 60.0];
/// Runs in each turn.
const REPEAT: u32 = 20_000;

pub(crate) fn print() {
    for (what, flows, budget) in
        [("parsing and API counters alone", 0, BUDGETS[0]), ("and the flow table", DEFAULT_CAPACITY, BUDGETS[1])]
    {
        println!("\n{what}:");
        let apis = [api("any", PORT, Vec::new()), api("one", PORT + 1, vec![SERVER4])];
        let worst = table(&mut subject(flows, &apis));
        let verdict = if worst <= budget { "within" } else { "OVER" };
        println!("the first line is {verdict} its budget of {budget} ns above the no-op");
    }
}

/// Prints what each kind of packet costs; answers with what the first costs above the no-op in the dearer direction.
fn table(accounting: &mut Accounting) -> f64 {
    let plain = Kind { transport: Transport::Tcp, options: false, payload: 100 };
    let options = Kind { options: true, ..plain };
    let udp = Kind { transport: Transport::Udp, ..plain };
    let kinds = [
        ("IPv4/TCP, a mapped API", plain, CLIENT4, SERVER4, PORT),
        ("IPv4/TCP with options, a mapped API", options, CLIENT4, SERVER4, PORT),
        ("IPv6/TCP, a mapped API", plain, CLIENT6, SERVER6, PORT),
        ("IPv4/UDP, a mapped API", udp, CLIENT4, SERVER4, PORT),
        ("IPv4/TCP, an API with an address", plain, CLIENT4, SERVER4, PORT + 1),
        ("IPv4/TCP, unmapped", plain, CLIENT4, SERVER4, PORT + 2),
    ];
    let frames = kinds.map(|(_, kind, client, server, port)| {
        let (client, server) = ((client, CLIENT_PORT), (server, port));
        [frame(kind, client, server), frame(kind, server, client)]
    });
    let costs = measure(accounting.kernel(), &frames);

    println!("{:<42}{:>10}{:>18}{:>18}", "nanoseconds per packet", "no-op", "account_receive", "account_transmit");
    for ((what, ..), [noop, receive, transmit]) in kinds.iter().zip(&costs) {
        println!(
            "{what:<42}{noop:>10.1}{:>18}{:>18}",
            format!("{receive:.1} (+{:.1})", receive - noop),
            format!("{transmit:.1} (+{:.1})", transmit - noop)
        );
    }
    let [noop, receive, transmit] = costs[0];
    receive.max(transmit) - noop
}

/// For each two of `frames`, nanoseconds per packet of the no-op, of the receiving program on the first of them, and of the
/// transmitting one on the second.
fn measure<const KINDS: usize>(kernel: &mut Kernel, frames: &[[Vec<u8>; 2]; KINDS]) -> [[f64; 3]; KINDS] {
    let mut rounds: [[Vec<f64>; 3]; KINDS] = std::array::from_fn(|_| Default::default());
    for _ in 0..ROUNDS {
        for ([received, transmitted], rounds) in frames.iter().zip(&mut rounds) {
            let runs = [
                kernel.test_run_baseline(received, REPEAT),
                kernel.test_run(Direction::Receive, received, REPEAT),
                kernel.test_run(Direction::Transmit, transmitted, REPEAT),
            ];
            for (round, run) in rounds.iter_mut().zip(runs) {
                round.push(run.expect("the kernel takes the frame").duration.as_secs_f64() * 1e9);
            }
        }
    }
    rounds.map(|programs| programs.map(|round| quick(&round)))
}
