//! What a socket buffer is on the wire.
//!
//! With segmentation offload the stack hands the device one super-packet that leaves as many packets, and with receive
//! offload it gets one made of many. Its length holds the headers once; on the wire each segment has its own.

use crate::packet::VLAN_TAG;

/// What one socket buffer is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Packets: the segments of a super-packet, else 1.
    pub packets: u64,
    /// Bytes: frames without their check sequence, the headers of each segment included.
    pub bytes: u64,
}

/// The lengths that the kernel knows of a socket buffer (`struct __sk_buff`, `include/uapi/linux/bpf.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffer {
    /// `len`: bytes of the buffer, link-layer header included, a super-packet's headers once.
    pub length: u32,
    /// `gso_segs`: segments of a super-packet; 0 or 1 for any other, and 0 for super-packets of some devices.
    pub segments: u32,
    /// `gso_size`: payload bytes of each segment but the last; 0 for what is no super-packet.
    pub segment_size: u32,
    /// `vlan_present`: whether a tag is on the wire that the buffer does not hold, because the device takes it off or puts
    /// it in.
    pub is_tagged: bool,
    /// `wire_len` of a super-packet that is transmitted: bytes on the wire as the kernel worked them out (`qdisc_pkt_len_init`,
    /// `net/core/dev.c`), which knows what tunnel the packet is in. It is 0 where it is not to be trusted: on
    /// receive, where it lacks the headers, and for TCP, whose headers it takes to stand right behind the fixed IPv6 header
    /// when the packet is forwarded (`ip6_rcv_core`, `net/ipv6/ip6_input.c`).
    pub wire_length: u32,
}

impl Buffer {
    /// Whether this is a super-packet.
    #[inline(always)]
    #[must_use]
    pub const fn is_super_packet(&self) -> bool {
        self.segment_size != 0
    }
}

impl Wire {
    /// What `buffer` is on the wire when each of its segments repeats `headers` bytes.
    ///
    /// Segments are `gso_segs`, or ceil((len − headers) / `gso_size`) where the device left that at 0, as virtio and
    /// tun do. Bytes are len + (segments − 1) × headers, or what the kernel says they are if that is more, and a tag for
    /// each segment. (It says less where it has missed headers, and cannot be right where it had to guess the segments too.)
    #[inline(always)]
    #[must_use]
    pub fn of(buffer: Buffer, headers: u32) -> Self {
        let Buffer { length, segments, segment_size, is_tagged, wire_length } = buffer;
        let tag = if is_tagged { VLAN_TAG as u64 } else { 0 };
        if segment_size == 0 {
            return Self { packets: 1, bytes: u64::from(length) + tag };
        }
        let packets = match segments {
            0 => length.saturating_sub(headers).div_ceil(segment_size).max(1),
            segments => segments,
        };
        let read = u64::from(length) + u64::from(packets - 1) * u64::from(headers);
        let bytes = if segments == 0 { read } else { read.max(wire_length.into()) };
        Self { packets: u64::from(packets), bytes: bytes + u64::from(packets) * tag }
    }
}

#[cfg(test)]
mod tests {
    use super::{Buffer, Wire};

    #[test]
    fn a_plain_packet_is_itself() {
        let buffer = Buffer { length: 60, segments: 0, segment_size: 0, ..Buffer::default() };
        assert_eq!(Wire::of(buffer, 54), Wire { packets: 1, bytes: 60 });
        let buffer = Buffer { segments: 1, ..buffer };
        assert_eq!(Wire::of(buffer, 54), Wire { packets: 1, bytes: 60 });
    }

    #[test]
    fn a_super_packet_is_its_segments_with_headers_each() {
        let buffer = Buffer { length: 54 + 10 * 1000 + 1, segments: 11, segment_size: 1000, ..Buffer::default() };
        assert_eq!(Wire::of(buffer, 54), Wire { packets: 11, bytes: 10_001 + 11 * 54 });
    }

    #[test]
    fn segments_are_worked_out_where_the_device_left_them_at_zero() {
        for (payload, packets) in [(1, 1), (999, 1), (1000, 1), (1001, 2), (10_000, 10)] {
            let buffer = Buffer { length: 54 + payload, segments: 0, segment_size: 1000, ..Buffer::default() };
            let bytes = u64::from(payload) + packets * 54;
            assert_eq!(Wire::of(buffer, 54), Wire { packets, bytes }, "payload of {payload} bytes");
        }
    }

    #[test]
    fn headers_longer_than_the_buffer_do_no_harm() {
        let buffer = Buffer { length: 20, segments: 0, segment_size: 1000, ..Buffer::default() };
        assert_eq!(Wire::of(buffer, 54), Wire { packets: 1, bytes: 20 });
    }

    #[test]
    fn a_tag_that_the_device_handles_is_on_the_wire_of_each_segment() {
        let buffer = Buffer { length: 60, is_tagged: true, ..Buffer::default() };
        assert_eq!(Wire::of(buffer, 54), Wire { packets: 1, bytes: 64 });
        let buffer = Buffer { length: 54 + 3000, segments: 3, segment_size: 1000, is_tagged: true, wire_length: 0 };
        assert_eq!(Wire::of(buffer, 54), Wire { packets: 3, bytes: 3 * 1058 });
    }

    #[test]
    fn what_the_kernel_worked_out_for_a_super_packet_is_believed() {
        // A tunnel whose 104 bytes of headers nobody but the kernel knows.
        let buffer =
            Buffer { length: 104 + 3000, segments: 3, segment_size: 1000, is_tagged: false, wire_length: 3 * 1104 };
        assert_eq!(Wire::of(buffer, 42), Wire { packets: 3, bytes: 3 * 1104 });
        assert_eq!(Wire::of(buffer, 110), Wire { packets: 3, bytes: 3 * 1104 + 2 * 6 }, "it has missed some headers");
        assert_eq!(Wire::of(Buffer { segments: 0, ..buffer }, 104), Wire { packets: 3, bytes: 3 * 1104 });
    }
}
