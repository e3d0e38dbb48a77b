//! What the packet counters of a device count.
//!
//! A socket buffer may be a super-packet of many packets of the wire. Our programs count both; a device counts one or
//! the other. Which one follows from where the counting stands in the kernel, beside where super-packets are taken apart
//! or put together:
//!
//! * transmit: our hook (`sch_handle_egress`, `net/core/dev.c`) → the queueing discipline → `validate_xmit_skb` takes
//!   apart what the device has no feature for → the driver counts;
//! * receive: the driver counts → `napi_gro_receive` merges, if `rx-gro` is on and the driver calls it → our hook
//!   (`sch_handle_ingress`).

use thiserror::Error;
use tidewaiter_common::{direction::Direction, interface::InterfaceTotals};

use super::{
    LinkLayer,
    device::{Device, Offload, SuperPackets},
};

/// Queueing disciplines that take super-packets apart, or may: the callers of `skb_gso_segment` in `net/sched/sch_*.c`.
/// Measured with tbf, whose bucket held no super-packet.
const SPLITTING: [&str; 5] = ["cake", "dualpi2", "netem", "taprio", "tbf"];

/// What a device counts as one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A packet as it is on the wire.
    Segments,
    /// A socket buffer, of which a super-packet is one.
    Buffers,
}

/// Why it is not known what a device counts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unknown {
    /// The kernel has no ethtool netlink, which came with Linux 5.6.
    #[error("the kernel does not say which of its offloads are on")]
    Offload,
    /// The driver may count either.
    #[error("it is not known which its driver ({driver}) counts")]
    Driver {
        /// The kind of the device, or the bus that it is on.
        driver: String,
        /// Features without which there would be no super-packets to count.
        features: Vec<&'static str>,
    },
    /// The device gets some super-packets whole and others taken apart; which passed was not counted.
    #[error("it gets some super-packets whole ({}) and others taken apart, for want of {}", .on.join(", "), .off.join(", "))]
    Mixed {
        /// Features by which it takes super-packets.
        on: Vec<&'static str>,
        /// Features that it would need to take all.
        off: Vec<&'static str>,
    },
    /// The stack merges packets after the driver has counted them.
    #[error("packets may be merged (rx-gro) after they were counted")]
    Merged,
    /// A queueing discipline takes super-packets apart, or only some.
    #[error("its queueing discipline {0} may take super-packets apart")]
    Queue(String),
}

impl Unit {
    /// What it is called in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Segments => "segments",
            Self::Buffers => "buffers",
        }
    }
}

impl Unknown {
    /// What can be done about it on the interface called `name`, which is `device`, if anything can. What takes work from
    /// the device costs CPU time.
    #[must_use]
    pub fn advice(&self, name: &str, device: &Device) -> Option<String> {
        let switch = |features: &[&str], to: &str| {
            let is_possible = device.offload.as_ref().is_some_and(|offload| offload.can_change(features));
            let switches: Vec<_> = features.iter().map(|feature| format!("{feature} {to}")).collect();
            is_possible.then(|| format!("ethtool -K {name} {}", switches.join(" ")))
        };
        match self {
            Self::Offload => Some("Linux 5.6 or later with CONFIG_ETHTOOL_NETLINK says".to_owned()),
            Self::Driver { features, .. } => switch(features, "off"),
            Self::Mixed { on, off } => switch(off, "on").or_else(|| switch(on, "off")),
            Self::Merged => switch(&["rx-gro"], "off"),
            Self::Queue(_) => None,
        }
    }
}

/// A driver of which it is known that it counts socket buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    /// What it counts as received may be merged before our programs see it.
    Merging,
    /// What it counts as received is what our programs see.
    Plain,
}

/// What a device counts in `direction`.
pub(super) fn unit(link_layer: LinkLayer, device: &Device, direction: Direction) -> Result<Unit, Unknown> {
    match direction {
        Direction::Receive => receive(link_layer, device),
        Direction::Transmit => transmit(link_layer, device),
    }
}

/// Our packets for each of the kernel's, if that is known: both are since the same moment, in one direction.
///
/// Where no super-packet has passed, packets and buffers are the same, and any unit will do. There is no ratio to no
/// packets, but for none to none, which is complete.
#[must_use]
pub fn coverage(unit: Option<Unit>, ours: InterfaceTotals, kernel_packets: u64) -> Option<f64> {
    let packets = match unit {
        _ if ours.wire.packets == ours.buffers => ours.buffers,
        Some(Unit::Segments) => ours.wire.packets,
        Some(Unit::Buffers) => ours.buffers,
        None => return None,
    };
    #[expect(clippy::cast_precision_loss, reason = "a ratio to 15 digits is enough")]
    match (packets, kernel_packets) {
        (0, 0) => Some(1.0),
        (_, 0) => None,
        (packets, kernel_packets) => Some(packets as f64 / kernel_packets as f64),
    }
}

/// Whether a device counts each frame as received that reaches a program of XDP, also one that this then drops; and gives it no
/// super-packets.
pub(super) fn counts_frames(device: &Device) -> bool {
    // `veth_xdp_rcv` (`drivers/net/veth.c`) counts all that it has taken, and `veth_xdp_set` takes the other end's features
    // that let it send super-packets; measured. `virtnet_receive` (`drivers/net/virtio_net.c`) counts each that it was given,
    // and `virtnet_xdp_set` has the host take them apart; from the source.
    matches!(device.driver(), Some("veth" | "virtio"))
}

/// The drivers that count socket buffers, each with the function that does.
fn driver(link_layer: LinkLayer, device: &Device) -> Option<Driver> {
    if link_layer == LinkLayer::Loopback {
        // `loopback_xmit` counts for both directions (`drivers/net/loopback.c`), and nothing merges behind it.
        // Measured.
        return Some(Driver::Plain);
    }
    match device.driver()? {
        // `veth_get_stats64` (`drivers/net/veth.c`) adds what `veth_xmit` and `veth_xdp_rcv` counted, one for each
        // buffer that the sending end handed over; what is received is what the PEER sent, whose offloads do not matter
        // then. `veth_poll` merges, if rx-gro is on, behind that. Measured.
        "veth"
        // `tun_put_user` and `tun_get_user` (`drivers/net/tun.c`) count each buffer that the user process reads or
        // writes. Behind the latter there is merging with IFF_NAPI alone, which cannot be seen from here. Measured.
        | "tun"
        // `free_old_xmit` and `virtnet_receive` (`drivers/net/virtio_net.c`) count each buffer that was handed to the
        // host or came from it; rx-gro-hw is merging by the host, before that. From the source.
        | "virtio" => Some(Driver::Merging),
        // `br_dev_xmit` (`net/bridge/br_device.c`) and `br_pass_frame_up` (`net/bridge/br_input.c`); what merges does
        // so at the ports. Measured.
        "bridge"
        // `vlan_dev_hard_start_xmit` (`net/8021q/vlan_dev.c`) and `vlan_do_receive` (`net/8021q/vlan_core.c`); what
        // merges does so at the parent. From the source.
        | "vlan" => Some(Driver::Plain),
        _ => None,
    }
}

fn unknown_driver(device: &Device, features: Vec<&'static str>) -> Unknown {
    Unknown::Driver { driver: device.driver().unwrap_or("of no kind and no bus").to_owned(), features }
}

fn transmit(link_layer: LinkLayer, device: &Device) -> Result<Unit, Unknown> {
    let offload = device.offload.as_ref().ok_or(Unknown::Offload)?;
    match offload.super_packets() {
        // `validate_xmit_skb` takes apart every super-packet before the driver gets it, whichever that is. Measured
        // with veth, tun and lo.
        SuperPackets::None => return Ok(Unit::Segments),
        _ if driver(link_layer, device).is_none() => return Err(unknown_driver(device, offload.taken())),
        SuperPackets::Some { on, off } => return Err(Unknown::Mixed { on, off }),
        SuperPackets::All => {}
    }
    match device.qdiscs.iter().find(|qdisc| SPLITTING.contains(&qdisc.as_str())) {
        Some(qdisc) => Err(Unknown::Queue(qdisc.clone())),
        None => Ok(Unit::Buffers),
    }
}

fn receive(link_layer: LinkLayer, device: &Device) -> Result<Unit, Unknown> {
    let offload = device.offload.as_ref();
    match driver(link_layer, device) {
        Some(Driver::Merging) if offload.ok_or(Unknown::Offload)?.stack_merges() => Err(Unknown::Merged),
        Some(Driver::Merging | Driver::Plain) => Ok(Unit::Buffers),
        None => Err(unknown_driver(device, offload.map(Offload::merging).unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use tidewaiter_common::direction::Direction;

    use super::{Device, LinkLayer, Offload, Unit, Unknown, unit};

    const TCP: &str = "tx-tcp-segmentation";
    const ALL: [&str; 5] =
        [TCP, "tx-tcp6-segmentation", "tx-udp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation"];

    fn device(kind: Option<&str>, bus: Option<&str>, on: &[&str]) -> Device {
        Device {
            kind: kind.map(str::to_owned),
            bus: bus.map(str::to_owned),
            offload: Some(Offload::new(on, &[TCP, "rx-gro"])),
            ..Device::default()
        }
    }

    fn units(device: &Device) -> [Result<Unit, Unknown>; Direction::COUNT] {
        Direction::ALL.map(|direction| unit(LinkLayer::Ethernet, device, direction))
    }

    #[test]
    fn hardware_is_known_only_where_it_transmits_no_super_packets() {
        let unknown = |features| Err(Unknown::Driver { driver: "pci".to_owned(), features });
        let hardware = |on: &[&str]| units(&device(None, Some("pci"), on));
        assert_eq!(hardware(&[]), [unknown(vec![]), Ok(Unit::Segments)]);
        assert_eq!(hardware(&["rx-gro", TCP]), [unknown(vec!["rx-gro"]), unknown(vec![TCP])]);
        assert_eq!(
            units(&device(Some("bond"), None, &[]))[0].as_ref().unwrap_err().to_string(),
            "it is not known which its driver (bond) counts"
        );
    }

    #[test]
    fn a_virtio_device_counts_the_buffers_that_it_exchanges_with_the_host() {
        let virtio = |on: &[&str]| units(&device(None, Some("virtio"), on));
        assert_eq!(virtio(&ALL), [Ok(Unit::Buffers), Ok(Unit::Buffers)]);
        assert_eq!(virtio(&["rx-gro-hw"]), [Ok(Unit::Buffers), Ok(Unit::Segments)]);
        let [receive, transmit] = virtio(&[TCP, "rx-gro"]);
        assert_eq!(receive, Err(Unknown::Merged));
        assert!(matches!(transmit, Err(Unknown::Mixed { .. })));
    }

    #[test]
    fn where_the_kernel_says_nothing_most_is_unknown() {
        let silent = |kind: &str| Device { kind: Some(kind.to_owned()), ..Device::default() };
        assert_eq!(units(&silent("veth")), [Err(Unknown::Offload), Err(Unknown::Offload)]);
        assert_eq!(units(&silent("bridge")), [Ok(Unit::Buffers), Err(Unknown::Offload)]);
        let receive = unit(LinkLayer::Loopback, &Device::default(), Direction::Receive);
        assert_eq!(receive, Ok(Unit::Buffers));
    }

    #[test]
    fn a_queueing_discipline_matters_only_to_super_packets_that_reach_it() {
        let with_cake = |on: &[&str]| {
            let device = device(Some("veth"), None, on);
            units(&Device { qdiscs: ["clsact", "cake"].map(str::to_owned).into(), ..device })[1].clone()
        };
        assert_eq!(with_cake(&ALL), Err(Unknown::Queue("cake".to_owned())));
        assert_eq!(with_cake(&[]), Ok(Unit::Segments));
    }

    #[test]
    fn nothing_is_advised_that_the_device_refuses() {
        let device = device(Some("veth"), None, &[]);
        let advice = |on: &[&'static str], off: &[&'static str]| {
            Unknown::Mixed { on: on.to_vec(), off: off.to_vec() }.advice("eth0", &device)
        };
        assert_eq!(advice(&["rx-gro"], &[TCP]).as_deref(), Some("ethtool -K eth0 tx-tcp-segmentation on"));
        assert_eq!(advice(&[TCP], &["rx-lro"]).as_deref(), Some("ethtool -K eth0 tx-tcp-segmentation off"));
        assert_eq!(advice(&["rx-lro"], &["rx-lro"]), None);
        assert_eq!(Unknown::Merged.advice("eth0", &device).as_deref(), Some("ethtool -K eth0 rx-gro off"));
        assert_eq!(Unknown::Queue("cake".to_owned()).advice("eth0", &device), None);
    }
}
