//! Running other programs.

use std::{
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(3);
/// Time between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs `command` to its end, which must be a success, and answers with its standard output.
pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// As [`output`], for a command that is written as one line of words.
#[allow(clippy::must_use_candidate, reason = "most commands are run for what they do")]
pub fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    output(Command::new(words.next().expect("a command")).args(words))
}

/// A process that is ended when it is dropped.
#[derive(Debug)]
pub struct Process(pub Child);

impl Process {
    /// Starts `command` without input.
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) {
        self.try_signal(signal).expect("the process is there");
    }

    fn try_signal(&self, signal: Signal) -> rustix::io::Result<()> {
        kill_process(Pid::from_child(&self.0), signal)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself. What is asked to end takes its own children along; what will not is made to.
        self.try_signal(Signal::TERM).ok();
        let start = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) {
            if start.elapsed() > GRACE {
                self.try_signal(Signal::KILL).ok();
            }
            sleep(PAUSE);
        }
    }
}
