//! Two hosts on one wire: namespaces joined by a veth pair.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
    thread::sleep,
    time::Duration,
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tidewaiter_common::direction::Direction;

use crate::{
    command::output,
    namespace::Namespace,
    wait::{wait_for, wait_until},
};

/// The name that each end of the wire has in its namespace.
pub const INTERFACE: &str = "wire";

/// How long the wire must be quiet before a test begins: what it says by itself comes within half a second.
const QUIET: Duration = Duration::from_millis(700);

/// Which way super-packets pass the hooks. Unless it takes them whole, the device counts packets as they are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Neither: every packet is by itself.
    Off,
    /// The stack transmits super-packets, and takes them apart before the device gets them.
    Transmit,
    /// And merges packets that it receives.
    Both,
    /// All that the device can, as it comes: super-packets pass the wire whole, and the device counts each as one.
    Device,
}

impl Offload {
    /// Arguments to `ethtool -K`.
    const fn switches(self) -> [&'static str; 6] {
        match self {
            Self::Off => ["tso", "off", "gso", "off", "gro", "off"],
            Self::Transmit => ["tso", "off", "gso", "on", "gro", "off"],
            Self::Both => ["tso", "off", "gso", "on", "gro", "on"],
            Self::Device => ["tso", "on", "gso", "on", "gro", "on"],
        }
    }
}

/// Two hosts on one wire.
#[derive(Debug)]
pub struct Network {
    /// The host that the exporter runs on in most tests.
    pub server: Namespace,
    /// The other.
    pub client: Namespace,
}

/// What the kernel has counted for an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelCounters {
    /// Packets, by direction.
    pub packets: [u64; Direction::COUNT],
    /// Bytes, by direction.
    pub bytes: [u64; Direction::COUNT],
    /// Packets that the device dropped, by direction.
    pub dropped: [u64; Direction::COUNT],
}

impl Network {
    /// The server's address on the wire.
    pub const SERVER4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    /// The client's address on the wire.
    pub const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
    /// The server's address on the wire.
    pub const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
    /// The client's address on the wire.
    pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);
    /// The server's addresses.
    pub const SERVERS: [IpAddr; 2] = [IpAddr::V4(Self::SERVER4), IpAddr::V6(Self::SERVER6)];

    /// The client's addresses.
    pub const CLIENTS: [IpAddr; 2] = [IpAddr::V4(Self::CLIENT4), IpAddr::V6(Self::CLIENT6)];

    /// Makes two hosts, joins them, and waits until the wire is quiet.
    #[must_use]
    pub fn new(offload: Offload) -> Self {
        let network = Self { server: Namespace::new(), client: Namespace::new() };
        let Self { server, client } = &network;
        server.ip(&format!("link add {INTERFACE} type veth peer name {INTERFACE} netns {}", client.name()));
        for host in [server, client] {
            output(host.command("ethtool").args(["-K", INTERFACE]).args(offload.switches()));
        }
        network.set_up();
        network
    }

    /// Gives both ends of the wire their addresses, and waits until it is quiet.
    pub(crate) fn set_up(&self) {
        let Self { server, client } = self;
        for (host, ipv4, ipv6) in [(server, Self::SERVER4, Self::SERVER6), (client, Self::CLIENT4, Self::CLIENT6)] {
            // No router answers here; asking for one would only make noise.
            let solicitations = format!("net.ipv6.conf.{INTERFACE}.router_solicitations=0");
            // A veth device drops what its ring of 256 packets has no room for, after it was counted. So no more may be
            // under way at once than this window of some 90 packets.
            let window = "net.ipv4.tcp_rmem=4096 65536 131072";
            // Multicast listeners say so at once instead of within seconds, and no address has to be tried first.
            let quiet = ["mldv1_unsolicited_report_interval=1", "mldv2_unsolicited_report_interval=1", "accept_dad=0"];
            let quiet = quiet.map(|setting| format!("net.ipv6.conf.{INTERFACE}.{setting}"));
            output(host.command("sysctl").args(["-q", "-w", &solicitations, window]).args(quiet));
            host.ip(&format!("link set {INTERFACE} addrgenmode none"));
            host.ip(&format!("address add {ipv4}/24 dev {INTERFACE}"));
            host.ip(&format!("address add {ipv6}/64 dev {INTERFACE} nodad"));
            host.ip(&format!("link set {INTERFACE} up"));
        }
        self.wait_until_quiet();
    }

    /// Tells both hosts where the other is, so that neither asks: then nothing but what a test sends is on the wire.
    pub fn know_each_other(&self) {
        let Self { server, client } = self;
        for (host, other, addresses) in [(server, client, Self::CLIENTS), (client, server, Self::SERVERS)] {
            let link: serde_json::Value =
                serde_json::from_str(&other.ip(&format!("-j link show {INTERFACE}"))).expect("JSON");
            let link = link[0]["address"].as_str().expect("has one");
            for address in addresses {
                host.ip(&format!("neighbour replace {address} lladdr {link} dev {INTERFACE} nud permanent"));
            }
        }
    }

    /// Waits until nothing has passed the wire for a while.
    pub fn wait_until_quiet(&self) {
        wait_until("link-local addresses to be ready", || {
            [&self.server, &self.client].iter().all(|host| host.ip("-6 address show tentative").is_empty())
        });
        wait_for("the wire to be quiet", || {
            let before = self.kernel_counters();
            sleep(QUIET);
            (self.kernel_counters() == before).then_some(())
        });
    }

    /// What the kernel has counted at the server's end of the wire.
    #[must_use]
    pub fn kernel_counters(&self) -> KernelCounters {
        let directory = format!("/sys/class/net/{INTERFACE}/statistics");
        // Each network namespace has a sysfs of its own, which `ip netns exec` mounts.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.server.name(), "grep", "-r", "", &directory]);
        let text = output(&mut command);
        let counter = |name: &str| {
            let prefix = format!("{directory}/{name}:");
            let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
            line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
        };
        KernelCounters {
            packets: ["rx_packets", "tx_packets"].map(counter),
            bytes: ["rx_bytes", "tx_bytes"].map(counter),
            dropped: ["rx_dropped", "tx_dropped"].map(counter),
        }
    }
}

impl KernelCounters {
    /// What passed the wire with `offload`: a veth pair that merges what it receives counts bytes without the Ethernet
    /// header, at both ends.
    ///
    /// # Panics
    /// If the device has dropped packets: the sending end's program has counted those.
    #[must_use]
    pub fn on_the_wire(mut self, offload: Offload) -> Self {
        assert_eq!(self.dropped, [0, 0], "the device dropped packets");
        if offload == Offload::Both {
            for (bytes, packets) in self.bytes.iter_mut().zip(self.packets) {
                *bytes += 14 * packets;
            }
        }
        self
    }
}

impl std::ops::Sub for KernelCounters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let minus = |now: [u64; 2], then: [u64; 2]| [now[0] - then[0], now[1] - then[1]];
        Self {
            packets: minus(self.packets, before.packets),
            bytes: minus(self.bytes, before.bytes),
            dropped: minus(self.dropped, before.dropped),
        }
    }
}

/// Sends frames as they are out of one interface. (To close one waits for all CPUs, some ten milliseconds: who sends again and again
/// keeps it.)
#[derive(Debug)]
pub struct FrameSocket {
    socket: Socket,
    address: SockAddr,
}

impl FrameSocket {
    /// Sends out of the interface called `name` of the thread's namespace.
    pub fn new(name: &str) -> io::Result<Self> {
        let any = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        let index = rustix::net::netdevice::name_to_index(&any, name)?;
        let socket = Socket::new(Domain::PACKET, Type::RAW, None::<Protocol>)?;
        Ok(Self { socket, address: packet_address(index, 0) })
    }

    /// Sends `frame`. Before this is over the other end of a wire has most often received it.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let sent = self.socket.send_to(frame, &self.address)?;
        assert_eq!(sent, frame.len(), "the socket took a part of a frame");
        Ok(())
    }
}

/// Sends each of `frames` as it is, `times` over, out of the interface called `name`; from the thread's namespace.
pub fn send_frames(name: &str, frames: &[Vec<u8>], times: usize) -> io::Result<()> {
    let socket = FrameSocket::new(name)?;
    for _ in 0..times {
        for frame in frames {
            socket.send(frame)?;
        }
    }
    Ok(())
}

/// A `sockaddr_ll` (packet(7)) that names an interface and a protocol, and nothing else.
pub(crate) fn packet_address(index: u32, protocol: u16) -> SockAddr {
    // sll_family, sll_protocol, sll_ifindex; the rest stays zero.
    let mut bytes = [0_u8; 20];
    bytes[..2].copy_from_slice(&u16::try_from(i32::from(Domain::PACKET)).expect("a small number").to_ne_bytes());
    bytes[2..4].copy_from_slice(&protocol.to_be_bytes());
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a sockaddr_storage has room for the 20 bytes of any sockaddr_ll, and any bytes make one.
    unsafe {
        std::ptr::from_mut(&mut storage).cast::<[u8; 20]>().write_unaligned(bytes);
        SockAddr::new(storage, 20)
    }
}
