//! Network namespaces.

use std::{
    fs::File,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use std::os::fd::AsFd as _;

use crate::command::run;

/// Makes names unique within this process.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with its own loopback interface, up. It is removed when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one.
    #[must_use]
    pub fn new() -> Self {
        let namespace =
            Self { name: format!("tidewaiter-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)) };
        run(&format!("ip netns add {}", namespace.name));
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` on it, which must succeed, and answers with what that prints.
    #[allow(clippy::must_use_candidate, reason = "most commands are run for what they do")]
    pub fn ip(&self, arguments: &str) -> String {
        run(&format!("ip -netns {} {arguments}", self.name))
    }

    /// What `ip` says of the interface called `name`: `ifindex`, `address`, `stats64` and others.
    #[must_use]
    pub fn link(&self, name: &str) -> Value {
        let links = self.ip(&format!("-s -s -j link show {name}"));
        let [link] = serde_json::from_str(&links).expect("ip writes JSON");
        link
    }

    /// The index of the interface called `name`.
    #[must_use]
    pub fn index(&self, name: &str) -> u32 {
        self.link(name)["ifindex"].as_u64().and_then(|index| index.try_into().ok()).expect("an index")
    }

    /// A command that runs `program` in it. Other than `ip netns exec`, this hides no file system.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command
    }

    /// Runs `inside` on a thread in it, and waits for that to end.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).expect("the namespace is there");
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("is permitted");
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A second panic would hide the first.
        if thread::panicking() {
            Command::new("ip").args(["netns", "del", &self.name]).status().ok();
        } else {
            run(&format!("ip netns del {}", self.name));
        }
    }
}
