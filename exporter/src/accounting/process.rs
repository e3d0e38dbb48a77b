//! The exporter's own use of the machine, from `/proc/self`.

use std::time::{Duration, UNIX_EPOCH};

use procfs::{CurrentSI as _, KernelStats, ProcError, WithCurrentSystemInfo as _, process::Process};

use crate::snapshot::ProcessSnapshot;

pub(super) fn snapshot() -> Result<ProcessSnapshot, ProcError> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let ticks_per_second = procfs::ticks_per_second();
    let seconds = |ticks: u64| Duration::from_millis(ticks.saturating_mul(1000) / ticks_per_second);
    let boot = Duration::from_secs(KernelStats::current()?.btime);
    Ok(ProcessSnapshot {
        cpu: seconds(stat.utime + stat.stime),
        resident: stat.rss_bytes().get(),
        open_files: process.fd_count().ok().map(|count| count as u64),
        started: UNIX_EPOCH + boot + seconds(stat.starttime),
    })
}
