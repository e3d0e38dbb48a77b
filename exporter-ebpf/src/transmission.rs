//! How transmission goes: segments that are sent again, and packets that the kernel drops.
//!
//! Tracepoints tell of both, for every network namespace of the host. What they hand over is read as [`KernelLayout`]
//! says, by a helper that fails where there is nothing to read.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    cty::c_void,
    helpers::{self, generated::bpf_probe_read_kernel},
    programs::BtfTracePointContext,
};
use tidewaiter_common::{
    address::Address,
    api::{ApiSlot, Ends, PacketEnds, Side, find},
    atomic,
    direction::Direction,
    flow::FlowKey,
    frame::{Frame, Framing},
    interface::LOOPBACK_INDEX,
    packet::{Packet, protocol},
    transmission::{DropKey, KernelLayout},
    transport::Transport,
    wire::{Buffer, Wire},
};

use crate::{
    account::Tables,
    maps::{API_TRANSMISSION, DROP_SCRATCH, DROPS, FLOWS, HEADER_BYTES},
};

/// Address families (`include/linux/socket.h`).
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// The bit of a `_skb_refdst` that is no part of the address (`SKB_DST_NOREF`, `include/linux/skbuff.h`).
const ROUTE_WITHOUT_REFERENCE: u64 = 1;

/// How the running kernel has its structures. Userspace says it before the programs are loaded.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
static KERNEL_LAYOUT: MaybeUninit<KernelLayout> = MaybeUninit::zeroed();

/// What [`KERNEL_LAYOUT`] says of `$field`.
macro_rules! layout {
    ($field:ident) => {{
        let layout = (&raw const KERNEL_LAYOUT).cast::<KernelLayout>();
        // SAFETY: a static that is always there, and any bytes make one; volatile, because userspace gives it another value
        // than the compiler sees.
        unsafe { (&raw const (*layout).$field).read_volatile() }
    }};
}

/// What the kernel has at `offset` from `base`.
#[inline(always)]
fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper fails where there is nothing to read; all that is read here are integers.
    unsafe { helpers::bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// A structure that is referred to at `offset` from `base`; `None` if there is none.
#[inline(always)]
fn follow(base: u64, offset: u32) -> Option<u64> {
    read(base, offset).filter(|address| *address != 0)
}

/// Whether `net` is the network namespace that is accounted.
#[inline(always)]
fn is_ours(net: u64) -> bool {
    read(net, layout!(net_cookie)) == Some(layout!(namespace))
}

/// Whether the segment that `ctx` is about was sent again, rather than tried to be.
#[inline(always)]
pub(crate) fn was_sent(ctx: &BtfTracePointContext) -> bool {
    layout!(retransmission_has_error) == 0 || ctx.arg::<i32>(2) == 0
}

/// Counts a segment of `socket` that was sent again, or as many as `buffer` is.
#[inline(always)]
pub(crate) fn count_retransmission(socket: u64, buffer: Option<u64>) {
    let Some(net) = follow(socket, layout!(socket_net)) else { return };
    if !is_ours(net) {
        return;
    }
    let segments = buffer.and_then(|buffer| read::<u16>(buffer, layout!(segments))).unwrap_or(1).max(1);
    // What could not be read belongs to nobody: the sum over all APIs is what the kernel counts itself.
    let Some(ends) = SocketEnds::of(socket) else { return count_in_api(ApiSlot::UNMAPPED, segments) };
    let api = find(&Tables, Transport::Tcp, &ends).map_or(ApiSlot::UNMAPPED, |owner| owner.slot);
    count_in_api(api, segments);
    // What was not established yet is no flow that others know of.
    if buffer.is_some() {
        count_in_flow(&ends, segments);
    }
}

/// Counts segments that were sent again for an API.
#[inline(always)]
fn count_in_api(api: ApiSlot, segments: u16) {
    if let Some(transmission) = API_TRANSMISSION.get_ptr_mut(api.0.into()) {
        // SAFETY: a word of the map, which nobody writes to otherwise.
        unsafe { atomic::add(&raw mut (*transmission).retransmitted, segments.into()) };
    }
}

/// Counts segments that were sent again for the flow of their socket.
#[inline(always)]
fn count_in_flow(ends: &SocketEnds, segments: u16) {
    let offset = layout!(socket_interface);
    if offset == 0 {
        return;
    }
    let Some(interface) = read(ends.socket, offset) else { return };
    // No flow has such an address. (Of one that is absent the compiler makes an undefined one, which the verifier refuses.)
    let [local, remote] = [Side::Local, Side::Remote].map(|side| ends.address(side).unwrap_or(Address::v6([0; 16])));
    let key = FlowKey {
        local,
        remote,
        interface,
        local_port: ends.local_port,
        remote_port: ends.remote_port,
        protocol: protocol::TCP.into(),
    };
    #[expect(clippy::needless_borrows_for_generic_args, reason = "what is handed over by value is copied")]
    if let Some(flow) = FLOWS.get_ptr_mut(&key) {
        // SAFETY: a word of the map, which is written to by atomic instructions alone.
        unsafe { atomic::add(&raw mut (*flow).retransmitted, segments.into()) };
    }
}

/// The ends of a socket.
struct SocketEnds {
    socket: u64,
    local_port: u16,
    remote_port: u16,
}

impl SocketEnds {
    #[inline(always)]
    fn of(socket: u64) -> Option<Self> {
        Some(Self {
            socket,
            local_port: read(socket, layout!(socket_local_port))?,
            remote_port: u16::from_be(read(socket, layout!(socket_remote_port))?),
        })
    }
}

impl Ends for SocketEnds {
    #[inline(always)]
    fn port(&self, side: Side) -> u16 {
        match side {
            Side::Local => self.local_port,
            Side::Remote => self.remote_port,
        }
    }

    #[inline(always)]
    fn address(&self, side: Side) -> Option<Address> {
        let (ipv4, ipv6) = match side {
            Side::Local => (layout!(socket_local4), layout!(socket_local6)),
            Side::Remote => (layout!(socket_remote4), layout!(socket_remote6)),
        };
        match read::<u16>(self.socket, layout!(socket_family))? {
            AF_INET => read::<u32>(self.socket, ipv4).map(|address| Address::v4(address.to_ne_bytes())),
            AF_INET6 => {
                let (first, second): (u64, u64) = (read(self.socket, ipv6)?, read(self.socket, ipv6 + 8)?);
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(&first.to_ne_bytes());
                octets[8..].copy_from_slice(&second.to_ne_bytes());
                Some(Address::v6(octets))
            }
            _ => None,
        }
    }
}

/// Counts what the kernel drops with the context `ctx`, if it is of an API.
#[inline(always)]
pub(crate) fn count_drop(ctx: &BtfTracePointContext) {
    let (buffer, reason): (u64, u32) = (ctx.arg(0), ctx.arg(2));
    if reason < layout!(first_drop_reason) {
        return;
    }
    let socket = if layout!(drop_has_socket) == 0 { 0 } else { ctx.arg(3) };
    if !is_of_ours(buffer, socket) {
        return;
    }
    let Some((api, packets)) = dropped(buffer).filter(|(api, _)| api.is_mapped()) else { return };
    let key = DropKey { api, reserved: 0, reason };
    let counter = DROPS.get_ptr_mut(key).or_else(|| {
        // Another CPU may be faster: then its entry is as good.
        let _: Result<(), i32> = DROPS.insert(key, 0, BPF_NOEXIST.into());
        DROPS.get_ptr_mut(key)
    });
    let other = || {
        // SAFETY: an entry of the map.
        API_TRANSMISSION.get_ptr_mut(api.0.into()).map(|counters| unsafe { &raw mut (*counters).dropped_otherwise })
    };
    if let Some(counter) = counter.or_else(other) {
        // SAFETY: a word of a map, which nobody writes to otherwise.
        unsafe { atomic::add(counter, packets) };
    }
}

/// Whether `buffer` is of the network namespace that is accounted: that of the socket that dropped it, if there is one, else
/// of its device, else of the socket that it belongs to, else of the device of its route.
///
/// (A packet that comes from another namespace still belongs to its sender's socket. While a packet waits in a socket, what
/// was its device is something else: nothing, or no address, or that of something which has no such namespace.)
#[inline(always)]
fn is_of_ours(buffer: u64, dropped_by: u64) -> bool {
    let of_socket = |socket| follow(socket, layout!(socket_net));
    let of_device = |device| follow(device, layout!(device_net));
    let net = if dropped_by == 0 {
        let device = || follow(buffer, layout!(buffer_device)).and_then(of_device);
        let owner = || follow(buffer, layout!(buffer_socket)).and_then(of_socket);
        let route = || {
            let route = read::<u64>(buffer, layout!(buffer_route))? & !ROUTE_WITHOUT_REFERENCE;
            if route == 0 { None } else { follow(route, layout!(route_device)).and_then(of_device) }
        };
        device().or_else(owner).or_else(route)
    } else {
        of_socket(dropped_by)
    };
    net.is_some_and(is_ours)
}

/// The API that a dropped buffer belongs to, and how many packets it is.
#[inline(always)]
fn dropped(buffer: u64) -> Option<(ApiSlot, u64)> {
    let headers = Headers::of(buffer)?;
    let interface: u32 = read(buffer, layout!(buffer_interface))?;
    if read_headers(&headers) != 0 {
        return None;
    }
    let scratch = DROP_SCRATCH.get_ptr(0)?;
    // SAFETY: this CPU's own entry, and this program does not interrupt itself; it was written a moment ago.
    let packet = unsafe { &(*scratch).packet };
    let transport = packet.transport?;

    // What was received says on which interface; what was not and belongs to a socket of ours is transmitted. The rest was
    // most likely received, and dropped before it came far.
    let owner = || follow(buffer, layout!(buffer_socket)).and_then(|socket| follow(socket, layout!(socket_net)));
    let is_transmitted = interface == 0 && owner().is_some_and(is_ours);
    let direction = if is_transmitted { Direction::Transmit } else { Direction::Receive };
    let mut api = find(&Tables, transport, &PacketEnds { packet, frame: &headers, direction }).ok()?.slot;
    // On the loopback interface one end is as local as the other.
    if !api.is_mapped() && !is_transmitted && interface <= LOOPBACK_INDEX {
        let ends = PacketEnds { packet, frame: &headers, direction: Direction::Transmit };
        api = find(&Tables, transport, &ends).ok()?.slot;
    }

    let shared = headers.head + u64::from(read::<u32>(buffer, layout!(buffer_end))?);
    let sizes = Buffer {
        length: headers.length,
        segments: read::<u16>(shared, layout!(shared_segments))?.into(),
        segment_size: read::<u16>(shared, layout!(shared_segment_size))?.into(),
        ..Buffer::default()
    };
    Some((api, Wire::of(sizes, packet.headers as u32).packets))
}

/// The linear part of a buffer, from its IP header on.
#[repr(C)]
struct Headers {
    head: u64,
    start: u64,
    readable: u32,
    length: u32,
}

impl Headers {
    #[inline(always)]
    fn of(buffer: u64) -> Option<Self> {
        let head = follow(buffer, layout!(buffer_head))?;
        let data: u64 = read(buffer, layout!(buffer_data))?;
        let length: u32 = read(buffer, layout!(buffer_length))?;
        let tail: u32 = read(buffer, layout!(buffer_tail))?;
        // Nothing begins with an IP header: room is left for what comes before it.
        let network = read::<u16>(buffer, layout!(buffer_network)).filter(|network| *network != 0)?;
        let start = head + u64::from(network);
        // What was read already lies before the data.
        let length = u64::from(length).wrapping_add(data).wrapping_sub(start) as u32;
        Some(Self { head, start, readable: tail.saturating_sub(network.into()), length })
    }
}

impl Frame for Headers {
    #[inline(always)]
    fn length(&self) -> usize {
        self.length as usize
    }

    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset + N > self.readable as usize || N > HEADER_BYTES {
            return None;
        }
        let scratch = DROP_SCRATCH.get_ptr_mut(0)?;
        // To the map, not to the stack: the verifier allows words of the stack to be read only where those lie that were
        // written, and the compiler reads bytes in words as it likes.
        // SAFETY: this CPU's own entry, and this program does not interrupt itself; there is room for `N` bytes.
        unsafe {
            let bytes = (&raw mut (*scratch).bytes).cast::<[u8; N]>();
            let result = bpf_probe_read_kernel(bytes.cast(), N as u32, (self.start + offset as u64) as *const c_void);
            (result == 0).then(|| bytes.read())
        }
    }
}

/// Reads the headers into [`DROP_SCRATCH`], for the reason that `account::read_paged` gives. Answers with 0 if that went
/// well.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_headers(headers: &Headers) -> u64 {
    let Some(scratch) = DROP_SCRATCH.get_ptr_mut(0) else { return 1 };
    let mut packet = Packet::UNREAD;
    let result = packet.read(headers, Framing::Ip);
    // SAFETY: this CPU's own entry, as above.
    unsafe { (*scratch).packet = packet };
    u64::from(result.is_err())
}
