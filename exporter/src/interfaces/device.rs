//! What a device is, as far as that decides what its packet counters count.

use std::collections::BTreeSet;

/// Segmentation features by which a device takes super-packets of one kind each. Those of tunnels say nothing by
/// themselves: a super-packet in a tunnel needs one of these as well (`net_gso_ok`, `include/linux/netdevice.h`).
const KINDS: [&str; 5] = [
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
    "tx-sctp-segmentation",
    "tx-fcoe-segmentation",
];
/// Those that must be on for every super-packet that TCP and UDP sockets, or merging on receipt, bring about to be
/// taken whole. (SCTP, `FCoE`, accurate ECN and super-packets of tunnels are left aside: they are rare, and few devices
/// take them.)
const USUAL: [&str; 5] = [
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
];
/// Features by which packets are merged that are received: by the stack, by the driver, by the device.
const MERGING: [&str; 3] = ["rx-gro", "rx-lro", "rx-gro-hw"];

/// What a device is.
///
/// It is kept apart from [`super::Interface`], because an interface whose offloads change is still the same one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its kind, as `ip link add … type` has it; hardware and the loopback interface have none.
    pub kind: Option<String>,
    /// The bus that it is on, such as "pci" or "virtio", if it is on one.
    pub bus: Option<String>,
    /// Kinds of the queueing disciplines that packets pass on their way to it.
    pub qdiscs: BTreeSet<String>,
    /// Which of its offloads are on; `None` where the kernel does not say.
    pub offload: Option<Offload>,
}

/// Which offloads of a device are on, of those that make, take or take apart super-packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    on: BTreeSet<String>,
    changeable: BTreeSet<String>,
}

/// Which super-packets a device takes whole. The stack takes the others apart before the device gets them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SuperPackets {
    /// None of any kind.
    None,
    /// All of the usual kinds.
    All,
    /// Some kinds and not others.
    Some {
        /// Features that are on.
        on: Vec<&'static str>,
        /// Features that are off.
        off: Vec<&'static str>,
    },
}

impl Device {
    /// What tells its driver: its kind, or the bus that it is on.
    pub(super) fn driver(&self) -> Option<&str> {
        self.kind.as_deref().or(self.bus.as_deref())
    }
}

impl Offload {
    /// Takes what matters here from the names of all features that are on, and of all that can be changed.
    #[must_use]
    pub fn new(on: &[&str], changeable: &[&str]) -> Self {
        let matters = |feature: &&str| [&KINDS[..], &USUAL, &MERGING].concat().contains(feature);
        let pick = |features: &[&str]| features.iter().copied().filter(matters).map(str::to_owned).collect();
        Self { on: pick(on), changeable: pick(changeable) }
    }

    /// Whether all of `features`, of which there must be some, can be turned on and off.
    pub(super) fn can_change(&self, features: &[&str]) -> bool {
        !features.is_empty() && features.iter().all(|feature| self.changeable.contains(*feature))
    }

    /// Which super-packets the device takes whole.
    #[must_use]
    pub fn super_packets(&self) -> SuperPackets {
        let (on, off) = (self.taken(), self.among(&USUAL, false));
        match (on.is_empty(), off.is_empty()) {
            (true, _) => SuperPackets::None,
            (false, true) => SuperPackets::All,
            (false, false) => SuperPackets::Some { on, off },
        }
    }

    /// Features that are on by which the device takes super-packets.
    #[must_use]
    pub fn taken(&self) -> Vec<&'static str> {
        self.among(&KINDS, true)
    }

    /// Features that are on by which received packets are merged.
    #[must_use]
    pub fn merging(&self) -> Vec<&'static str> {
        self.among(&MERGING, true)
    }

    /// Whether the stack merges received packets, which it does after the driver has counted them.
    #[must_use]
    pub fn stack_merges(&self) -> bool {
        self.on.contains("rx-gro")
    }

    fn among(&self, features: &[&'static str], is_on: bool) -> Vec<&'static str> {
        features.iter().copied().filter(|feature| self.on.contains(*feature) == is_on).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{KINDS, MERGING, Offload, SuperPackets, USUAL};

    #[test]
    fn a_device_takes_all_some_or_no_super_packets() {
        let super_packets = |on: &[&str]| Offload::new(on, &[]).super_packets();
        assert_eq!(super_packets(&USUAL), SuperPackets::All);
        assert_eq!(super_packets(&[KINDS, USUAL].concat()), SuperPackets::All);
        assert_eq!(super_packets(&[]), SuperPackets::None);
        // These say something about super-packets of other features alone.
        let modifiers = ["tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation", "tx-gre-segmentation"];
        assert_eq!(super_packets(&modifiers), SuperPackets::None);
        // As a virtio device of a host without offload for UDP.
        let on = vec!["tx-tcp-segmentation", "tx-tcp6-segmentation"];
        let off = vec!["tx-udp-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation"];
        assert_eq!(super_packets(&on), SuperPackets::Some { on, off });
        assert!(matches!(super_packets(&["tx-sctp-segmentation"]), SuperPackets::Some { .. }));
    }

    #[test]
    fn what_merges_is_told_from_what_does_not() {
        let offload = Offload::new(&["rx-gro", "rx-gro-list", "rx-checksum"], &["rx-gro"]);
        assert!(offload.stack_merges());
        assert_eq!(offload.merging(), ["rx-gro"]);
        assert_eq!(Offload::new(&MERGING, &[]).merging(), MERGING);
        assert!(!Offload::new(&["rx-lro", "rx-gro-hw"], &[]).stack_merges());
        assert!(offload.can_change(&["rx-gro"]) && !offload.can_change(&["rx-gro", "rx-lro"]));
        assert!(!offload.can_change(&[]), "there is nothing to change");
    }
}
