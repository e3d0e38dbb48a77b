//! The exporter as its users run it: the real binary, in a namespace.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tidewaiter_common::direction::Direction;
use ureq::{Agent, Body, http::Response};

use crate::{
    bpf_file_system::BpfFileSystem,
    command::{Process, output},
    metrics::Metrics,
    namespace::Namespace,
    network::{INTERFACE, KernelCounters, Network},
    wait::{wait_for, wait_until},
};

/// Where the exporter listens in its namespace, unless a test says otherwise.
pub const ADDRESS: &str = "127.0.0.1:9473";

/// The binary, built from what is there now.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // This test's own binary is in `target/<profile>/deps`.
        let test = std::env::current_exe().expect("a path");
        let profile = test.ancestors().nth(2).expect("target/<profile>");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--locked", "--package", "tidewaiter", "--bin", "tidewaiter"]);
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        output(&mut build);
        profile.join("tidewaiter")
    })
}

/// A running exporter. It is killed when this is dropped.
#[derive(Debug)]
pub struct Exporter<'a> {
    /// Where it runs.
    pub namespace: &'a Namespace,
    process: Process,
    log: Arc<Mutex<String>>,
    /// Where its configuration is.
    directory: TempDir,
    /// Where it pins; dropped after the process has ended.
    _bpf: Arc<BpfFileSystem>,
}

impl<'a> Exporter<'a> {
    /// Starts it with `configuration`, and waits until it is ready.
    #[must_use]
    pub fn start(namespace: &'a Namespace, configuration: &str) -> Self {
        Self::start_after(&Arc::new(BpfFileSystem::mount()), namespace, configuration, &[])
    }

    /// As [`Exporter::start`], with more `arguments`, where others have left their pins in `bpf`.
    #[must_use]
    pub fn start_after(
        bpf: &Arc<BpfFileSystem>,
        namespace: &'a Namespace,
        configuration: &str,
        arguments: &[&str],
    ) -> Self {
        Self::start_as(bpf, namespace, configuration, |command| {
            command.args(arguments);
        })
    }

    /// As [`Exporter::start_after`], by a command that `change` has changed.
    #[must_use]
    pub fn start_as(
        bpf: &Arc<BpfFileSystem>,
        namespace: &'a Namespace,
        configuration: &str,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let exporter = Self::start_closed(bpf, namespace, configuration, change);
        wait_until("the exporter to be ready", || exporter.status("/readyz") == Some(200));
        exporter
    }

    /// As [`Exporter::start_as`], for one that does not answer whoever asks in the clear: it is ready when it says so.
    #[must_use]
    pub fn start_closed(
        bpf: &Arc<BpfFileSystem>,
        namespace: &'a Namespace,
        configuration: &str,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let exporter = Self::spawn(bpf, namespace, configuration, change);
        wait_until("the exporter to serve", || {
            let log = exporter.log();
            assert!(exporter.is_running(), "it ended: {log}");
            log.contains("serving metrics")
        });
        exporter
    }

    fn spawn(
        bpf: &Arc<BpfFileSystem>,
        namespace: &'a Namespace,
        configuration: &str,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("tidewaiter.toml");
        fs::write(&file, configuration).expect("can be written");
        let mut command = namespace.command(binary());
        // Others run at the same time.
        command.env("TIDEWAITER_GUARD__SOCKET", directory.path().join("control.sock"));
        command.env("TIDEWAITER_GUARD__STATE", directory.path().join("blocks.json"));
        // Arguments go over it.
        command.env("TIDEWAITER_LISTEN", ADDRESS).arg("--config").arg(&file);
        change(&mut command);
        command.env("TIDEWAITER_PIN_PATH", bpf.pin_path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::start(&mut command);

        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(process.0.stderr.take().expect("a pipe")).lines();
        let copy = Arc::clone(&log);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                eprintln!("{line}");
                *copy.lock().expect("nobody panics with it") += &(line + "\n");
            }
        });
        Self { namespace, process, log, directory, _bpf: Arc::clone(bpf) }
    }

    /// The file that its configuration is in.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("tidewaiter.toml")
    }

    /// Puts `configuration` into that file, in one step as configuration management does it.
    pub fn configure(&self, configuration: &str) {
        let new = self.directory.path().join("new.toml");
        fs::write(&new, configuration).expect("can be written");
        fs::rename(new, self.file()).expect("is moved");
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics with it").clone()
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Sends `signal`, and waits for the end.
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        self.process.signal(signal);
        wait_for("the exporter to end", || self.process.0.try_wait().expect("can be waited for"))
    }

    /// Asks for `path` with `headers`.
    #[must_use]
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Option<Response<Body>> {
        self.namespace.run(|| {
            let config = Agent::config_builder()
                .http_status_as_error(false)
                .accept_encoding("identity")
                .timeout_global(Some(Duration::from_secs(5)))
                .build();
            let request = Agent::new_with_config(config).get(format!("http://{ADDRESS}{path}"));
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).call().ok()
        })
    }

    /// The status that `path` is answered with, if it is answered.
    #[must_use]
    pub fn status(&self, path: &str) -> Option<u16> {
        self.get(path, &[]).map(|response| response.status().as_u16())
    }

    /// The body that `path` is answered with.
    #[must_use]
    pub fn body(&self, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut response = self.get(path, headers).expect("an answer");
        assert_eq!(response.status(), 200);
        self.namespace.run(|| response.body_mut().read_to_vec().expect("a body"))
    }

    /// The body that `path` is answered with, as text.
    #[must_use]
    pub fn text(&self, path: &str, headers: &[(&str, &str)]) -> String {
        String::from_utf8(self.body(path, headers)).expect("text")
    }

    /// Waits until it has seen what the kernel has counted on the wire since `before`, and sees that both agree in every
    /// number, and that its own sums do.
    ///
    /// # Panics
    /// If they do not.
    #[must_use]
    pub fn agree_with_kernel(&self, network: &Network, before: KernelCounters) -> Metrics {
        let expected = network.kernel_counters() - before;
        assert_eq!(expected.dropped, [0, 0], "the device dropped packets");
        let metrics = wait_for("the exporter to have seen every packet", || {
            let metrics = self.metrics();
            let seen = Direction::ALL.map(|direction| metrics.interface(INTERFACE, direction).packets);
            (seen == expected.packets).then_some(metrics)
        });
        let bytes = Direction::ALL.map(|direction| metrics.interface(INTERFACE, direction).bytes);
        assert_eq!(bytes, expected.bytes);
        metrics.assert_the_sums_prove_it();
        metrics
    }

    /// What `/metrics` says now.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        Metrics::parse(&self.text("/metrics", &[]))
    }
}
