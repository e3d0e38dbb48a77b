//! How transmission goes for one API: segments that are sent again, and packets that the kernel drops.
//!
//! Tracepoints tell of both. What they hand over are the kernel's own structures, which differ from kernel to kernel:
//! [`KernelLayout`] is how the running one has them.

use crate::api::ApiSlot;

/// The most pairs of an API and a reason that drops are counted for by themselves.
pub const MAX_DROP_ENTRIES: u32 = 4096;

/// What is counted of the transmission of one API.
///
/// In the kernel each CPU has its own; userspace adds the CPUs up, and makes it all zeros before an API gets the slot.
/// Tracepoints may interrupt each other, so it is written to by atomic instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ApiTransmission {
    /// Segments that this host sent again.
    pub retransmitted: u64,
    /// Packets dropped for a reason that there was no room for in the table of drops.
    pub dropped_otherwise: u64,
}

#[cfg(feature = "user")]
// SAFETY: two `u64`, no padding, every bit pattern is valid.
unsafe impl aya::Pod for ApiTransmission {}

impl core::ops::AddAssign<&Self> for ApiTransmission {
    fn add_assign(&mut self, other: &Self) {
        let Self { retransmitted, dropped_otherwise } = other;
        self.retransmitted += retransmitted;
        self.dropped_otherwise += dropped_otherwise;
    }
}

/// A key of the table of drops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct DropKey {
    /// The API.
    pub api: ApiSlot,
    /// Pads to 4 bytes.
    pub reserved: u16,
    /// The reason, as the running kernel numbers it (`enum skb_drop_reason`).
    pub reason: u32,
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for DropKey {}

const _: () = assert!(size_of::<DropKey>() == 8);

/// How the running kernel lays out what the tracepoints hand over: offsets in bytes, unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KernelLayout {
    /// The cookie of the network namespace that is accounted.
    pub namespace: u64,
    /// `net.net_cookie`.
    pub net_cookie: u32,
    /// `sock_common.skc_net`.
    pub socket_net: u32,
    /// `sock_common.skc_family`.
    pub socket_family: u32,
    /// `sock_common.skc_num`: the local port, in the byte order of the host.
    pub socket_local_port: u32,
    /// `sock_common.skc_dport`: the remote port, in that of the network.
    pub socket_remote_port: u32,
    /// `sock_common.skc_rcv_saddr`.
    pub socket_local4: u32,
    /// `sock_common.skc_daddr`.
    pub socket_remote4: u32,
    /// `sock_common.skc_v6_rcv_saddr`; not read where the kernel has none.
    pub socket_local6: u32,
    /// `sock_common.skc_v6_daddr`.
    pub socket_remote6: u32,
    /// `tcp_skb_cb.tcp_gso_segs`, from the start of the `sk_buff` that it is in.
    pub segments: u32,
    /// `sk_buff.sk`.
    pub buffer_socket: u32,
    /// `sk_buff.dev`.
    pub buffer_device: u32,
    /// `sk_buff._skb_refdst`.
    pub buffer_route: u32,
    /// `sk_buff.skb_iif`.
    pub buffer_interface: u32,
    /// `sk_buff.len`.
    pub buffer_length: u32,
    /// `sk_buff.head`.
    pub buffer_head: u32,
    /// `sk_buff.data`.
    pub buffer_data: u32,
    /// `sk_buff.tail`: an offset from the head.
    pub buffer_tail: u32,
    /// `sk_buff.end`: likewise.
    pub buffer_end: u32,
    /// `sk_buff.network_header`: likewise.
    pub buffer_network: u32,
    /// `skb_shared_info.gso_size`.
    pub shared_segment_size: u32,
    /// `skb_shared_info.gso_segs`.
    pub shared_segments: u32,
    /// `net_device.nd_net`.
    pub device_net: u32,
    /// `dst_entry.dev`.
    pub route_device: u32,
    /// The least number of a reason that is one to drop a packet: those below say that it was consumed.
    pub first_drop_reason: u32,
    /// Whether the tracepoint of drops hands over the socket too, 1 or 0 (Linux 6.11).
    pub drop_has_socket: u32,
    /// Whether the tracepoint of retransmissions tells of those too that failed, and hands over the error, 1 or 0.
    pub retransmission_has_error: u32,
    /// `sock.sk_rx_dst_ifindex`: the interface that the socket was last received on; 0 if the kernel has none.
    pub socket_interface: u32,
}

#[cfg(feature = "user")]
// SAFETY: a `u64` and an even number of `u32`, no padding, every bit pattern is valid.
unsafe impl aya::Pod for KernelLayout {}

const _: () = assert!(size_of::<KernelLayout>() == 8 + 28 * 4);
