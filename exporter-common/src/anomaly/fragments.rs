//! Which parts of a datagram have come.

use crate::{address::Address, packet::Fragment};

/// How many datagrams there is room for, of those whose parts have not all come: the oldest go. 350 bytes each.
pub const MAX_DATAGRAMS: u32 = 4096;

/// How many parts of a datagram are remembered: as many as there are of 64 KiB where no link takes less than IPv6 demands (RFC 8200
/// section 5). What comes beyond is held against these alone.
pub const MAX_PARTS: usize = 64;

/// How long parts are waited for, in nanoseconds: as long as Linux waits for those of IPv4 (`ipfrag_time`). Then the number
/// that they have in common may be another datagram's.
pub const LIFETIME: u64 = 30_000_000_000;

/// What the parts of a datagram have in common (RFC 791, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DatagramKey {
    /// Who has sent it.
    pub source: Address,
    /// Who is to have it.
    pub destination: Address,
    /// Its number.
    pub identification: u32,
    /// The protocol above IP, of IPv4; 0 of IPv6, where it does not count.
    pub protocol: u32,
    /// Index of the interface.
    pub interface: u32,
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for DatagramKey {}

const _: () = assert!(size_of::<DatagramKey>() == 44);

/// The parts of a datagram that have come.
///
/// Nothing here is atomic: parts of a datagram nearly always come to one CPU, and where they do not, an overlap may be missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Datagram {
    /// When the first came, in nanoseconds of the kernel's monotonic clock.
    since: u64,
    /// Bytes of all parts, none counted twice.
    bytes: u32,
    /// Bytes of the datagram, once the last part has come; else 0.
    total: u32,
    /// Parts that are remembered.
    parts: u32,
    reserved: u32,
    /// Where each begins and where it ends, in bytes: upper and lower half.
    ranges: [u64; MAX_PARTS],
}

#[cfg(feature = "user")]
// SAFETY: integers without padding between them, every bit pattern is valid.
unsafe impl aya::Pod for Datagram {}

const _: () = assert!(size_of::<Datagram>() == 24 + MAX_PARTS * 8);

impl Default for Datagram {
    fn default() -> Self {
        Self { since: 0, bytes: 0, total: 0, parts: 0, reserved: 0, ranges: [0; MAX_PARTS] }
    }
}

/// What a part is to those that came before.
pub mod verdict {
    /// It goes with them.
    pub const FITS: u32 = 0;
    /// A part of it was there already.
    pub const OVERLAPS: u32 = 1;
    /// It is the one that was missing: there is nothing left to wait for.
    pub const COMPLETES: u32 = 2;
}

impl Datagram {
    /// Makes it one of which nothing has come at `now`.
    ///
    /// # Safety
    /// `datagram` may be written to.
    #[inline(always)]
    pub unsafe fn begin(datagram: *mut Self, now: u64) {
        // SAFETY: the caller's. (Ranges beyond `parts` are never read.)
        unsafe {
            (*datagram).since = now;
            (*datagram).bytes = 0;
            (*datagram).total = 0;
            (*datagram).parts = 0;
        }
    }

    /// Takes note of a part that comes at `now`. Answers with what it is to the others: see [`verdict`].
    ///
    /// The very same part again is no overlap: networks do that, and so RFC 5722 (as corrected, erratum 3089) and Linux let it pass.
    /// One that lies within another is one, although Linux takes it for the same again: that is how "teardrop" was made.
    ///
    /// # Safety
    /// `datagram` may be written to.
    #[inline(always)]
    #[must_use]
    pub unsafe fn add(datagram: *mut Self, fragment: Fragment, now: u64) -> u32 {
        let Fragment { offset, more, length, .. } = fragment;
        let (start, end) = (u64::from(offset), u64::from(offset) + u64::from(length));
        if length == 0 {
            return verdict::FITS;
        }
        // SAFETY: the caller's.
        unsafe {
            if now.saturating_sub((*datagram).since) >= LIFETIME {
                Self::begin(datagram, now);
            }
            let parts = ((*datagram).parts as usize).min(MAX_PARTS);
            let mut overlaps = false;
            for place in 0..MAX_PARTS {
                if place >= parts {
                    break;
                }
                let range = (&raw const (*datagram).ranges[place]).read_volatile();
                let (from, to) = (range >> 32, range & 0xffff_ffff);
                if from == start && to == end {
                    return verdict::FITS;
                }
                overlaps |= start < to && from < end;
            }
            if parts < MAX_PARTS {
                (&raw mut (*datagram).ranges[parts & (MAX_PARTS - 1)]).write_volatile(start << 32 | end);
                (*datagram).parts = parts as u32 + 1;
            }
            if overlaps {
                return verdict::OVERLAPS;
            }
            (*datagram).bytes = (*datagram).bytes.saturating_add(length);
            if !more {
                (*datagram).total = end as u32;
            }
            if (*datagram).total != 0 && (*datagram).bytes >= (*datagram).total {
                verdict::COMPLETES
            } else {
                verdict::FITS
            }
        }
    }
}
