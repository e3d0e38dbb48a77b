//! What a socket buffer is on the wire.
//!
//! With segmentation offload the stack hands the device one super-packet that leaves as many packets, and with receive
//! offload it gets one made of many. Its length holds the headers once; on the wire each segment has its own.

/// What one socket buffer is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Packets: the segments of a super-packet, else 1.
    pub packets: u64,
    /// Bytes: frames without their check sequence, the headers of each segment included.
    pub bytes: u64,
}

/// The lengths that the kernel knows of a socket buffer (`struct __sk_buff`, `include/uapi/linux/bpf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// `len`: bytes of the buffer, link-layer header included, a super-packet's headers once.
    pub length: u32,
    /// `gso_segs`: segments of a super-packet; 0 or 1 for any other, and 0 for super-packets of some devices.
    pub segments: u32,
    /// `gso_size`: payload bytes of each segment but the last; 0 for what is no super-packet.
    pub segment_size: u32,
}

impl Wire {
    /// What `buffer` is on the wire when each of its segments repeats `headers` bytes.
    ///
    /// Segments are `gso_segs`, or ceil((len − headers) / `gso_size`) where the device left that at 0, as virtio and
    /// tun do. Bytes are len + (segments − 1) × headers.
    #[inline(always)]
    #[must_use]
    pub fn of(buffer: Buffer, headers: u32) -> Self {
        let Buffer { length, segments, segment_size } = buffer;
        if segment_size == 0 {
            return Self { packets: 1, bytes: u64::from(length) };
        }
        let packets = match segments {
            0 => length.saturating_sub(headers).div_ceil(segment_size).max(1),
            segments => segments,
        };
        Self { packets: u64::from(packets), bytes: u64::from(length) + u64::from(packets - 1) * u64::from(headers) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Buffer, Wire};

    #[test]
    fn a_plain_packet_is_itself() {
        let buffer = Buffer { length: 60, segments: 0, segment_size: 0 };
        assert_eq!(Wire::of(buffer, 54), Wire { packets: 1, bytes: 60 });
        let buffer = Buffer { segments: 1, ..buffer };
        assert_eq!(Wire::of(buffer, 54), Wire { packets: 1, bytes: 60 });
    }

    #[test]
    fn a_super_packet_is_its_segments_with_headers_each() {
        let buffer = Buffer { length: 54 + 10 * 1000 + 1, segments: 11, segment_size: 1000 };
        assert_eq!(Wire::of(buffer, 54), Wire { packets: 11, bytes: 10_001 + 11 * 54 });
    }

    #[test]
    fn segments_are_worked_out_where_the_device_left_them_at_zero() {
        for (payload, packets) in [(1, 1), (999, 1), (1000, 1), (1001, 2), (10_000, 10)] {
            let buffer = Buffer { length: 54 + payload, segments: 0, segment_size: 1000 };
            let bytes = u64::from(payload) + packets * 54;
            assert_eq!(Wire::of(buffer, 54), Wire { packets, bytes }, "payload of {payload} bytes");
        }
    }

    #[test]
    fn headers_longer_than_the_buffer_do_no_harm() {
        let buffer = Buffer { length: 20, segments: 0, segment_size: 1000 };
        assert_eq!(Wire::of(buffer, 54), Wire { packets: 1, bytes: 20 });
    }
}
