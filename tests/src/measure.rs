//! What benchmarks have in common: how figures are taken, and what of.

use std::{
    env, fmt, fs,
    process::Command,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use rustix::{
    system::uname,
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use crate::command::output;

/// The figure that a tenth of all are below: a shared machine has slow spells, and nothing makes it faster than it is.
#[must_use]
pub fn quick(figures: &[f64]) -> f64 {
    sorted(figures)[figures.len() / 10]
}

/// The figure that half of all are below.
#[must_use]
pub fn median(figures: &[f64]) -> f64 {
    sorted(figures)[figures.len() / 2]
}

fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

/// Prints whether `value` is within its goal. A benchmark that misses one has not failed.
pub fn goal(what: impl fmt::Display, value: f64, limit: f64, unit: &str) {
    let verdict = if value <= limit { "within" } else { "OVER" };
    println!("{what}: {value:.1} {unit}, {verdict} its goal of {limit:.0} {unit}");
}

/// CPU time that this thread has taken: also what the kernel did on its behalf, interrupts among that.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// CPU time that `run` takes of this thread, in milliseconds, and what it answers with.
pub fn cpu_milliseconds<T>(run: impl FnOnce() -> T) -> (f64, T) {
    let before = thread_cpu_time();
    let result = run();
    (thread_cpu_time().saturating_sub(before).as_secs_f64() * 1e3, result)
}

/// CPU time that all threads of a process have taken.
#[must_use]
pub fn process_cpu_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let nanoseconds = threads.filter_map(|thread| {
        // One may have ended meanwhile.
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The process that is the kernel's thread called `name`.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn kernel_thread(name: &str) -> u32 {
    let processes = fs::read_dir("/proc").expect("is mounted");
    let found = processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .find(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|found| found.trim() == name));
    found.unwrap_or_else(|| panic!("no {name}"))
}

/// A line of `/proc/PID/status` in MiB.
#[must_use]
pub fn memory(pid: u32, line: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    let kilobytes = value.and_then(|value| value.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or_else(|| panic!("no {line}")) / 1024.0
}

/// Keeps this thread on one CPU.
pub fn stay_on(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu % available_parallelism().expect("is known").get());
    sched_setaffinity(None, &cpus).expect("is permitted");
}

/// How the benchmark, and with it the daemon, was built.
pub const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// Prints what everything runs on.
pub fn print_machine() {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map_or("unknown", |(_, value)| value.trim())
    };
    let is_virtual = field("flags").split(' ').any(|flag| flag == "hypervisor");
    let machine = if is_virtual { "a virtual machine" } else { "no virtual machine" };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory =
        memory.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<f64>().ok()).unwrap_or_default();
    let cpus = available_parallelism().expect("is known");
    let kernel = uname();
    let compiler = output(Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("--version"));
    println!(
        "{} (family {}, model {}), {cpus} CPUs, {:.0} GiB, {machine}",
        field("model name"),
        field("cpu family"),
        field("model"),
        memory / 1024.0 / 1024.0
    );
    println!(
        "Linux {}, tidewaiter {} ({PROFILE}), {}",
        kernel.release().to_string_lossy(),
        env!("CARGO_PKG_VERSION"),
        compiler.trim()
    );
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load average before: {}", load.split(' ').next().unwrap_or_default());
}

/// How long `run` takes, in seconds.
pub fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}
