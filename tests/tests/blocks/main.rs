//! Blocks, responses, and switching the guard: with a real exporter, real commands and real clients.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

mod command;
mod http;
mod responses;
mod switch;

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tidewaiter_tests::{
    bpf_file_system::BpfFileSystem,
    exporter::{Exporter, binary},
    network::{Network, Offload},
};

/// The port of the API "orders".
pub(crate) const PORT: u16 = 8080;

/// How long a client waits for a server that it reaches at once, or not at all.
const PATIENCE: Duration = Duration::from_millis(400);

/// A server that is guarded, and a client.
pub(crate) struct Host {
    pub(crate) network: Network,
    pub(crate) bpf: Arc<BpfFileSystem>,
    pub(crate) folder: TempDir,
    _listeners: Vec<TcpListener>,
}

impl Host {
    pub(crate) fn new() -> Self {
        let network = Network::new(Offload::Off);
        let listen = |address| network.server.run(|| TcpListener::bind((address, PORT)).unwrap());
        let listeners = Network::SERVERS.map(listen).into();
        Self { network, bpf: Arc::new(BpfFileSystem::mount()), folder: TempDir::new().unwrap(), _listeners: listeners }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("run").join("control.sock")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state").join("blocks.json")
    }

    /// A configuration, with `guard` in its section of it and `more` after that.
    #[expect(clippy::unused_self, reason = "it is this host's")]
    pub(crate) fn configuration(&self, guard: &str, more: &str) -> String {
        format!("interfaces = [\"wire\"]\n[guard]\n{guard}\n[[api]]\nname = \"orders\"\nports = [{PORT}]\n{more}\n")
    }

    /// Starts an exporter, with `guard` in its section of the configuration and `more` after that.
    pub(crate) fn start(&self, guard: &str, more: &str) -> Exporter<'_> {
        let configuration = self.configuration(guard, more);
        Exporter::start_as(&self.bpf, &self.network.server, &configuration, |command| {
            command.env("TIDEWAITER_GUARD__SOCKET", self.socket()).env("TIDEWAITER_GUARD__STATE", self.state());
        })
    }

    /// The command `tidewaiter` with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.network.server.command(binary());
        command.args(arguments).env("TIDEWAITER_GUARD__SOCKET", self.socket());
        command.env("TIDEWAITER_PIN_PATH", self.bpf.pin_path());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Has it done, which must be a success; answers with what was printed.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Has it refused; answers with why.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Networks that are blocked.
    pub(crate) fn blocked(&self) -> Vec<String> {
        let rows: serde_json::Value = serde_json::from_str(&self.done(&["blocks", "--format", "json"])).unwrap();
        rows.as_array().unwrap().iter().map(|row| row["network"].as_str().unwrap().to_owned()).collect()
    }

    /// Whether the client gets through to the server.
    pub(crate) fn gets_through(&self, server: impl Into<IpAddr>) -> bool {
        let server = SocketAddr::new(server.into(), PORT);
        self.network.client.run(|| TcpStream::connect_timeout(&server, PATIENCE).is_ok())
    }
}
