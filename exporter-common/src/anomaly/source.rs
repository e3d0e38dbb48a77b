//! What is remembered of who sends: how many ports it has tried, how many short connections it had, how much ICMP it sends.
//!
//! The kernel keeps one [`Source`] for each address that has sent something of the kind of late, in a table that forgets what it
//! has not seen for longest. Windows do not overlap: what is spread over two of them may need twice as much to be found, and
//! each source is found at most once in each.

use crate::{address::Address, atomic};

/// How many sources there is room for: 300 bytes each.
pub const MAX_SOURCES: u32 = 16_384;

/// Ports that are told apart, by their lowest bits: those that differ in others alone count as one. So a count is never too
/// high, and ports in a row are all told apart.
pub const SCANNED_PORTS: usize = 1024;
/// Addresses that are told apart, likewise.
pub const SCANNED_ADDRESSES: usize = 256;

/// What [`Source::tell_scan`] is asked for in a window.
pub mod scan {
    /// Many ports.
    pub const VERTICAL: u64 = 1;
    /// One port at many addresses.
    pub const HORIZONTAL: u64 = 2;
}

/// A source of packets. Every CPU writes to it, by atomic instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Source {
    scanned: Window,
    churned: Window,
    messages: Window,
    /// Ports in `port_bits`.
    ports: u64,
    /// Addresses in `address_bits`.
    addresses: u64,
    /// The port that those addresses were tried at, and above its 16 bits how many more attempts were for it than for others.
    swept: u64,
    port_bits: [u64; SCANNED_PORTS / 64],
    address_bits: [u64; SCANNED_ADDRESSES / 64],
}

const _: () = assert!(size_of::<Source>() == 256);

#[cfg(feature = "user")]
// SAFETY: made of `u64` alone, no padding, every bit pattern is valid.
unsafe impl aya::Pod for Source {}

/// What happened since some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct Window {
    /// When it began, in nanoseconds of the kernel's monotonic clock.
    since: u64,
    /// How often it has happened.
    count: u64,
    /// What was told of it: bits.
    told: u64,
}

/// Whether the window that began at `*since` is over at `now`: then another begins, and it is so for one caller alone.
///
/// # Safety
/// As for [`atomic::add`].
#[inline(always)]
pub(super) unsafe fn is_over(since: *mut u64, now: u64, window: u64) -> bool {
    // SAFETY: the caller's.
    unsafe {
        // Captures need not be in order.
        if now.saturating_sub(since.read_volatile()) < window {
            return false;
        }
        now.saturating_sub(atomic::swap(since, now)) >= window
    }
}

impl Window {
    const fn at(now: u64) -> Self {
        Self { since: now, count: 0, told: 0 }
    }

    /// Begins another window if this one is over, and says whether it does.
    #[inline(always)]
    unsafe fn turn(this: *mut Self, now: u64, window: u64) -> bool {
        // SAFETY: the caller's.
        unsafe {
            if !is_over(&raw mut (*this).since, now, window) {
                return false;
            }
            atomic::swap(&raw mut (*this).count, 0);
            atomic::swap(&raw mut (*this).told, 0);
            true
        }
    }

    /// Counts one more, and says how many there are; in another window if this one is over.
    #[inline(always)]
    unsafe fn count(this: *mut Self, now: u64, window: u64) -> u64 {
        // SAFETY: the caller's.
        unsafe {
            Self::turn(this, now, window);
            atomic::fetch_add(&raw mut (*this).count, 1) + 1
        }
    }

    /// Whether nobody was told of `bits` in this window: it is so for one caller alone.
    #[inline(always)]
    unsafe fn tell(this: *mut Self, bits: u64) -> bool {
        // SAFETY: the caller's.
        unsafe {
            (&raw const (*this).told).read_volatile() & bits == 0
                && atomic::fetch_or(&raw mut (*this).told, bits) & bits == 0
        }
    }
}

impl Default for Source {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Source {
    /// One of which nothing is known at `now`.
    #[inline(always)]
    #[must_use]
    pub const fn new(now: u64) -> Self {
        Self {
            scanned: Window::at(now),
            churned: Window::at(now),
            messages: Window::at(now),
            ports: 0,
            addresses: 0,
            swept: 0,
            port_bits: [0; SCANNED_PORTS / 64],
            address_bits: [0; SCANNED_ADDRESSES / 64],
        }
    }

    /// Makes one that nothing was ever counted in begin at `now`.
    ///
    /// # Safety
    /// `source` may be written to, and nobody else does.
    #[inline(always)]
    pub unsafe fn begin(source: *mut Self, now: u64) {
        // SAFETY: the caller's.
        unsafe {
            (&raw mut (*source).scanned.since).write_volatile(now);
            (&raw mut (*source).churned.since).write_volatile(now);
            (&raw mut (*source).messages.since).write_volatile(now);
        }
    }

    /// Takes note that it has tried `port` at `address`, both of this host.
    ///
    /// # Safety
    /// `source` may be written to, and whoever else writes to it does so by these functions; for all that follow.
    #[inline(always)]
    pub unsafe fn attempt(source: *mut Self, now: u64, window: u64, port: u16, address: Address) {
        // SAFETY: the caller's.
        unsafe {
            if Window::turn(&raw mut (*source).scanned, now, window) {
                for word in 0..SCANNED_PORTS / 64 {
                    (&raw mut (*source).port_bits[word]).write_volatile(0);
                }
                (&raw mut (*source).ports).write_volatile(0);
                Self::sweep(source, 0);
            }
            atomic::add(&raw mut (*source).scanned.count, 1);
            let (word, bit) = port_place(port);
            set(&raw mut (*source).port_bits[word], bit, &raw mut (*source).ports);

            // Two CPUs may do this at once: then one of them is not counted, or the other port's goes on.
            let swept = (&raw const (*source).swept).read_volatile();
            let (swept_port, votes) = (swept as u16, swept >> 16);
            if swept_port == port {
                (&raw mut (*source).swept).write_volatile((votes + 1).min(VOTES) << 16 | u64::from(port));
            } else if votes == 0 {
                Self::sweep(source, 1 << 16 | u64::from(port));
            } else {
                (&raw mut (*source).swept).write_volatile((votes - 1) << 16 | u64::from(swept_port));
                return;
            }
            let (word, bit) = address_place(address);
            set(&raw mut (*source).address_bits[word], bit, &raw mut (*source).addresses);
        }
    }

    /// Forgets the addresses, and has those counted that are tried at the port in `swept`.
    #[inline(always)]
    unsafe fn sweep(source: *mut Self, swept: u64) {
        // SAFETY: the caller's.
        unsafe {
            for word in 0..SCANNED_ADDRESSES / 64 {
                (&raw mut (*source).address_bits[word]).write_volatile(0);
            }
            (&raw mut (*source).addresses).write_volatile(0);
            (&raw mut (*source).swept).write_volatile(swept);
        }
    }

    /// Takes note that it has got through to `port` at `address`: who talks to a port does not scan it.
    ///
    /// # Safety
    /// As for [`Source::attempt`].
    #[inline(always)]
    pub unsafe fn complete(source: *mut Self, port: u16, address: Address) {
        // SAFETY: the caller's.
        unsafe {
            let (word, bit) = port_place(port);
            clear(&raw mut (*source).port_bits[word], bit, &raw mut (*source).ports);
            if (&raw const (*source).swept).read_volatile() as u16 == port {
                let (word, bit) = address_place(address);
                clear(&raw mut (*source).address_bits[word], bit, &raw mut (*source).addresses);
            }
        }
    }

    /// How many ports it has tried in the window under way, without getting through.
    ///
    /// # Safety
    /// As for [`Source::attempt`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn ports(source: *const Self) -> u64 {
        // SAFETY: the caller's.
        unsafe { (&raw const (*source).ports).read_volatile() }
    }

    /// At how many addresses it has tried the port that it tries most, likewise.
    ///
    /// # Safety
    /// As for [`Source::attempt`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn addresses(source: *const Self) -> u64 {
        // SAFETY: the caller's.
        unsafe { (&raw const (*source).addresses).read_volatile() }
    }

    /// How often it has tried anything in the window under way.
    ///
    /// # Safety
    /// As for [`Source::attempt`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn attempts(source: *const Self) -> u64 {
        // SAFETY: the caller's.
        unsafe { (&raw const (*source).scanned.count).read_volatile() }
    }

    /// For how long the window of attempts has gone on at `now`, in nanoseconds.
    ///
    /// # Safety
    /// As for [`Source::attempt`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn scanned_for(source: *const Self, now: u64) -> u64 {
        // SAFETY: the caller's.
        now.saturating_sub(unsafe { (&raw const (*source).scanned.since).read_volatile() })
    }

    /// Whether nobody was told of this [`scan`] in the window under way: it is so for one caller alone.
    ///
    /// # Safety
    /// As for [`Source::attempt`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn tell_scan(source: *mut Self, scan: u64) -> bool {
        // SAFETY: the caller's.
        unsafe { Window::tell(&raw mut (*source).scanned, scan) }
    }

    /// Counts a short connection. Answers with how many there were in the window, if that is `threshold` and nobody was told
    /// yet; else with 0.
    ///
    /// # Safety
    /// As for [`Source::attempt`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn churn(source: *mut Self, now: u64, window: u64, threshold: u64) -> u64 {
        // SAFETY: the caller's.
        unsafe { crossing(&raw mut (*source).churned, now, window, threshold) }
    }

    /// Counts a message of ICMP; otherwise as [`Source::churn`].
    ///
    /// # Safety
    /// As for [`Source::attempt`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn message(source: *mut Self, now: u64, window: u64, threshold: u64) -> u64 {
        // SAFETY: the caller's.
        unsafe { crossing(&raw mut (*source).messages, now, window, threshold) }
    }
}

/// The most votes for a port: so many attempts at others make a sweep be forgotten.
const VOTES: u64 = 16;

/// Counts one more in `window`. Answers with how many there are, if it is time to tell; else with 0.
#[inline(always)]
unsafe fn crossing(this: *mut Window, now: u64, window: u64, threshold: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe {
        let count = Window::count(this, now, window);
        if count >= threshold && Window::tell(this, 1) { count } else { 0 }
    }
}

/// Word and bit of `port`.
#[inline(always)]
const fn port_place(port: u16) -> (usize, u64) {
    let place = port as usize % SCANNED_PORTS;
    (place / 64, 1 << (place % 64))
}

/// Word and bit of `address`: neighbours have different ones.
#[inline(always)]
const fn address_place(address: Address) -> (usize, u64) {
    let mixed = address.fold();
    let place = (mixed ^ mixed >> 8 ^ mixed >> 16 ^ mixed >> 24) as usize % SCANNED_ADDRESSES;
    (place / 64, 1 << (place % 64))
}

/// Sets `bit`, and counts it if it was not set.
#[inline(always)]
unsafe fn set(word: *mut u64, bit: u64, count: *mut u64) {
    // SAFETY: the caller's.
    unsafe {
        if word.read_volatile() & bit == 0 && atomic::fetch_or(word, bit) & bit == 0 {
            atomic::add(count, 1);
        }
    }
}

/// Clears `bit`, and counts it no more if it was set.
#[inline(always)]
unsafe fn clear(word: *mut u64, bit: u64, count: *mut u64) {
    // SAFETY: the caller's.
    unsafe {
        if word.read_volatile() & bit != 0 && atomic::fetch_and(word, !bit) & bit != 0 {
            atomic::add(count, u64::MAX);
        }
    }
}
