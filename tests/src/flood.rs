//! A flood: one client asks a real server for far more than that can do, and others ask as ever.
//!
//! The server has one CPU, and each answer takes some milliseconds of that, as those of an application do: nginx compresses a
//! text as well as it can. Every request has a connection of its own, which is what floods are made of, and what costs others the
//! most: they wait in the same queue.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::{
    client::go_first,
    command::Process,
    measure::stay_on,
    namespace::Namespace,
    network::{INTERFACE, Network},
    random::Random,
    servers::{open_directory, wait_until_heard},
};

/// Connections in a second that a client may have, at once, and how many the one that floods asks for.
pub const LIMIT: u32 = 100;
/// See [`LIMIT`].
pub const BURST: u32 = 20;
/// See [`LIMIT`].
pub const FLOOD: u32 = 10 * LIMIT;
/// The port that the server listens on.
pub const PORT: u16 = 80;

/// Who floods, and who does not.
const FLOODER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
const OTHERS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 77, 0, 11),
    Ipv4Addr::new(10, 77, 0, 12),
    Ipv4Addr::new(10, 77, 0, 13),
    Ipv4Addr::new(10, 77, 0, 14),
];
/// Time between two requests of one of the others.
const PAUSE: Duration = Duration::from_millis(80);
/// Requests of the flood that may be under way at once: as many as the queue of a listening socket holds, and some more.
const UNDER_WAY: usize = 600;
/// How long an answer may take, and how long one to the client that floods.
const PATIENCE: Duration = Duration::from_secs(20);
const FLOODERS_PATIENCE: Duration = Duration::from_secs(2);
/// The CPU of the server, and that of all who ask.
const CPUS: [usize; 2] = [0, 1];
/// Bytes of the answer before they are compressed.
const TEXT: usize = 32 << 10;

/// The server that is flooded. It is ended when this is dropped.
#[derive(Debug)]
pub struct Busy {
    _process: Process,
    _directory: TempDir,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How long the others' requests took, from the first segment to the last byte of the answer.
    pub others: Vec<Duration>,
    /// How many of theirs were not answered.
    pub others_failed: usize,
    /// How many requests of the flood were answered, were refused at once, and failed otherwise.
    pub flood: [u64; 3],
    /// How long it went on.
    pub time: Duration,
}

impl Busy {
    /// Starts it.
    #[must_use]
    pub fn start(namespace: &Namespace) -> Self {
        let directory = open_directory();
        let path = directory.path();
        fs::create_dir(path.join("www")).expect("is ours");
        fs::write(path.join("www/orders"), text()).expect("is ours");
        let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let folders = folders.map(|name| format!("{name}_temp_path {}/{name};", path.display())).concat();
        let configuration = format!(
            "daemon off; user root; worker_processes 1; pid {path}/pid; error_log {path}/error crit;
             events {{ worker_connections 4096; }}
             http {{
                 {folders} access_log off; default_type text/plain;
                 gzip on; gzip_comp_level 9; gzip_types text/plain;
                 server {{ listen {PORT}; root {path}/www; }}
             }}",
            path = path.display()
        );
        fs::write(path.join("nginx.conf"), configuration).expect("is ours");
        // It has that CPU before all else that this machine does: what it lacks is for the flood to take.
        let mut command = namespace.command("nice");
        command.args(["-n", "-20", "taskset", "-c", &CPUS[0].to_string(), "nginx", "-p"]).arg(path);
        command.arg("-c").arg(path.join("nginx.conf"));
        let process = Process::start(&mut command);
        wait_until_heard(namespace, PORT);
        Self { _process: process, _directory: directory }
    }
}

impl Outcome {
    /// How long so many of a hundred of the others' requests took at most.
    ///
    /// # Panics
    /// If there were none.
    #[must_use]
    pub fn percentile(&self, of_100: usize) -> Duration {
        let mut times = self.others.clone();
        times.sort_unstable();
        times[(times.len() * of_100).div_ceil(100) - 1]
    }
}

/// The API, and the rule called "flood" that limits its clients, in `mode`.
#[must_use]
pub fn configuration(mode: &str) -> String {
    format!(
        "[[api]]\nname = \"web\"\nports = [{PORT}]\n[[rule]]\nname = \"flood\"\napi = \"web\"\naction = \"reject\"\n\
         mode = \"{mode}\"\nlimit = {{ connections_per_second = {LIMIT}, burst = {BURST}, per = \"client\" }}\n"
    )
}

/// Gives the client's end of `network` the addresses of all who ask.
pub fn set_up(network: &Network) {
    for address in OTHERS.into_iter().chain([FLOODER]) {
        network.client.ip(&format!("address add {address}/24 dev {INTERFACE}"));
    }
}

/// Has the others ask the server of `network` for so long, while one client floods it with `rate` connections a second, or none.
#[must_use]
pub fn flood(network: &Network, rate: u32, long: Duration) -> Outcome {
    let start = Instant::now();
    let (is_over, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let counts: [AtomicU64; 3] = Default::default();
    let others = Mutex::new((Vec::new(), 0));
    network.client.run(|| {
        stay_on(CPUS[1]);
        thread::scope(|scope| {
            let asking = OTHERS.map(|from| {
                let others = &others;
                scope.spawn(move || {
                    go_first();
                    while start.elapsed() < long {
                        let began = Instant::now();
                        let result = ask(from, PATIENCE);
                        let mut others = others.lock().expect("nobody panics with it");
                        match result {
                            Ok(()) => others.0.push(began.elapsed()),
                            Err(_) => others.1 += 1,
                        }
                        drop(others);
                        thread::sleep(PAUSE);
                    }
                })
            });
            for _ in 0..if rate > 0 { UNDER_WAY } else { 0 } {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        // Each takes the next one that is due.
                        let due = Duration::from_secs(1) * next.fetch_add(1, Ordering::Relaxed) as u32 / rate;
                        thread::sleep(due.saturating_sub(start.elapsed()));
                        let place = match ask(FLOODER, FLOODERS_PATIENCE) {
                            Ok(()) => 0,
                            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => 1,
                            Err(_) => 2,
                        };
                        counts[place].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for one in asking {
                one.join().expect("asks");
            }
            is_over.store(true, Ordering::Relaxed);
        });
    });
    let (others, others_failed) = others.into_inner().expect("nobody panicked with it");
    Outcome { others, others_failed, flood: counts.map(AtomicU64::into_inner), time: start.elapsed() }
}

/// Asks the server, by a connection from the address `from`; a failure is whatever is not an answer that is all right.
fn ask(from: Ipv4Addr, patience: Duration) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from.into(), 0).into())?;
    socket.connect_timeout(&SocketAddr::new(Network::SERVER4.into(), PORT).into(), patience)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"GET /orders HTTP/1.1\r\nHost: server\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    // The last chunk, of no bytes (RFC 9112 section 7.1).
    let is_whole = answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"0\r\n\r\n");
    if is_whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Words, as a list of orders has them.
fn text() -> String {
    let mut random = Random::new(11);
    let mut text = String::with_capacity(TEXT);
    while text.len() < TEXT {
        let number = random.number();
        text += ["order ", "customer ", "amount ", "paid ", "open "][number as usize % 5];
        write!(text, "{:x} ", number >> 44).expect("a String takes all");
    }
    text
}
