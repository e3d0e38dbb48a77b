//! What the two ends of a flow say: what their payload looks like, requests, and answers.

use aya_ebpf::{EbpfContext as _, bindings::__sk_buff, helpers::bpf_skb_load_bytes, programs::TcContext};
use tidewaiter_common::{
    anomaly::AnomalyKind,
    direction::Direction,
    event::{Lost, SAMPLE_BYTES, SAMPLED_REQUESTS, Sample, sample_kind},
    flow::{CLASSIFIED, DATAGRAMS, Flow, HTTP1, PAYLOAD, UNEXPECTED},
    histogram::Range,
    http,
    packet::protocol,
    protocol::{PREFIX_BYTES, Prefix, Protocol},
    transport::Transport,
    turn::{Segment, Talk},
};

use crate::{
    anomaly::is_looked_for,
    connection::{NO_WAKEUP, details, lose},
    context::{captured_length, is_replay, precise_nanoseconds, samples_requests},
    flow::Sight,
    guard::buffer,
    maps::{EXPECTATIONS, SAMPLE_SCRATCH, SAMPLES, SCRATCH},
};

/// What a ring is asked for (`BPF_RB_AVAIL_DATA` and `BPF_RB_RING_SIZE`, `include/uapi/linux/bpf.h`).
const AVAILABLE_DATA: u64 = 0;
const RING_SIZE: u64 = 1;

/// Takes note of a packet, which says something `new` ([`Flow::count`]), as part of what is said.
#[inline(always)]
pub(crate) fn speak(skb: *mut __sk_buff, sight: &Sight, flow: *mut Flow, new: u64) {
    if Flow::says(new, sight.direction(), PAYLOAD) {
        greet(skb, sight, flow);
    }
    if sight.api().is_mapped() {
        take_turn(skb, sight, flow);
    }
}

/// Reads the first bytes of the payload.
#[inline(always)]
fn prefix(skb: *mut __sk_buff, sight: &Sight) -> Option<&'static Prefix> {
    let ctx = TcContext::new(skb);
    let prefix = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own entry, as in `account`; the helper writes `length` bytes, for which there is room.
    unsafe {
        let prefix = &raw mut (*prefix).prefix;
        prefix.write(Prefix { bytes: [0; PREFIX_BYTES], length: 0, payload: sight.segment.payload });
        let there = captured_length(&ctx).saturating_sub(sight.headers);
        let length = sight.segment.payload.min(there).min(PREFIX_BYTES as u32);
        if length > 0 && bpf_skb_load_bytes(ctx.as_ptr(), sight.headers, (&raw mut (*prefix).bytes).cast(), length) == 0
        {
            (*prefix).length = length;
        }
        Some(&*prefix)
    }
}

/// Leaves in [`SCRATCH`] what the payload looks like. A function of its own, and through a map: else the verifier would follow
/// each way through it to the end of all that comes after.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn classify(skb: *mut __sk_buff, sight: &Sight) {
    let transport = if sight.is_tcp() { Transport::Tcp } else { Transport::Udp };
    let Some(prefix) = prefix(skb, sight) else { return };
    let found = Protocol::classify(transport, prefix);
    if let Some(scratch) = SCRATCH.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, as in `account`.
        unsafe { (&raw mut (*scratch).found).write_volatile(found as u8) };
    }
}

/// Takes note of the first payload of a direction, of which [`classify`] has said what it looks like.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn greet(skb: *mut __sk_buff, sight: &Sight, flow: *mut Flow) {
    let is_tcp = sight.is_tcp();
    if !is_tcp && sight.key.protocol != protocol::UDP.into() {
        return;
    }
    let Some(scratch) = SCRATCH.get_ptr(0) else { return };
    // SAFETY: this CPU's own entry, as in `account`.
    let found = unsafe { (&raw const (*scratch).found).read_volatile() };
    let direction = sight.direction();
    let is = |protocol: Protocol| found == protocol as u8;
    let mut bits = Flow::protocol_bits(direction, found);
    if is(Protocol::Http1) {
        bits |= HTTP1;
    }
    if is(Protocol::Dns) && !is_tcp {
        bits |= DATAGRAMS;
    }
    let is_known = !is(Protocol::Unknown);
    let Some(details) = details(sight.api()) else { return };
    // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone; for all of it.
    unsafe {
        Flow::note(flow, bits);
        let seen = (&raw const (*flow).seen).read_volatile();
        let is_answer = Flow::says(seen, direction.opposite(), PAYLOAD);
        if (is_known || is_answer)
            && Flow::note(flow, CLASSIFIED) != 0
            && let Some(count) = details.protocols.get_mut(usize::from(found))
        {
            *count += 1;
        }
        let expected = EXPECTATIONS.get(u32::from(sight.api().0)).copied().unwrap_or(0);
        // What answers something unknown may be anything, and so may what comes in the middle of a connection.
        let is_beginning = !is_tcp || (*flow).opened != 0;
        let is_unexpected = expected & (1 << (found & 31)) == 0 && (is_known || (is_beginning && sight.is_request()));
        let is_unexpected = expected != 0 && is_unexpected;
        if is_unexpected && is_received_by_server(sight) {
            judge_later(buffer::UNEXPECTED);
        }
        let is_unexpected = is_unexpected && is_looked_for(AnomalyKind::UnexpectedPayload as u8);
        if is_unexpected && Flow::note(flow, UNEXPECTED) != 0 {
            details.unexpected += 1;
            sample(skb, sight, sample_kind::UNEXPECTED, found);
        }
        // Of traffic of no API there may be much, and nobody asks.
        let is_asked_for = sight.api().is_mapped() || is_replay();
        let is_greeting = (is(Protocol::Tls) || is(Protocol::Http2)) && is_tcp && is_asked_for;
        // Whoever has not been answered may have sent it to anyone.
        if is_greeting && Flow::is_answered(seen, direction) {
            sample(skb, sight, sample_kind::GREETING, found);
        }
    }
}

/// Whether the guard may have anything to say of it.
#[inline(always)]
const fn is_received_by_server(sight: &Sight) -> bool {
    sight.is_server() && matches!(sight.direction(), Direction::Receive)
}

/// Has the packet judged, after all else.
#[inline(always)]
fn judge_later(late: u32) {
    if let Some(scratch) = SCRATCH.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, as in `account`.
        unsafe {
            let place = &raw mut (*scratch).late;
            place.write_volatile(place.read_volatile() | late);
        }
    }
}

/// What [`read_beginning`] says of a payload that does not begin a request or an answer.
const NOTHING: u32 = u32::MAX;

/// Leaves in [`SCRATCH`] what the payload begins with: the method of a request or the status code of an answer of HTTP/1, or the
/// identifier of a datagram. By itself for the same reason as [`classify`].
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_beginning(skb: *mut __sk_buff, sight: &Sight, is_datagram: u32) {
    let Some(prefix) = prefix(skb, sight) else { return };
    let beginning = if is_datagram != 0 {
        u32::from(u16::from_be_bytes([prefix.bytes[0], prefix.bytes[1]]))
    } else if sight.is_request() {
        http::method(prefix).map_or(NOTHING, |method| method as u32)
    } else {
        http::status_code(prefix).map_or(NOTHING, u32::from)
    };
    if let Some(scratch) = SCRATCH.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, as in `account`.
        unsafe { (&raw mut (*scratch).beginning).write_volatile(beginning) };
    }
}

/// Takes note of a packet as part of a request or of an answer.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn take_turn(skb: *mut __sk_buff, sight: &Sight, flow: *mut Flow) {
    let now = || precise_nanoseconds(sight.tick);
    let mut segment: Segment = sight.segment;
    // SAFETY: a flow of the map, which is written to by `Flow`'s methods alone; for all of it.
    unsafe {
        let seen = (&raw const (*flow).seen).read_volatile();
        let talk = if seen & DATAGRAMS != 0 {
            Talk::Datagrams
        } else if seen & HTTP1 != 0 {
            Talk::Http1
        } else {
            Talk::Stream
        };
        let is_request = sight.is_request();
        let reads = segment.payload > 0 && talk != Talk::Stream && (is_request || Flow::waits(Flow::turns(flow)));
        let Some(details) = details(sight.api()) else { return };
        let Some(scratch) = SCRATCH.get_ptr(0) else { return };
        let mut beginning = NOTHING;
        if reads {
            read_beginning(skb, sight, (talk == Talk::Datagrams).into());
            beginning = (&raw const (*scratch).beginning).read_volatile();
        }
        if talk == Talk::Datagrams {
            segment.sequence = beginning;
        }
        if is_request {
            if segment.payload > 0
                && Flow::ask(flow, &segment, talk, beginning != NOTHING, sight.is_server(), now)
                && let Some(count) = details.requests.get_mut(beginning as usize)
            {
                *count += 1;
                if is_received_by_server(sight) {
                    judge_later(buffer::REQUEST);
                }
                let is_early = || Flow::asked(Flow::turns(flow)) <= SAMPLED_REQUESTS;
                // Whoever has not been answered may have sent it to anyone.
                if samples_requests() && is_early() && Flow::is_mutual(seen, sight.direction()) {
                    sample(skb, sight, sample_kind::REQUEST, Protocol::Http1 as u8);
                }
            }
            return;
        }
        let status = if beginning == NOTHING { 0 } else { beginning as u16 };
        let (time, is_new) = Flow::answer(flow, &segment, talk, status, now);
        if let Some(time) = time {
            details.response.observe(Range::Latency, time);
        }
        if is_new
            && status != 0
            && let Some(count) = details.responses.get_mut(http::status_place(status))
        {
            *count += 1;
        }
    }
}

/// Has userspace look at the payload: why, see [`sample_kind`], and the [`Protocol`] that it looks like, as its number.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sample(skb: *mut __sk_buff, sight: &Sight, kind: u8, protocol: u8) {
    let ctx = TcContext::new(skb);
    let Some(scratch) = SAMPLE_SCRATCH.get_ptr_mut(0) else { return };
    let most = if kind == sample_kind::UNEXPECTED { PREFIX_BYTES as u32 } else { SAMPLE_BYTES as u32 };
    let there = captured_length(&ctx).saturating_sub(sight.headers);
    let length = sight.segment.payload.min(there).min(most);
    if length == 0 || length > SAMPLE_BYTES as u32 {
        return;
    }
    // Anybody can send anything: half of the ring is for greetings, and half of the rest for what is out of the ordinary.
    let share = match kind {
        sample_kind::GREETING => 1,
        sample_kind::UNEXPECTED => 2,
        _ => 4,
    };
    if share > 1 && SAMPLES.query(AVAILABLE_DATA) * share > SAMPLES.query(RING_SIZE) {
        return lose(Lost::Sample);
    }
    // SAFETY: this CPU's own entry, as in `account`; the helpers write and read no more than there is.
    unsafe {
        let sample = &raw mut (*scratch).sample;
        sample.write(Sample {
            key: sight.key,
            api: sight.api(),
            kind,
            protocol,
            direction: sight.direction() as u32,
            length,
        });
        let bytes = &raw mut (*scratch).bytes;
        if bpf_skb_load_bytes(ctx.as_ptr(), sight.headers, bytes.cast(), length) != 0 {
            return;
        }
        let written = core::slice::from_raw_parts(scratch.cast::<u8>(), size_of::<Sample>() + length as usize);
        if SAMPLES.output::<[u8]>(written, NO_WAKEUP).is_err() {
            lose(Lost::Sample);
        }
    }
}
