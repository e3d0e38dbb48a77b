//! Requests and their answers: how long the first byte of an answer took after the last byte of its request.
//!
//! Nothing of it needs to be understood: what one side sends is a request, until the other side sends something that
//! acknowledges the whole of it. Who asks is known from the API: whoever is not its server.
//!
//! * A *request* ends with a segment that has PSH or FIN, which every TCP sets on the last segment of what it was given. If
//!   another follows before an answer came, that goes on with the same request: the time is that of the later one. Only
//!   HTTP/1 says where a request begins, so there requests can wait for their answers in a row (pipelining); of other
//!   protocols, what was asked before the first answer is one request.
//! * An *answer* is payload that acknowledges the request and that the asking side had not yet received when it asked. So
//!   a greeting that nobody asked for is none, nor what was sent before the request arrived, nor what is sent again.
//! * A request that is sent again keeps its time; but where this host is the server, and what was missing of the request
//!   arrives later than its last segment, that is when it was there. What of it had arrived, the server's own
//!   acknowledgement tells.
//!
//! Each waiting request is one word, so that whichever CPU sees the answer first is the only one to take it.

use crate::{
    atomic,
    flow::{Flow, PENDING},
    packet::tcp_flag,
};

/// A time in a waiting request is in units of 2^7 nanoseconds; its 32 bits go round in 9 minutes.
const UNIT_SHIFT: u32 = 7;

/// What of a packet with payload, or an acknowledgement, matters to requests and answers. Of a datagram all is 0 but the
/// payload, and the sequence number, which is what an answer has in common with its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// The sequence number that the sender expects next from the other side.
    pub acknowledgement: u32,
    /// Bytes of payload.
    pub payload: u32,
    /// The flags, see [`tcp_flag`].
    pub flags: u32,
}

impl Segment {
    const fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.payload)
    }

    /// Whether what was to be said is said with it.
    #[inline(always)]
    #[must_use]
    pub const fn ends_run(&self) -> bool {
        self.flags & (tcp_flag::PSH | tcp_flag::FIN) as u32 != 0
    }
}

/// Whether the sequence number `a` comes after `b` (RFC 9293 section 3.4: they go round).
const fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// A request that waits: the sequence number behind its last byte, and when that passed. Never 0, for the price of one unit
/// where it would be.
const fn waiting(end: u32, time: u64) -> u64 {
    let word = (end as u64) << 32 | ((time >> UNIT_SHIFT) as u32) as u64;
    word | (word == 0) as u64
}

const fn end_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Nanoseconds from the time in `word` to `time`.
const fn since(word: u64, time: u64) -> u64 {
    let units = ((time >> UNIT_SHIFT) as u32).wrapping_sub(word as u32);
    // Two CPUs' clocks may differ by less than a unit, in the wrong direction.
    if (units as i32) < 0 && units > u32::MAX - 8 { 0 } else { (units as u64) << UNIT_SHIFT }
}

/// How the packets of a flow are cut into requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// By who speaks, and what acknowledges what.
    Stream,
    /// A segment may begin a request or an answer of HTTP/1, which says so by itself.
    Http1,
    /// Each datagram is one by itself, and an answer has the identifier of its request (DNS, RFC 1035 section 4.1.1).
    Datagrams,
}

impl Flow {
    /// Whether a request waits for its answer. `turns` is the flow's word of that name.
    #[inline(always)]
    #[must_use]
    pub const fn waits(turns: u64) -> bool {
        turns as u32 != (turns >> 32) as u32
    }

    /// The word that [`Flow::waits`] asks for.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn turns(flow: *const Self) -> u64 {
        // SAFETY: the caller's.
        unsafe { (&raw const (*flow).turns).read_volatile() }
    }

    /// Takes note of payload from the side that asks. `begins` says that a request of HTTP/1 begins with it; `is_server` that
    /// this host is the other side. Says whether it is a new request of HTTP/1.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    pub unsafe fn ask(
        flow: *mut Self,
        segment: &Segment,
        talk: Talk,
        begins: bool,
        is_server: bool,
        now: impl Fn() -> u64,
    ) -> bool {
        // SAFETY: the caller's, for all of it; no index is beyond its array.
        unsafe {
            if talk == Talk::Datagrams {
                let place = &raw mut (*flow).pending[segment.sequence as usize % PENDING];
                if atomic::swap(place, waiting(segment.sequence, now())) == 0 {
                    atomic::fetch_add(&raw mut (*flow).turns, 1);
                }
                return false;
            }
            let turns = Self::turns(flow);
            let (asked, answered) = (turns as u32, (turns >> 32) as u32);
            let is_first = asked == 0;
            let last_asked = &raw mut (*flow).asked;
            let is_new = if talk == Talk::Http1 {
                // One that is sent again was counted when it passed for the first time.
                begins && (is_first || is_after(segment.sequence, last_asked.read_volatile()))
            } else {
                !Self::waits(turns)
                    && segment.ends_run()
                    && (is_first || is_after(segment.end(), last_asked.read_volatile()))
            };
            if is_new {
                last_asked.write_volatile(if let Talk::Http1 = talk { segment.sequence } else { segment.end() });
                // HTTP/1 says itself where an answer begins.
                if let Talk::Stream = talk {
                    (&raw mut (*flow).floor).write_volatile(segment.acknowledgement);
                }
                // Unless the other side says otherwise, it has all of it.
                (&raw mut (*flow).acknowledged).write_volatile(segment.end());
                if asked.wrapping_sub(answered) < PENDING as u32 {
                    let place = &raw mut (*flow).pending[asked as usize % PENDING];
                    atomic::swap(place, waiting(segment.end(), now()));
                }
                atomic::fetch_add(&raw mut (*flow).turns, 1);
                return true;
            }
            // It goes on with the request that came last, unless that was one too many.
            if !Self::waits(turns) || asked.wrapping_sub(answered) > PENDING as u32 {
                return false;
            }
            let place = &raw mut (*flow).pending[asked.wrapping_sub(1) as usize % PENDING];
            let word = place.read_volatile();
            if word == 0 {
                return false;
            }
            let (end, is_longer) = (segment.end(), is_after(segment.end(), end_of(word)));
            let was_missing = is_server && is_after(end, (&raw const (*flow).acknowledged).read_volatile());
            if is_longer && segment.ends_run() {
                if talk == Talk::Stream {
                    last_asked.write_volatile(end);
                    (&raw mut (*flow).floor).write_volatile(segment.acknowledgement);
                }
                (&raw mut (*flow).acknowledged).write_volatile(end);
                place.write_volatile(waiting(end, now()));
            } else if !is_longer && was_missing {
                place.write_volatile(waiting(end_of(word), now()));
            }
            false
        }
    }

    /// Takes note of what the side that is asked sends, payload or an acknowledgement, while requests wait. `status` is the
    /// code of an answer of HTTP/1 that begins with it, or 0. Answers with how long it took, in nanoseconds, if it is the
    /// first of an answer; and says whether it is a new answer of HTTP/1.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    pub unsafe fn answer(
        flow: *mut Self,
        segment: &Segment,
        talk: Talk,
        status: u16,
        now: impl Fn() -> u64,
    ) -> (Option<u64>, bool) {
        // SAFETY: the caller's, for all of it; no index is beyond its array.
        unsafe {
            let turns = Self::turns(flow);
            if !Self::waits(turns) {
                return (None, false);
            }
            let answered = (turns >> 32) as u32;
            let at = if talk == Talk::Datagrams { segment.sequence } else { answered };
            let place = &raw mut (*flow).pending[at as usize % PENDING];
            let floor = &raw mut (*flow).floor;
            if talk != Talk::Datagrams {
                (&raw mut (*flow).acknowledged).write_volatile(segment.acknowledgement);
            }
            if segment.payload == 0 {
                return (None, false);
            }
            match talk {
                Talk::Stream => {
                    let word = place.read_volatile();
                    let is_answer = word != 0
                        && !is_after(end_of(word), segment.acknowledgement)
                        && is_after(segment.end(), floor.read_volatile());
                    if !is_answer {
                        return (None, false);
                    }
                }
                Talk::Http1 => {
                    let is_old = answered != 0 && !is_after(segment.sequence, floor.read_volatile());
                    if status == 0 || is_old {
                        return (None, false);
                    }
                    floor.write_volatile(segment.sequence);
                    // What comes before the answer: "100 Continue" and its like. (101 is one: nothing follows.)
                    if status < 200 && status != 101 {
                        return (None, true);
                    }
                }
                Talk::Datagrams => {
                    if end_of(place.read_volatile()) != segment.sequence {
                        return (None, false);
                    }
                }
            }
            let word = atomic::swap(place, 0);
            if word == 0 && talk != Talk::Http1 {
                // Another CPU was faster.
                return (None, false);
            }
            atomic::fetch_add(&raw mut (*flow).turns, 1 << 32);
            if word == 0 {
                // One of more requests than can wait.
                return (None, true);
            }
            let time = since(word, now());
            atomic::add(&raw mut (*flow).response_time, time);
            atomic::add(&raw mut (*flow).responses, 1);
            (Some(time), talk == Talk::Http1)
        }
    }
}
