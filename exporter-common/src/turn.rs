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
//! * A datagram with an identifier that is sent again before it was answered is a request that begins anew.
//!
//! What cannot be known without reading all of it:
//!
//! * Where the side that is asked goes on speaking while it receives the next request (both speak at once), what it says
//!   is taken for the answer to that.
//! * A segment may hold the ends or the beginnings of more than one request or answer; the first is seen. An answer of
//!   HTTP/1 that begins within a segment is missed so, and if its request was one of several that waited, or came behind a
//!   "100 Continue" in the same segment, those after it are held against the request before theirs.
//! * Of an answer whose segments overtake each other, the first that arrives counts, for HTTP/1 the one that it begins with.
//! * Where this host is the server, and more is missing of a request of HTTP/1 than its first segment when that arrives, the
//!   time is that of its first segment if the last had arrived before it.
//! * A last segment with neither PSH nor FIN does not end a request: the time is that of the last one that has either.
//!
//! Each waiting request is one word, so that whichever CPU sees the answer first is the only one to take it. Where there are
//! more than can wait, and so no word, it is the one that moves [`Flow::turns`] on.

use crate::{
    atomic,
    flow::{Flow, PENDING},
    packet::tcp_flag,
};

/// A time in a waiting request is in units of 2^6 nanoseconds; its 32 bits go round in 4.6 minutes. How often they did is in
/// [`Flow::rounds`], 8 bits of it: together they go round in 19 hours.
const UNIT_SHIFT: u32 = 6;
const ROUND_SHIFT: u32 = UNIT_SHIFT + 32;
/// The bits of a time, in units.
const TIME_MASK: u64 = (1 << 40) - 1;
/// The lowest bit of it is always set, so that no word is 0: it tells 128 nanoseconds apart.
const PRESENT: u32 = 1;

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
    a.wrapping_sub(b).cast_signed() > 0
}

/// A request that waits: the sequence number behind its last byte, and when that passed.
const fn waiting(end: u32, time: u64) -> u64 {
    (end as u64) << 32 | (((time >> UNIT_SHIFT) as u32) | PRESENT) as u64
}

const fn end_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Nanoseconds from the time in `word`, of the given `round`, to `time`.
const fn since(word: u64, round: u8, time: u64) -> u64 {
    let then = (round as u64) << 32 | word as u32 as u64;
    let units = (time >> UNIT_SHIFT | PRESENT as u64).wrapping_sub(then) & TIME_MASK;
    // Two CPUs' clocks may differ by some units, and captures need not be in order: then it seems to be before the request.
    if units > TIME_MASK - (1 << 30) { 0 } else { units << UNIT_SHIFT }
}

/// How far behind what the other side was known to have sent an acknowledgement may be: more than any window that is used. What
/// seems to be further behind is ahead by more than half of all sequence numbers, of a long answer.
const MOST_BEHIND: u32 = 1 << 26;
/// How far the number that requests are held against is left behind by what belongs to one, for the same reason.
const FAR_BEHIND: u32 = 1 << 30;

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

    /// How many requests there were so far, of `turns` as above.
    #[inline(always)]
    #[must_use]
    pub const fn asked(turns: u64) -> u32 {
        turns as u32
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
                let place = segment.sequence as usize % PENDING;
                let word = Self::wait(flow, place, segment.sequence, now());
                if atomic::swap(&raw mut (*flow).pending[place], word) == 0 {
                    atomic::fetch_add(&raw mut (*flow).turns, 1);
                }
                return false;
            }
            let (turns, end) = (Self::turns(flow), segment.end());
            let (asked, answered) = (turns as u32, (turns >> 32) as u32);
            let (is_first, waits) = (asked == 0, Self::waits(turns));
            let last_asked = &raw mut (*flow).asked;
            let before = last_asked.read_volatile();
            let is_new = if talk == Talk::Http1 {
                // One that is sent again was counted when it passed for the first time.
                begins && (is_first || !is_after(before, segment.sequence))
            } else {
                !waits && segment.ends_run() && (is_first || is_after(end, before))
            };
            if is_new {
                // What is missing of the last request may yet come, so of HTTP/1 it is not the end that the next is held against.
                last_asked.write_volatile(if let Talk::Http1 = talk { segment.sequence.wrapping_add(1) } else { end });
                // HTTP/1 says itself where an answer begins: not where the last one did, which may be sent again.
                let floor = &raw mut (*flow).floor;
                let is_known = talk == Talk::Http1
                    && !is_first
                    && (waits || floor.read_volatile().wrapping_sub(segment.acknowledgement) < MOST_BEHIND);
                if !is_known {
                    floor.write_volatile(segment.acknowledgement);
                }
                // Unless the other side says otherwise, it has all of it.
                (&raw mut (*flow).acknowledged).write_volatile(end);
                if asked.wrapping_sub(answered) < PENDING as u32 {
                    let place = asked as usize % PENDING;
                    // Nobody looks there before the number of requests says so, which is an ordered instruction.
                    let word = Self::wait(flow, place, end, now());
                    (&raw mut (*flow).pending[place]).write_volatile(word);
                }
                if atomic::fetch_add(&raw mut (*flow).turns, 1) as u32 != asked {
                    // Another CPU has seen the same, and was faster.
                    atomic::fetch_add(&raw mut (*flow).turns, u64::MAX);
                    return false;
                }
                return true;
            }
            if talk == Talk::Http1 && !is_first && is_after(end, before.wrapping_add(FAR_BEHIND)) {
                last_asked.write_volatile(end.wrapping_sub(FAR_BEHIND / 2));
            }
            // It goes on with the request that came last, unless that was one too many.
            if !waits || asked.wrapping_sub(answered) > PENDING as u32 {
                return false;
            }
            let place = asked.wrapping_sub(1) as usize % PENDING;
            let pending = &raw mut (*flow).pending[place];
            let word = pending.read_volatile();
            if word == 0 {
                return false;
            }
            let is_longer = is_after(end, end_of(word));
            let was_missing = is_server && is_after(end, (&raw const (*flow).acknowledged).read_volatile());
            if is_longer && segment.ends_run() {
                if talk == Talk::Stream {
                    last_asked.write_volatile(end);
                    (&raw mut (*flow).floor).write_volatile(segment.acknowledgement);
                }
                (&raw mut (*flow).acknowledged).write_volatile(end);
                pending.write_volatile(Self::wait(flow, place, end, now()));
            } else if !is_longer && was_missing {
                pending.write_volatile(Self::wait(flow, place, end_of(word), now()));
            }
            false
        }
    }

    /// The word of a request that waits at `place` of those that do, since `time`; the sequence number behind it is `end`.
    ///
    /// # Safety
    /// As for [`Flow::count`].
    #[inline(always)]
    unsafe fn wait(flow: *mut Self, place: usize, end: u32, time: u64) -> u64 {
        // SAFETY: the caller's; no index is beyond its array.
        unsafe { (&raw mut (*flow).rounds[place % PENDING]).write_volatile((time >> ROUND_SHIFT) as u8) };
        waiting(end, time)
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
            let place = (if talk == Talk::Datagrams { segment.sequence } else { answered }) as usize % PENDING;
            let pending = &raw mut (*flow).pending[place];
            let floor = &raw mut (*flow).floor;
            if talk != Talk::Datagrams {
                (&raw mut (*flow).acknowledged).write_volatile(segment.acknowledgement);
            }
            if segment.payload == 0 {
                return (None, false);
            }
            match talk {
                Talk::Stream => {
                    let word = pending.read_volatile();
                    let is_answer = word != 0
                        && !is_after(end_of(word), segment.acknowledgement)
                        && is_after(segment.end(), floor.read_volatile());
                    if !is_answer {
                        return (None, false);
                    }
                }
                Talk::Http1 => {
                    if status == 0 || is_after(floor.read_volatile(), segment.sequence) {
                        return (None, false);
                    }
                    floor.write_volatile(segment.sequence.wrapping_add(1));
                    // What comes before the answer: "100 Continue" and its like. (101 is one: nothing follows.)
                    if status < 200 && status != 101 {
                        return (None, true);
                    }
                    if (atomic::fetch_add(&raw mut (*flow).turns, 1 << 32) >> 32) as u32 != answered {
                        // Another CPU has seen the same, and was faster.
                        atomic::fetch_add(&raw mut (*flow).turns, u64::MAX << 32);
                        return (None, false);
                    }
                }
                Talk::Datagrams => {
                    if end_of(pending.read_volatile()) != segment.sequence {
                        return (None, false);
                    }
                }
            }
            let word = atomic::swap(pending, 0);
            if word == 0 {
                // Another CPU was faster; or it answers one of more requests of HTTP/1 than can wait.
                return (None, talk == Talk::Http1);
            }
            if talk != Talk::Http1 {
                atomic::fetch_add(&raw mut (*flow).turns, 1 << 32);
            }
            let time = since(word, (&raw const (*flow).rounds[place]).read_volatile(), now());
            atomic::add(&raw mut (*flow).response_time, time);
            atomic::add(&raw mut (*flow).responses, 1);
            (Some(time), talk == Talk::Http1)
        }
    }
}
