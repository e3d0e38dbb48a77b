//! Refusing packets with an answer: what is received becomes the answer to itself, and goes back to where it came from.
//!
//! Whether and what is answered is decided in [`tidewaiter_common::reject`]. What cannot be answered is dropped, and so is what the
//! kernel does not let us change; nothing is sent or passed on that was changed in part.
//!
//! Functions leave for each other what they found in a map of this module's own, for the reason that
//! [`account`](crate::account) gives. It is not [`SCRATCH`]: a copy of a buffer that is sent at once passes the programs
//! for what is transmitted in the midst of ours.

mod buffer;
mod xdp;

use aya_ebpf::{helpers::generated::bpf_ktime_get_coarse_ns, macros::map, maps::PerCpuArray};
use tidewaiter_common::{
    frame::Frame,
    packet::Packet,
    reject::{Allowance, Answer, Question, Refusal},
};

pub(crate) use self::{
    buffer::{reject_buffer, reset_both},
    xdp::reject_frame,
};

/// Answers of one function to another, because enumerations are numbers to the verifier.
const NO_ANSWER: u32 = 0;
const RESET: u32 = 1;
const UNREACHABLE: u32 = 2;

/// What becomes of the packet that this CPU refuses.
#[map]
static REFUSAL: PerCpuArray<Refused> = PerCpuArray::with_max_entries(1, 0);

#[repr(C)]
struct Refused {
    packet: Packet,
    question: Question,
    answer: Answer,
    /// Length of the quote, in bytes.
    quoted: u32,
    /// The link-layer header of the answer.
    link: [u8; MAX_LINK],
    allowance: Allowance,
}

/// Lengths of the link-layer headers that are kept: Ethernet, with up to two tags.
const LINK: usize = tidewaiter_common::packet::ETHERNET_HEADER;
const LINK_TAG: usize = LINK + tidewaiter_common::packet::VLAN_TAG;
const MAX_LINK: usize = LINK_TAG + tidewaiter_common::packet::VLAN_TAG;

/// Both addresses of an Ethernet header.
const ADDRESSES: usize = 12;

/// The bit of an Ethernet address that says that it is one of many (IEEE 802).
const GROUP: u8 = 1;

/// Reads the question from `frame`, of which `packet` was read.
#[inline(always)]
fn read_question<F: Frame>(refused: &mut Refused, frame: &F, is_loopback: bool) -> u32 {
    match refused.question.read(frame, &refused.packet, is_loopback) {
        None => NO_ANSWER,
        Some(Refusal::Reset) => RESET,
        Some(Refusal::Unreachable) => UNREACHABLE,
    }
}

/// Puts the answer together that [`read_question`] said there is to be. Says whether there is one.
#[inline(always)]
fn answer<F: Frame>(refused: &mut Refused, frame: &F, kind: u32, is_partial: bool) -> bool {
    if kind == RESET {
        refused.answer.reset(&refused.question, is_partial);
        return true;
    }
    let Some(quote) = refused.question.quote(frame, is_partial) else { return false };
    // SAFETY: the helper takes nothing and cannot fail.
    if !refused.allowance.take(unsafe { bpf_ktime_get_coarse_ns() }) {
        return false;
    }
    refused.quoted = quote.length;
    refused.answer.unreachable(&refused.question, quote);
    true
}

/// This CPU's own entry.
#[inline(always)]
fn refused() -> Option<&'static mut Refused> {
    // SAFETY: nobody else has it: the programs that call this do not interrupt each other, as in `account_read`, and the function
    // that has got it is over before another one gets it.
    REFUSAL.get_ptr_mut(0).map(|refused| unsafe { &mut *refused })
}
