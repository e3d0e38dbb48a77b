//! The command line.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use serde::Serialize;

use crate::{
    audit::Hash,
    config::{LogFormat, LogLevel},
    replay::Format,
};

/// Counts every packet per API in the kernel and serves the counts to Prometheus.
#[derive(Debug, Parser)]
#[command(name = "tidewaiter", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `run`, which is what is done when no command is named.
    #[command(flatten)]
    pub run: RunArguments,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Account traffic and serve metrics; the default.
    Run(RunArguments),
    /// Validate a configuration and print what it resolves to.
    Check(CheckArguments),
    /// Run the packets of captures through the programs, and print what would have been counted.
    Replay(ReplayArguments),
    /// Remove what a tidewaiter that is gone has left attached and pinned.
    Detach(DetachArguments),
    /// Let nothing in from somewhere, for a while.
    Block(BlockArguments),
    /// Let somebody in again.
    Unblock(UnblockArguments),
    /// List who is not let in.
    Blocks(BlocksArguments),
    /// Switch the guard, at once: also when the configuration is broken, or the exporter hangs.
    Guard(GuardArguments),
    /// Look after the audit log.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Say what this kernel and this user can do, and what to do about what is missing.
    Doctor,
    /// Print the listening sockets for each line on standard input. The daemon runs this for itself.
    #[command(hide = true)]
    Listeners,
}

/// Options of `run`.
#[derive(Clone, Debug, Default, Args)]
pub struct RunArguments {
    /// The configuration file [default: /etc/tidewaiter/tidewaiter.toml, if there is one].
    #[arg(long, value_name = "FILE", env = "TIDEWAITER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Begin at zero, instead of going on from what an exporter before has counted.
    #[arg(long)]
    pub fresh: bool,
    /// What the command line sets over the file and the environment.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// Options of `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArguments {
    /// Captures: pcap or pcapng, either of which may be compressed with gzip.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The configuration file, for its APIs, anomalies and rules; blocks, responses and flows.capacity = 0 are left out
    /// [default: /etc/tidewaiter/tidewaiter.toml, if there is one].
    #[arg(long, value_name = "FILE", env = "TIDEWAITER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Addresses that are this host's, repeatable [default: what receives the SYN, else what has the lower port].
    #[arg(long, value_name = "CIDR", value_parser = parse_network)]
    pub local: Vec<IpNet>,
    /// Print each flow too (not as metrics: those have none).
    #[arg(long)]
    pub flows: bool,
    /// How to print it.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
}

/// Reads a network, or an address, which is a network of one.
fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| "expected an address or a network such as 10.0.0.0/8 or 2001:db8::/32".to_owned())
}

/// Where a running exporter is found.
#[derive(Clone, Debug, Default, Args)]
pub struct TargetArguments {
    /// The configuration file of that tidewaiter [default: /etc/tidewaiter/tidewaiter.toml, if there is one].
    #[arg(long, value_name = "FILE", env = "TIDEWAITER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Its control socket, if it is another than the configuration says.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// Options of `block`.
#[derive(Clone, Debug, Args)]
pub struct BlockArguments {
    /// Whom to block.
    #[arg(value_name = "ADDRESS|PREFIX")]
    pub address: String,
    /// For how long.
    #[arg(long = "for", value_name = "TIME", default_value = "10m")]
    pub period: String,
    /// Why, for whoever lists blocks or reads the audit log.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    /// Whom to ask.
    #[command(flatten)]
    pub target: TargetArguments,
}

/// Options of `unblock`.
#[derive(Clone, Debug, Args)]
pub struct UnblockArguments {
    /// Whom to let in again, as it was blocked.
    #[arg(value_name = "ADDRESS|PREFIX")]
    pub address: String,
    /// Whom to ask.
    #[command(flatten)]
    pub target: TargetArguments,
}

/// Options of `blocks`.
#[derive(Clone, Debug, Args)]
pub struct BlocksArguments {
    /// How to print them.
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: ListFormat,
    /// Whom to ask.
    #[command(flatten)]
    pub target: TargetArguments,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Options of `guard`.
#[derive(Clone, Debug, Args)]
pub struct GuardArguments {
    /// What to do.
    #[arg(value_name = "WHAT")]
    pub what: GuardSwitch,
    /// Whom to ask.
    #[command(flatten)]
    pub target: TargetArguments,
    /// Its folder of the BPF file system, if it is another than the configuration says.
    #[arg(long, value_name = "PATH")]
    pub pin_path: Option<PathBuf>,
}

/// What is done to the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GuardSwitch {
    /// Let everything pass, until it is switched on.
    Off,
    /// Do what the configuration says.
    On,
    /// Say which it is.
    Status,
}

/// What to do with the audit log.
#[derive(Clone, Debug, Subcommand)]
pub enum AuditCommand {
    /// Say whether the lines of an audit log are those that were written, or where they are not.
    Verify(VerifyArguments),
}

/// Options of `audit verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArguments {
    /// The log's file, with which those before it are verified; or some of those by themselves, in order; or the folder.
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The hash that the last line has.
    #[arg(long, value_name = "HASH")]
    pub expect_last: Option<Hash>,
    /// A hash that some line has, repeatable.
    #[arg(long, value_name = "HASH")]
    pub expect: Vec<Hash>,
}

/// Options of `detach`.
#[derive(Clone, Debug, Default, Args)]
pub struct DetachArguments {
    /// The configuration file of that tidewaiter [default: /etc/tidewaiter/tidewaiter.toml, if there is one].
    #[arg(long, value_name = "FILE", env = "TIDEWAITER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Its folder of the BPF file system, if it is another than the configuration says.
    #[arg(long, value_name = "PATH")]
    pub pin_path: Option<PathBuf>,
}

/// Options of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArguments {
    /// The configuration file [default: /etc/tidewaiter/tidewaiter.toml, if there is one].
    #[arg(value_name = "FILE", env = "TIDEWAITER_CONFIG")]
    pub config: Option<PathBuf>,
    /// What the command line sets over the file and the environment.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// What the command line sets over the file and the environment, in the shape of the configuration.
#[derive(Clone, Debug, Default, Serialize, Args)]
pub struct Overrides {
    /// Where HTTP is served [default: 0.0.0.0:9473].
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// The file that says how TLS and passwords are served [default: none, neither is].
    #[arg(long = "web.config.file", alias = "web-config", value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub web_config: Option<PathBuf>,
    /// Name or glob of an interface, repeatable [default: the default route's interfaces and lo].
    #[arg(long = "interface", value_name = "NAME")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<String>,
    /// What is sent to OpenTelemetry collectors.
    #[command(flatten)]
    pub otlp: OtlpOverrides,
    /// How the log is written.
    #[command(flatten)]
    pub log: LogOverrides,
}

/// What the command line sets of what is sent to OpenTelemetry collectors.
#[derive(Clone, Debug, Default, Serialize, Args)]
pub struct OtlpOverrides {
    /// The OpenTelemetry collector that metrics, traces and logs are sent to [default: none, nothing is sent].
    #[arg(long = "otlp-endpoint", value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// What the command line sets of the log.
#[derive(Clone, Copy, Debug, Default, Serialize, Args)]
pub struct LogOverrides {
    /// The least important messages that are written [default: info].
    #[arg(long = "log-level", value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<LogLevel>,
    /// Text, or a JSON object a line [default: text].
    #[arg(long = "log-format", value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<LogFormat>,
}
