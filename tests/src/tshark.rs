//! What Wireshark makes of traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    command::{Process, output},
    namespace::Namespace,
    wait::wait_until,
};

/// What a capture begins with.
const FILE_HEADER: u64 = 24;
/// Time between two looks whether a capture is still written to.
const QUIET: Duration = Duration::from_millis(300);

/// A capture by tcpdump, in nanoseconds.
#[derive(Debug)]
pub struct Dump {
    process: Process,
    directory: TempDir,
}

impl Dump {
    /// Starts one of TCP on the interface called `name` of `namespace`.
    #[must_use]
    pub fn start(namespace: &Namespace, name: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("traffic.pcap");
        let mut command = namespace.command("tcpdump");
        command.args([
            "-Z",
            "root",
            "-i",
            name,
            "--immediate-mode",
            "-U",
            "-B",
            "65536",
            "--time-stamp-precision=nano",
        ]);
        let process = Process::start(command.arg("-w").arg(&file).arg("tcp").stderr(Stdio::piped()));
        wait_until("the capture to begin", || file.metadata().is_ok_and(|file| file.len() >= FILE_HEADER));
        Self { process, directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("traffic.pcap")
    }

    /// Ends it when no more is captured; nothing may have been dropped. Answers with the file, which is there as long as
    /// the folder.
    #[must_use]
    pub fn end(mut self) -> (TempDir, PathBuf) {
        let file = self.file();
        let length = || file.metadata().expect("is there").len();
        wait_until("the capture to be written", || {
            let before = length();
            sleep(QUIET);
            length() == before
        });
        self.process.signal(Signal::INT);
        let mut words = String::new();
        let mut errors = self.process.0.stderr.take().expect("a pipe");
        std::io::Read::read_to_string(&mut errors, &mut words).expect("is text");
        assert!(words.contains("\n0 packets dropped by kernel"), "{words}");
        self.process.0.wait().expect("ends");
        (self.directory, file)
    }
}

/// A connection, as tshark sees it; times in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stream {
    /// The server's port.
    pub server_port: u16,
    /// From SYN to ACK.
    pub initial_rtt: Option<f64>,
    /// From SYN to SYN-ACK.
    pub answered: Option<f64>,
    /// From each request of HTTP to its answer.
    pub http_times: Vec<f64>,
}

/// The names by Community ID of all that is in `capture`. Tunnels of GTP are not looked into: by default they are, and then go by
/// what is inside. The capture may be cut off.
///
/// # Panics
/// If tshark cannot read it.
#[must_use]
pub fn community_ids(capture: &Path) -> BTreeSet<String> {
    let mut command = Command::new("tshark");
    command.args(["-n", "--enable-protocol", "communityid", "--disable-protocol", "gtp", "-r"]).arg(capture);
    command.args(["-T", "fields", "-E", "aggregator=/s", "-e", "communityid"]);
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let words = String::from_utf8_lossy(&stderr);
    assert!(status.success() || words.contains("cut short in the middle of a packet"), "{command:?}: {words}");
    String::from_utf8_lossy(&stdout).split_whitespace().map(str::to_owned).collect()
}

/// The connections in `capture`, by the client's port. Unless `whole`, an answer of HTTP is there with its head: otherwise with
/// its last byte.
#[must_use]
pub fn streams(capture: &Path, whole: bool) -> BTreeMap<u16, Stream> {
    let fields =
        ["tcp.srcport", "tcp.dstport", "tcp.flags", "tcp.analysis.initial_rtt", "tcp.analysis.ack_rtt", "http.time"];
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(capture).args(["-T", "fields", "-E", "separator=,", "-E", "aggregator=/s"]);
    command.arg("-o").arg(format!("http.desegment_body:{whole}"));
    command.args(fields.iter().flat_map(|field| ["-e", field])).stderr(Stdio::null());
    let mut streams: BTreeMap<u16, Stream> = BTreeMap::new();
    for line in output(&mut command).lines() {
        let [source, destination, flags, initial_rtt, rtt, times] = line.split(',').collect::<Vec<_>>()[..] else {
            panic!("not {} fields: {line}", fields.len())
        };
        let [source, destination]: [u16; 2] = [source, destination].map(|port| port.parse().expect("a port"));
        let flags = u16::from_str_radix(flags.trim_start_matches("0x"), 16).expect("a number");
        // Servers have the lower ports.
        let stream = streams.entry(source.max(destination)).or_default();
        stream.server_port = source.min(destination);
        if stream.initial_rtt.is_none() {
            stream.initial_rtt = initial_rtt.parse().ok();
        }
        if flags & 0x12 == 0x12 {
            stream.answered = rtt.parse().ok();
        }
        stream.http_times.extend(times.split_whitespace().map(|time| time.parse::<f64>().expect("a number")));
    }
    streams
}
