//! The command `tidewaiter`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use tidewaiter::{
    audit::verify::{self, Expected},
    capabilities::{self, CapabilityError},
    chain::chain,
    check,
    cli::{
        AuditCommand, BlockArguments, BlocksArguments, CheckArguments, Cli, Command, DetachArguments, GuardArguments,
        GuardSwitch, ListFormat, Overrides, ReplayArguments, RunArguments, TargetArguments, UnblockArguments,
        VerifyArguments,
    },
    config::{ApiSource, Configuration, InterfaceSelection, Log, LogLevel, error::ConfigurationError},
    control::command::{self, Switched, Target},
    daemon::{
        self, DaemonError,
        reload::{Renewal, Source},
    },
    discovery::helper,
    doctor::{self, Verdict},
    http::{Access, AccessError},
    interfaces::{Follower, Links, runs_xdp},
    kernel::{namespace_cookie, pins::Pins},
    logging,
    otlp::OtlpError,
    replay::{Format, Replay, ReplayError},
};
use tokio::runtime::{Builder, Runtime};

/// Failed at run time.
const FAILED: u8 = 1;
/// Not permitted (`EX_NOPERM`, `sysexits.h`).
const NOT_PERMITTED: u8 = 77;
/// Bad configuration (`EX_CONFIG`, `sysexits.h`).
const BAD_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let Cli { command, run } = Cli::parse();
    let result = match command.unwrap_or(Command::Run(run)) {
        Command::Run(arguments) => self::run(&arguments),
        Command::Check(arguments) => check(&arguments),
        Command::Replay(arguments) => replay(arguments),
        Command::Detach(arguments) => detach(arguments),
        Command::Block(arguments) => block(arguments),
        Command::Unblock(arguments) => unblock(arguments),
        Command::Blocks(arguments) => blocks(arguments),
        Command::Guard(arguments) => guard(arguments),
        Command::Audit(AuditCommand::Verify(arguments)) => verify(arguments),
        Command::Doctor => doctor(),
        Command::Listeners => helper::serve().map(|()| ExitCode::SUCCESS).map_err(anyhow::Error::from),
    };
    result.unwrap_or_else(|error| {
        eprintln!("tidewaiter: {}", chain(error.as_ref()));
        exit_code(&error)
    })
}

fn run(RunArguments { config, fresh, overrides }: &RunArguments) -> anyhow::Result<ExitCode> {
    let source = Source { file: config.clone(), overrides: overrides.clone() };
    // What is read anew later has to be readable by what is kept.
    let (configuration, files) = capabilities::with_only(&capabilities::KEPT, || source.load())?;
    let configuration = configuration?;
    let level = logging::start(configuration.log);
    runtime()?.block_on(daemon::run(configuration, *fresh, Renewal { source, files, level }))?;
    Ok(ExitCode::SUCCESS)
}

fn check(CheckArguments { config, overrides }: &CheckArguments) -> anyhow::Result<ExitCode> {
    let load = || Configuration::load(config.as_deref(), overrides);
    let configuration = capabilities::with_only(&capabilities::KEPT, load)??;
    let links = links()?;
    links.validate(&configuration.interfaces)?;
    let access = Access::open(&configuration)?;
    print(&check::describe(&configuration, &links, &access)?)
}

fn replay(arguments: ReplayArguments) -> anyhow::Result<ExitCode> {
    let ReplayArguments { files, config, local, flows, format } = arguments;
    if flows && format == Format::Prometheus {
        let message = "--flows cannot be used with --format prometheus: flows are no metrics";
        Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
    let configuration = Configuration::load(config.as_deref(), &Overrides::default())?;
    logging::start(Log { level: LogLevel::Warn, ..configuration.log });
    let apis = match configuration.apis {
        ApiSource::Configured(apis) => apis,
        // A capture has no listening sockets.
        ApiSource::Discovered(_) => {
            eprintln!("tidewaiter: no [[api]] is configured: all traffic is \"unmapped\"");
            Vec::new()
        }
    };
    let Configuration { anomalies, guard, .. } = configuration;
    let outcome = Replay { files, local, apis, anomalies, guard }.run()?;
    let failures: Vec<_> = outcome.failures.iter().map(|failure| chain(failure)).collect();
    let left_out = outcome.left_out();
    print(&outcome.report(format, flows)?)?;
    if let Some(left_out) = left_out {
        eprintln!("tidewaiter: {left_out}");
    }
    for failure in &failures {
        eprintln!("tidewaiter: {failure}");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn detach(DetachArguments { config, pin_path }: DetachArguments) -> anyhow::Result<ExitCode> {
    let configuration = Configuration::load(config.as_deref(), &Overrides::default())?;
    logging::start(configuration.log);
    let namespace = namespace_cookie()?;
    let path = pin_path.or(configuration.pin_path).unwrap_or_else(|| Pins::default_path(namespace));
    match Pins::open_existing(&path)? {
        Some(pins) => {
            pins.require_namespace(namespace)?;
            pins.remove()?;
        }
        None => print(&format!("nothing is pinned in {}\n", path.display())).map(drop)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn target(TargetArguments { config, socket }: TargetArguments) -> anyhow::Result<Target> {
    Ok(Target::find(config.as_deref(), socket, None)?)
}

fn block(BlockArguments { address, period, reason, target }: BlockArguments) -> anyhow::Result<ExitCode> {
    print(&command::block(&self::target(target)?, address, period, reason)?)
}

fn unblock(UnblockArguments { address, target }: UnblockArguments) -> anyhow::Result<ExitCode> {
    print(&command::unblock(&self::target(target)?, address)?)
}

fn blocks(BlocksArguments { format, target }: BlocksArguments) -> anyhow::Result<ExitCode> {
    let rows = command::blocks(&self::target(target)?)?;
    match format {
        ListFormat::Table => print(&command::table(&rows)),
        ListFormat::Json => print(&(serde_json::to_string(&rows)? + "\n")),
    }
}

fn guard(GuardArguments { what, target, pin_path }: GuardArguments) -> anyhow::Result<ExitCode> {
    let target = Target::find(target.config.as_deref(), target.socket, pin_path)?;
    let on = match what {
        GuardSwitch::Status => return print(&command::status(&target)?),
        GuardSwitch::On => true,
        GuardSwitch::Off => false,
    };
    let Switched { text, is_done } = command::switch(&target, on);
    print(&text)?;
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

fn verify(VerifyArguments { files, expect_last, expect }: VerifyArguments) -> anyhow::Result<ExitCode> {
    let verified = verify::verify_log(&files, Expected { last: expect_last, any: expect })?;
    print(&verified.to_string())
}

fn doctor() -> anyhow::Result<ExitCode> {
    let links = links();
    let accounted = links.as_ref().map(|links| links.select(&InterfaceSelection::Default)).unwrap_or_default();
    let xdp = runtime()?.block_on(runs_xdp(&accounted));
    let findings = doctor::examine(links.as_ref().map_err(AsRef::as_ref), xdp.as_ref());
    let blocked = findings.iter().any(|finding| finding.verdict == Verdict::Blocking);
    let text: Vec<_> = findings.iter().map(ToString::to_string).collect();
    print(&(text.join("\n") + "\n"))?;
    Ok(if blocked { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
}

/// Prints `text`; a reader that had enough is no failure.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The interfaces of this host.
fn links() -> anyhow::Result<Links> {
    runtime()?.block_on(async { Ok(Follower::new()?.links().await?) })
}

/// A runtime of this thread alone: it must be the only one when capabilities are given up, and one is enough.
fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let daemon = error.downcast_ref::<DaemonError>();
    let replay = error.downcast_ref::<ReplayError>();
    let is_configuration = error.is::<ConfigurationError>()
        || matches!(error.downcast_ref(), Some(AccessError::Configuration(_)))
        || matches!(
            daemon,
            Some(
                DaemonError::Configuration(_)
                    | DaemonError::Access(AccessError::Configuration(_))
                    | DaemonError::Otlp(OtlpError::Tls(_))
            )
        )
        || matches!(daemon, Some(DaemonError::Audit(error)) if error.is_configuration());
    let is_permission = match (daemon, replay) {
        (Some(DaemonError::Capability(CapabilityError::Missing(_))), _)
        | (_, Some(ReplayError::Capability(CapabilityError::Missing(_)))) => true,
        // Capabilities of another user namespace than the first are no good for BPF.
        (Some(DaemonError::Kernel(error)), _) | (_, Some(ReplayError::Kernel(error))) => error.is_not_permitted(),
        _ => false,
    };
    ExitCode::from(match (is_configuration, is_permission) {
        (true, _) => BAD_CONFIGURATION,
        (_, true) => NOT_PERMITTED,
        _ => FAILED,
    })
}
