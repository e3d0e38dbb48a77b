//! rotel, a collector of `OpenTelemetry` that has nothing to do with tidewaiter, and prints what it receives.
//!
//! It comes from `PyPI`, where its package has nothing but a program, which needs the libpython of the Python that it was
//! packaged for; `tests/run` puts it into `target/rotel`. It is told to print all in detail, and to send it nowhere:
//! `rotel-agent start --exporter blackhole --debug-log traces … --debug-log-verbosity detailed`. (There is no exporter called
//! "debug", and each signal wants an option of its own.) It takes gRPC and HTTP, compressed or not, but no TLS, and accepts
//! everything.
//!
//! What version 0.0.1a15 prints was seen for one of everything that the protocol has. A log record, for example:
//!
//! ```text
//! ResourceLog #0
//! Resource SchemaURL:
//! Resource attributes:
//!      -> service.name: Str(orders)
//! ScopeLogs #0
//! ScopeLogs SchemaURL:
//! InstrumentationScope tidewaiter 0.1.0
//! LogRecord #0
//! ObservedTimestamp: 8
//! Timestamp: 7
//! SeverityText: INFO
//! SeverityNumber: SEVERITY_NUMBER_INFO(9)
//! EventName: device.lost
//! Body: Str(hello)
//! Attributes:
//!      -> count: Int(1)
//!     Trace ID       : 000102030405060708090a0b0c0d0e0f
//!     Span ID        : 0001020304050607
//! Flags: 1
//! ```
//!
//! What it does not print: flags of spans and points, how many attributes of resources, spans and log records were dropped,
//! the scale and the zero threshold of exponential histograms (the bounds of their buckets it does, from which the scale is
//! worked out here), an integer's difference from a whole double, the status of a span that has none, and what it does not
//! know, as of kinds of spans. It escapes nothing: text of several lines is several lines.
//!
//! What is printed but not read here: addresses of schemas, scopes, exemplars, states of traces, links' attributes, flags of
//! log records, and summaries, which panic. The whole text is there for it: [`Rotel::printed`].

mod read;
mod values;

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    thread::{self, sleep},
    time::Duration,
};

pub use read::Contents;
pub use values::{Attributes, LogEntry, Point, SpanRecord, attributes};

use crate::{collector::PORTS, command::Process, namespace::Namespace, servers::wait_until_heard, wait::wait_for};

/// How long nothing more must be printed for it to be all.
const QUIET: Duration = Duration::from_millis(50);

/// A running rotel. It is ended when this is dropped.
#[derive(Debug)]
pub struct Rotel {
    _process: Process,
    printed: Arc<Mutex<String>>,
}

/// The program, where `tests/run` puts it.
fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/rotel/rotel/rotel-agent")
}

impl Rotel {
    /// Starts one on all addresses of `namespace`, at the protocol's own [`PORTS`].
    ///
    /// # Panics
    /// If it is not installed.
    #[must_use]
    pub fn start(namespace: &Namespace) -> Self {
        let program = program();
        assert!(program.is_file(), "there is no {}: tests/run installs it", program.display());
        let [grpc, http] = PORTS.map(|port| format!("[::]:{port}"));
        let mut command = namespace.command(program);
        command.args(["start", "--exporter", "blackhole", "--debug-log-verbosity", "detailed", "--disable-batching"]);
        command.args(["traces", "metrics", "logs"].iter().flat_map(|signal| ["--debug-log", signal]));
        command.args(["--otlp-grpc-endpoint", &grpc, "--otlp-http-endpoint", &http]);
        let mut process = Process::start(command.stdout(Stdio::piped()));
        let printed = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(process.0.stdout.take().expect("a pipe")).lines();
        let copy = Arc::clone(&printed);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *copy.lock().expect("nobody panics with it") += &(line + "\n");
            }
        });
        for port in PORTS {
            wait_until_heard(namespace, port);
        }
        Self { _process: process, printed }
    }

    /// All that it has printed.
    #[must_use]
    pub fn printed(&self) -> String {
        self.printed.lock().expect("nobody panics with it").clone()
    }

    /// What it has received.
    #[must_use]
    pub fn received(&self) -> Contents {
        Contents::read(&self.settled())
    }

    /// Waits until what it has received is what the test waits for, by `is_enough`, and answers with that.
    #[must_use]
    pub fn wait_for(&self, what: &str, is_enough: impl Fn(&Contents) -> bool) -> Contents {
        wait_for(&format!("rotel to receive {what}"), || Some(self.received()).filter(&is_enough))
    }

    /// What it has printed when it does not print any more: not the half of something.
    fn settled(&self) -> String {
        wait_for("rotel to be done", || {
            let before = self.printed();
            sleep(QUIET);
            Some(self.printed()).filter(|now| *now == before)
        })
    }
}
