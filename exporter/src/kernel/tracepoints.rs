//! Tracepoints: how transmission goes, which packets that pass an interface do not tell.
//!
//! The programs read the kernel's own structures. Where in them is what they read is looked up in the BTF of the running
//! kernel before they are loaded. A kernel that has it not, or refuses them, is no reason not to count the rest.

use std::collections::{BTreeMap, HashMap};

use aya::{
    Btf, Ebpf,
    maps::{MapData, PerCpuHashMap},
    pin::PinError,
    programs::{BtfTracePoint, ProgramError, links::FdLink},
};
use thiserror::Error;
use tidewaiter_common::{
    COUNT_DROP, COUNT_RETRANSMISSION, COUNT_SYNACK_RETRANSMISSION,
    api::ApiSlot,
    transmission::{ApiTransmission, DropKey, KernelLayout},
};
use tracing::warn;

use super::{
    FlowCapacity, GuardCapacity, Kernel, KernelError,
    btf::{BtfError, Types},
    features::Support,
    load_object, namespace_cookie,
    pins::Pins,
    tables::{name, read, write},
};
use crate::chain::chain;

/// What the names of reasons to drop a packet begin with; others of the same enumeration say that it was consumed.
const DROP_REASON: &str = "SKB_DROP_REASON_";
/// Those that are not used as such: how many there are, and which bits say whose they are.
const NO_REASONS: [&str; 2] = ["MAX", "SUBSYS_MASK"];
/// Why packets are dropped, if there was no room to say, or the reason is that of a module.
pub const OTHER_REASON: &str = "other";

/// Packets that were dropped, by API and the name of the reason.
pub type Drops = HashMap<ApiSlot, BTreeMap<String, u64>>;

/// Programs that count one thing, and the tracepoints that they are attached to.
type Group = &'static [(&'static str, &'static str)];

const RETRANSMISSIONS: Group =
    &[(COUNT_RETRANSMISSION, "tcp_retransmit_skb"), (COUNT_SYNACK_RETRANSMISSION, "tcp_retransmit_synack")];
const DROPS: Group = &[(COUNT_DROP, "kfree_skb")];

/// All tracepoints that a program is ever attached to.
pub(super) fn tracepoints() -> impl Iterator<Item = &'static str> {
    [RETRANSMISSIONS, DROPS].into_iter().flatten().map(|(_, tracepoint)| *tracepoint)
}

/// Why something cannot be counted at tracepoints.
#[derive(Debug, Error)]
pub(super) enum TracepointError {
    /// The kernel does not say how it has its structures.
    #[error(transparent)]
    Layout(#[from] BtfError),
    /// It has others than are known here.
    #[error("this kernel's tracepoint {tracepoint} hands over {}", found.join(", "))]
    Parameters {
        /// Which one.
        tracepoint: &'static str,
        /// What it hands over.
        found: Vec<String>,
    },
    /// The kernel would not take a program, or not attach it.
    #[error("the kernel refused the program {program}: {}", chain(source))]
    Refused {
        /// Its name.
        program: &'static str,
        /// Why.
        source: ProgramError,
    },
    /// The object lacks a program.
    #[error("the BPF object has no program {0}: run exporter-ebpf/build")]
    NoProgram(&'static str),
    /// It could not be pinned.
    #[error("cannot pin the tracepoint {tracepoint}: {}", chain(source))]
    Pin {
        /// Which one.
        tracepoint: &'static str,
        /// Why.
        source: PinError,
    },
}

/// How the running kernel has what the programs read.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) layout: KernelLayout,
    /// Whether retransmissions can be counted.
    retransmissions: Result<(), TracepointError>,
    /// Names of the reasons to drop packets, by their numbers, if that can be counted.
    reasons: Result<BTreeMap<u32, String>, TracepointError>,
}

impl Resolved {
    /// Looks it up, for the network namespace with the cookie `namespace`.
    pub(super) fn of_running_kernel(namespace: u64) -> Result<Self, TracepointError> {
        let types = Types::of_running_kernel()?;
        let mut layout = sockets(&types, namespace)?;
        let retransmissions = retransmissions(&types, &mut layout);
        let reasons = drops(&types, &mut layout);
        Ok(Self { layout, retransmissions, reasons })
    }
}

/// What both need.
fn sockets(types: &Types, namespace: u64) -> Result<KernelLayout, BtfError> {
    let socket = |path| types.offset("sock_common", path);
    Ok(KernelLayout {
        namespace,
        net_cookie: types.offset("net", "net_cookie")?,
        socket_net: socket("skc_net.net")?,
        socket_family: socket("skc_family")?,
        socket_local_port: socket("skc_num")?,
        socket_remote_port: socket("skc_dport")?,
        socket_local4: socket("skc_rcv_saddr")?,
        socket_remote4: socket("skc_daddr")?,
        // A kernel without IPv6 has no such socket to read them from.
        socket_local6: socket("skc_v6_rcv_saddr").unwrap_or_default(),
        socket_remote6: socket("skc_v6_daddr").unwrap_or_default(),
        ..KernelLayout::default()
    })
}

fn retransmissions(types: &Types, layout: &mut KernelLayout) -> Result<(), TracepointError> {
    let parameters = expect_parameters(types, "tcp_retransmit_skb", &["sock", "sk_buff"])?;
    layout.retransmission_has_error = u32::from(parameters.get(2).is_some_and(|parameter| parameter == "int"));
    expect_parameters(types, "tcp_retransmit_synack", &["sock", "request_sock"])?;
    // A request begins as a socket does.
    if types.offset("request_sock", "__req_common")? != 0 || types.offset("sock", "__sk_common")? != 0 {
        return Err(BtfError::Missing("sock_common at the beginning of sockets".to_owned()).into());
    }
    // Older ones have it elsewhere, or not at all: then no flow knows of its retransmissions.
    layout.socket_interface = types.offset("sock", "sk_rx_dst_ifindex").unwrap_or_default();
    layout.segments = types.offset("sk_buff", "cb")? + types.offset("tcp_skb_cb", "tcp_gso_segs")?;
    Ok(())
}

fn drops(types: &Types, layout: &mut KernelLayout) -> Result<BTreeMap<u32, String>, TracepointError> {
    let parameters = expect_parameters(types, "kfree_skb", &["sk_buff", "", "skb_drop_reason"])?;
    let buffer = |path| types.offset("sk_buff", path);
    let shared = |path| types.offset("skb_shared_info", path);
    let reasons: BTreeMap<_, _> = types
        .values("skb_drop_reason")?
        .into_iter()
        .filter_map(|(number, name)| {
            let name = name.strip_prefix(DROP_REASON)?;
            (!NO_REASONS.contains(&name)).then(|| (number, name.to_lowercase()))
        })
        .collect();
    let first = reasons.first_key_value().map(|(number, _)| *number);
    *layout = KernelLayout {
        buffer_socket: buffer("sk")?,
        buffer_device: buffer("dev")?,
        buffer_route: buffer("_skb_refdst")?,
        buffer_interface: buffer("skb_iif")?,
        buffer_length: buffer("len")?,
        buffer_head: buffer("head")?,
        buffer_data: buffer("data")?,
        buffer_tail: buffer("tail")?,
        buffer_end: buffer("end")?,
        buffer_network: buffer("network_header")?,
        shared_segment_size: shared("gso_size")?,
        shared_segments: shared("gso_segs")?,
        device_net: types.offset("net_device", "nd_net.net")?,
        route_device: types.offset("dst_entry", "dev")?,
        first_drop_reason: first.ok_or_else(|| BtfError::Missing(format!("{DROP_REASON}…")))?,
        drop_has_socket: u32::from(parameters.get(3).is_some_and(|parameter| parameter == "sock")),
        ..*layout
    };
    Ok(reasons)
}

/// Sees that the tracepoint hands over what is `expected`, and maybe more behind that; answers with all of it.
fn expect_parameters(
    types: &Types,
    tracepoint: &'static str,
    expected: &[&str],
) -> Result<Vec<String>, TracepointError> {
    let found = types.parameters(tracepoint)?;
    let fits = found.len() >= expected.len() && found.iter().zip(expected).all(|(found, expected)| found == expected);
    if fits { Ok(found) } else { Err(TracepointError::Parameters { tracepoint, found }) }
}

/// What is counted at tracepoints.
#[derive(Debug, Default)]
pub(super) struct Tracing {
    retransmissions: bool,
    /// Names of the reasons, by their numbers.
    drops: Option<BTreeMap<u32, String>>,
    /// What keeps programs attached that are not pinned.
    links: Vec<FdLink>,
}

impl Tracing {
    /// Loads and attaches the programs, in the place of those of an exporter before us. What cannot be counted is logged.
    pub(super) fn start(ebpf: &mut Ebpf, resolved: Result<Resolved, TracepointError>, pins: Option<&Pins>) -> Self {
        let mut tracing = Self::default();
        let started = resolved.and_then(|resolved| Ok((resolved, types_for_aya()?)));
        let (Resolved { layout: _, retransmissions, reasons }, btf) = match started {
            Ok(started) => started,
            Err(error) => {
                give_up("retransmitted and dropped packets", &error, &[RETRANSMISSIONS, DROPS].concat(), pins);
                return tracing;
            }
        };
        match retransmissions.and_then(|()| attach(ebpf, RETRANSMISSIONS, &btf, pins)) {
            Ok(links) => {
                tracing.retransmissions = true;
                tracing.links.extend(links);
            }
            Err(error) => give_up("retransmitted packets", &error, RETRANSMISSIONS, pins),
        }
        match reasons.and_then(|reasons| Ok((reasons, attach(ebpf, DROPS, &btf, pins)?))) {
            Ok((reasons, links)) => {
                tracing.drops = Some(reasons);
                tracing.links.extend(links);
            }
            Err(error) => give_up("dropped packets", &error, DROPS, pins),
        }
        tracing
    }

    /// Detaches what is not pinned.
    pub(super) fn stop(&mut self) {
        self.links.clear();
    }
}

/// Says that `what` is not counted, and leaves nothing of an exporter before us counting it.
fn give_up(what: &str, error: &TracepointError, group: &[(&str, &str)], pins: Option<&Pins>) {
    warn!(error = chain(error), "{what} are not counted");
    for (pins, (_, tracepoint)) in pins.iter().flat_map(|pins| group.iter().map(move |one| (pins, one))) {
        pins.detach_tracepoint(tracepoint);
    }
}

/// The kernel's types once more, as the library wants them that loads the programs.
fn types_for_aya() -> Result<Btf, TracepointError> {
    Btf::from_sys_fs().map_err(|source| TracepointError::Refused { program: COUNT_DROP, source: source.into() })
}

/// Loads and attaches the programs of `group`; answers with links that are not pinned.
fn attach(ebpf: &mut Ebpf, group: Group, btf: &Btf, pins: Option<&Pins>) -> Result<Vec<FdLink>, TracepointError> {
    load(ebpf, group, btf)?;
    let mut links = Vec::new();
    for &(program, tracepoint) in group {
        let refused = |source| TracepointError::Refused { program, source };
        let attached = find(ebpf, program)?;
        // Links of tracepoints cannot be given another program. What happens while both are attached is counted twice,
        // rather than not at all: that is as short as the two calls take.
        let id = attached.attach().map_err(refused)?;
        if let Some(pins) = pins {
            pins.detach_tracepoint(tracepoint);
        }
        let link = FdLink::from(attached.take_link(id).map_err(refused)?);
        match pins {
            Some(pins) => {
                link.pin(pins.tracepoint(tracepoint)).map_err(|source| TracepointError::Pin { tracepoint, source })?;
            }
            None => links.push(link),
        }
    }
    Ok(links)
}

fn load(ebpf: &mut Ebpf, group: Group, btf: &Btf) -> Result<(), TracepointError> {
    group.iter().try_for_each(|&(program, tracepoint)| {
        let loaded = find(ebpf, program)?.load(tracepoint, btf);
        loaded.map_err(|source| TracepointError::Refused { program, source })
    })
}

fn find<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut BtfTracePoint, TracepointError> {
    ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or(TracepointError::NoProgram(name))
}

impl Kernel {
    /// Whether segments that are sent again are counted.
    #[must_use]
    pub const fn counts_retransmissions(&self) -> bool {
        self.tracing.retransmissions
    }

    /// What was counted of the transmission of who has `slot`, all CPUs together.
    pub fn api_transmission(&self, slot: ApiSlot) -> Result<ApiTransmission, KernelError> {
        self.add_up(name::API_TRANSMISSION, slot.0)
    }

    /// Packets that were dropped, by API and the name of the reason, all CPUs together; `None` if they are not counted.
    /// (Where there was no room to say the reason is said by [`Kernel::api_transmission`].)
    pub fn drops(&self) -> Result<Option<Drops>, KernelError> {
        let Some(names) = &self.tracing.drops else { return Ok(None) };
        let mut drops = Drops::new();
        for entry in &self.drop_table()? {
            let (DropKey { api, reason, .. }, packets) = entry.map_err(read(name::DROPS))?;
            let reason = names.get(&reason).map_or(OTHER_REASON, String::as_str);
            *drops.entry(api).or_default().entry(reason.to_owned()).or_default() += packets.iter().sum::<u64>();
        }
        Ok(Some(drops))
    }

    fn drop_table(&self) -> Result<PerCpuHashMap<&MapData, DropKey, u64>, KernelError> {
        self.map(name::DROPS)
    }

    /// Makes what was counted of the transmission of `slot` zeros. Nobody may have it.
    pub fn clear_api_transmission(&mut self, slot: ApiSlot) -> Result<(), KernelError> {
        self.clear::<ApiTransmission>(name::API_TRANSMISSION, slot)?;
        let keys = self.drop_table()?.keys().collect::<Result<Vec<_>, _>>().map_err(read(name::DROPS))?;
        let mut drops: PerCpuHashMap<_, DropKey, u64> = self.map_mut(name::DROPS)?;
        for key in keys.iter().filter(|key| key.api == slot) {
            drops.remove(key).map_err(write(name::DROPS))?;
        }
        Ok(())
    }
}

/// Whether what is counted at tracepoints can be, by trying to load the programs, which are not attached.
#[must_use]
pub fn transmission() -> Vec<(&'static str, Support)> {
    let tried = || -> Result<_, KernelError> {
        let resolved = Resolved::of_running_kernel(namespace_cookie()?);
        let layout = resolved.as_ref().ok().map(|resolved| resolved.layout);
        Ok((load_object(None, false, FlowCapacity::NONE, GuardCapacity::default(), &[], layout)?, resolved))
    };
    let (mut ebpf, resolved) = match tried() {
        Ok(tried) => tried,
        Err(error) => return vec![("tracepoints", Support::Unknown(chain(&error)))],
    };
    let (resolved, btf) = match resolved.and_then(|resolved| Ok((resolved, types_for_aya()?))) {
        Ok(resolved) => resolved,
        Err(error) => return vec![("tracepoints", Support::Unknown(chain(&error)))],
    };
    let Resolved { layout: _, retransmissions, reasons } = resolved;
    let retransmissions = retransmissions.and_then(|()| load(&mut ebpf, RETRANSMISSIONS, &btf));
    let drops = reasons.and_then(|_| load(&mut ebpf, DROPS, &btf));
    [("retransmissions", retransmissions), ("drops", drops)]
        .into_iter()
        .map(|(what, result)| (what, result.map_or_else(|error| Support::Unknown(chain(&error)), |()| Support::Yes)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Resolved, tracepoints};
    use tidewaiter_common::transmission::KernelLayout;

    #[test]
    fn the_running_kernel_has_all_that_is_read() {
        let Resolved { layout, retransmissions, reasons } = Resolved::of_running_kernel(7).unwrap();
        retransmissions.unwrap();
        let reasons = reasons.unwrap();
        let number = |name: &str| reasons.iter().find(|(_, found)| *found == name).map(|(number, _)| *number);
        assert!(number("no_socket").is_some() && number("max").is_none(), "{reasons:?}");
        assert_eq!(number("not_specified"), Some(layout.first_drop_reason));

        let KernelLayout { namespace, socket_family, socket_local_port, socket_remote_port, .. } = layout;
        assert_eq!(namespace, 7);
        // Of these the kernel's own comments say that they have not moved since 2.6 (`struct sock_common`).
        assert_eq!((socket_remote_port, socket_local_port, socket_family), (12, 14, 16));
        assert_eq!(tracepoints().count(), 3);
    }
}
