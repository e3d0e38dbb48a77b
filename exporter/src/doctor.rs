//! `tidewaiter doctor`: what this kernel and this user can do, and what to do about what is missing.

mod guard;

use std::{collections::BTreeMap, env::consts::ARCH, error::Error, fmt};

use caps::Capability;
use tidewaiter_common::direction::Direction;

use crate::{
    capabilities::{self, purpose},
    chain::chain,
    config::InterfaceSelection,
    interfaces::{Interface, Links},
    kernel::features::{self, Support},
};

/// The oldest supported kernel of each architecture: atomics of BPF's instruction set v3 came to arm64 with 5.18.
const OLDEST_KERNELS: [(&str, (u32, u32)); 2] = [("x86_64", (5, 15)), ("aarch64", (5, 18))];

/// Whether something stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be.
    Good,
    /// It is missing or unknown, and something is lost without it.
    Lacking,
    /// It is missing, and nothing goes without it.
    Blocking,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, and what to do about it.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, verdict, text } = self;
        let mark = match verdict {
            Verdict::Good => "ok",
            Verdict::Lacking => "lacking",
            Verdict::Blocking => "MISSING",
        };
        write!(formatter, "{mark:<8} {what:<24} {text}")
    }
}

/// All findings, most basic first; `links` are the interfaces, or why they cannot be listed, and `xdp` says which of them have drivers
/// that run programs of XDP, if the kernel does.
#[must_use]
pub fn examine(links: Result<&Links, &(dyn Error + 'static)>, xdp: Option<&BTreeMap<u32, bool>>) -> Vec<Finding> {
    let mut findings = vec![
        kernel_version(),
        feature(
            "TC programs",
            features::tc(),
            Verdict::Blocking,
            "packets can be accounted",
            "no packet can be accounted: a kernel with CONFIG_NET_CLS_BPF and CONFIG_BPF_SYSCALL is needed",
        ),
        feature(
            "TCX",
            features::tcx(),
            Verdict::Lacking,
            "programs share their hooks, and one takes the place of another in one step",
            "programs are attached as clsact filters instead; TCX came with Linux 6.6",
        ),
        feature(
            "XDP programs",
            features::xdp(),
            Verdict::Lacking,
            "the guard can judge frames before the kernel makes anything of them",
            "the guard judges all packets in TC: a kernel with CONFIG_BPF_SYSCALL is needed",
        ),
        feature(
            "ring buffer",
            features::ring_buffer(),
            Verdict::Blocking,
            "the kernel side tells of flows and anomalies by itself",
            "the kernel side cannot be loaded: Linux 5.8 or later is needed",
        ),
        feature(
            "BTF",
            features::btf(),
            Verdict::Lacking,
            "the kernel says how its structures are laid out, which tracepoints need",
            "retransmissions and drops are not counted: a kernel with CONFIG_DEBUG_INFO_BTF is needed",
        ),
        feature(
            "BPF file system",
            features::bpf_file_system(),
            Verdict::Lacking,
            "counters survive the exporter, however that ends",
            "counters are lost with the exporter, and persist = true is refused; to mount it: mount -t bpf bpf /sys/fs/bpf",
        ),
    ];
    findings.extend(features::transmission().into_iter().map(|(what, support)| {
        feature(what, support, Verdict::Lacking, "counted for each API, at tracepoints", "not counted")
    }));
    let capabilities = [
        (Capability::CAP_BPF, Verdict::Blocking),
        (Capability::CAP_NET_ADMIN, Verdict::Blocking),
        (Capability::CAP_PERFMON, Verdict::Blocking),
        (Capability::CAP_SYS_PTRACE, Verdict::Lacking),
        (Capability::CAP_DAC_READ_SEARCH, Verdict::Lacking),
    ];
    findings.extend(capabilities.map(|(capability, without)| self::capability(capability, without)));
    match links {
        Ok(links) => {
            let accounted = links.select(&InterfaceSelection::Default);
            findings.extend(accounted.iter().map(|interface| coverage(links, interface)));
            findings.extend(accounted.iter().map(|interface| guard::place(links, interface, xdp)));
        }
        Err(error) => {
            findings.push(Finding { what: "coverage".to_owned(), verdict: Verdict::Lacking, text: chain(error) });
        }
    }
    findings.extend(guard::paths());
    findings
}

/// Whether the exporter's counts can be held against those of the kernel.
fn coverage(links: &Links, interface: &Interface) -> Finding {
    let units = links.units(interface);
    let verdict = if units.iter().all(Result::is_ok) { Verdict::Good } else { Verdict::Lacking };
    let device = links.device(interface);
    let texts = Direction::ALL.into_iter().zip(units).map(|(direction, unit)| {
        let text = match unit {
            Ok(unit) => unit.as_str().to_owned(),
            Err(unknown) => {
                let advice = unknown.advice(&interface.name, &device).map(|advice| format!(" (to know: {advice})"));
                format!("unknown while super-packets pass, as {unknown}{}", advice.unwrap_or_default())
            }
        };
        format!("{}: {text}", direction.as_str())
    });
    Finding { what: format!("coverage {}", interface.name), verdict, text: texts.collect::<Vec<_>>().join(", ") }
}

fn kernel_version() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let oldest = OLDEST_KERNELS.iter().find(|(arch, _)| *arch == ARCH).map(|(_, oldest)| *oldest);
    let (verdict, text) = match (version(&release), oldest) {
        (Some(found), Some(oldest)) if found >= oldest => (Verdict::Good, format!("{release} on {ARCH}")),
        (Some(_), Some((major, minor))) => {
            (Verdict::Blocking, format!("{release} on {ARCH}: Linux {major}.{minor} or later is needed"))
        }
        (None, _) => (Verdict::Lacking, format!("{release} on {ARCH}: cannot tell how old that is")),
        (_, None) => (Verdict::Lacking, format!("{release} on {ARCH}: this architecture was never tried")),
    };
    Finding { what: "kernel".to_owned(), verdict, text }
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn feature(what: &str, support: Support, without: Verdict, good: &str, advice: &str) -> Finding {
    let (verdict, text) = match support {
        Support::Yes => (Verdict::Good, good.to_owned()),
        Support::No => (without, advice.to_owned()),
        Support::Unknown(why) => (Verdict::Lacking, format!("the kernel would not say: {why}")),
    };
    Finding { what: what.to_owned(), verdict, text }
}

fn capability(capability: Capability, without: Verdict) -> Finding {
    let purpose = purpose(capability);
    let (verdict, text) = match capabilities::is_effective(capability) {
        Ok(true) => (Verdict::Good, purpose.to_owned()),
        Ok(false) => (without, format!("{purpose}; {}", capabilities::how_to_grant(capability))),
        Err(error) => (Verdict::Lacking, error.to_string()),
    };
    Finding { what: capability.to_string(), verdict, text }
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn the_version_is_read_from_the_release() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert_eq!(version("5.4.0-rc1+"), Some((5, 4)));
        assert_eq!(version("linux"), None);
    }
}
