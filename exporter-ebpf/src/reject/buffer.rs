//! Refusing a socket buffer.

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT,
        bpf_adj_room_mode::{BPF_ADJ_ROOM_MAC, BPF_ADJ_ROOM_NET},
    },
    helpers::generated::{
        bpf_clone_redirect, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use tidewaiter_common::{
    frame::Framing,
    interface::LOOPBACK_INDEX,
    packet::{TCP_HEADER, tcp_flag},
    reject::MAX_ANSWER,
};

use super::{ADDRESSES, NO_ANSWER, RESET, UNREACHABLE, answer, read_question, refused};
use crate::{
    NEXT,
    account::{interface, read_paged},
    context::{interface_index, packet_type},
    frame::Paged,
    maps::SCRATCH,
};

const DROP: i32 = TC_ACT_SHOT;

/// A packet that was sent to this host alone (`PACKET_HOST`, `include/uapi/linux/if_packet.h`).
const TO_THIS_HOST: u32 = 0;

/// Answers a received buffer by what it becomes itself, sent out of the interface that it came by: the result is the program's
/// verdict. What gets no answer is dropped.
///
/// On the loopback interface the answer is received there again, and passes the same program: whoever calls this must let it
/// pass, or else it is dropped, as no answer is answered.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn reject_buffer(skb: *mut __sk_buff) -> i32 {
    let kind = ask(skb);
    if kind == NO_ANSWER || become_answer(skb, kind) == 0 {
        return DROP;
    }
    let ctx = TcContext::new(skb);
    // SAFETY: the helper takes numbers. What is transmitted passes the other hook, and is counted there.
    unsafe { bpf_redirect(interface_index(&ctx), 0) as i32 }
}

/// Ends the connection that a received buffer belongs to at both ends: sends its sender a reset, and makes the buffer a reset
/// to its receiver, which the caller lets go on to the stack: the result is the program's verdict.
///
/// The sender takes the reset if it has acknowledged all that the receiver has sent; else it asks again with its next segment,
/// and is told by the stack that there is no such connection any more. A buffer that is none of an established connection's,
/// with payload, goes on as it is. What the kernel does not let us change is dropped, and comes again.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn reset_both(skb: *mut __sk_buff) -> i32 {
    if ask(skb) != RESET {
        return NEXT;
    }
    if carries_data() == 0 {
        return NEXT;
    }
    if become_answer(skb, RESET) == 0 {
        return DROP;
    }
    let ctx = TcContext::new(skb);
    // Whether it gets through is not ours to say: the receiver's end of the connection is over all the same.
    // SAFETY: the kernel clones the buffer; until the clone is through it takes care of what both share.
    unsafe { bpf_clone_redirect(skb, interface_index(&ctx), 0) };
    if become_reset(skb) == 0 { DROP } else { NEXT }
}

/// Reads the question, and says what kind of answer it gets.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask(skb: *mut __sk_buff) -> u32 {
    let ctx = TcContext::new(skb);
    // As the kernel has it for its own errors (`icmp_send`): what was sent to many, or to another host, is not for us to answer.
    if packet_type(&ctx) != TO_THIS_HOST {
        return NO_ANSWER;
    }
    read_paged(skb);
    let (Some(scratch), Some(refused)) = (SCRATCH.get_ptr(0), refused()) else { return NO_ANSWER };
    // SAFETY: this CPU's own entry, as in `account_paged`; it was written by `read_paged` a moment ago.
    let scratch = unsafe { &*scratch };
    if scratch.reason != u8::MAX {
        return NO_ANSWER;
    }
    refused.packet = scratch.packet;
    read_question(refused, &Paged(&ctx), interface_index(&ctx) == LOOPBACK_INDEX)
}

/// Whether the question is a segment of an established connection, with payload.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn carries_data() -> u32 {
    let Some(refused) = refused() else { return 0 };
    let flags = refused.question.flags & (tcp_flag::SYN | tcp_flag::ACK);
    u32::from(flags == tcp_flag::ACK && refused.question.payload > 0)
}

/// Makes the buffer the answer to itself. Answers with 0 if that cannot be.
///
/// A device that is to complete a checksum keeps where that stands by its place in memory, which no program can change. So the
/// transport's header stays where it is, and the headers before it move: options and extension headers are taken out between
/// them, or room is made before all.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn become_answer(skb: *mut __sk_buff, kind: u32) -> u32 {
    if compose(skb, kind) == 0 {
        return 0;
    }
    let Some(refused) = refused() else { return 0 };
    let (start, transport) = (refused.question.network_offset, refused.question.transport_offset);
    let length = refused.answer.length;
    let reshaped = if kind == UNREACHABLE {
        // What is in the buffer is quoted, behind new headers.
        // SAFETY: the helpers check whatever they are given.
        unsafe {
            bpf_skb_change_tail(skb, start + refused.quoted, 0) == 0
                && bpf_skb_adjust_room(skb, length.cast_signed(), BPF_ADJ_ROOM_MAC, 0) == 0
        }
    } else {
        let spare = (transport + TCP_HEADER as u32).wrapping_sub(start + length);
        // SAFETY: as above.
        unsafe {
            bpf_skb_change_tail(skb, transport + TCP_HEADER as u32, 0) == 0
                && (spare == 0 || bpf_skb_adjust_room(skb, -spare.cast_signed(), BPF_ADJ_ROOM_NET, 0) == 0)
        }
    };
    u32::from(reshaped && store(skb) != 0 && turn_round(skb) != 0)
}

/// Makes the buffer, which has become the reset to its sender, one to its receiver. Answers with 0 if that cannot be.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn become_reset(skb: *mut __sk_buff) -> u32 {
    let Some(refused) = refused() else { return 0 };
    let is_partial = refused.question.is_partial();
    refused.answer.reset_instead(&refused.question, is_partial);
    u32::from(store(skb) != 0 && turn_round(skb) != 0)
}

/// Puts the headers of the answer together. Answers with 0 if there is to be none.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn compose(skb: *mut __sk_buff, kind: u32) -> u32 {
    let Some(refused) = refused() else { return 0 };
    let is_partial = refused.question.is_partial();
    u32::from(answer(refused, &Paged(&TcContext::new(skb)), kind, is_partial))
}

/// Writes the headers of the answer behind the link-layer header. Answers with 0 if they do not fit.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn store(skb: *mut __sk_buff) -> u32 {
    let Some(refused) = refused() else { return 0 };
    let (start, length) = (refused.question.network_offset, refused.answer.length);
    if length == 0 || length > MAX_ANSWER as u32 {
        return 0;
    }
    // With the checksum that some devices hand over with a buffer kept as it should be, for who receives this.
    // SAFETY: there are so many bytes; the helper checks where it writes.
    let result = unsafe {
        bpf_skb_store_bytes(skb, start, refused.answer.bytes().as_ptr().cast(), length, BPF_F_RECOMPUTE_CSUM.into())
    };
    u32::from(result == 0)
}

/// Swaps the addresses of the link layer, if it has any. Answers with 0 if that cannot be.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn turn_round(skb: *mut __sk_buff) -> u32 {
    let ctx = TcContext::new(skb);
    if Framing::from_number(interface(interface_index(&ctx)).framing) == Framing::Ip {
        return 1;
    }
    let Some(refused) = refused() else { return 0 };
    let link = refused.link.as_mut_ptr();
    let half = ADDRESSES as u32 / 2;
    // Checksums that devices hand over do not cover the link layer.
    // SAFETY: there is room for what is read, and what is written is there.
    let result = unsafe {
        if bpf_skb_load_bytes(skb.cast(), half, link.cast(), half) != 0
            || bpf_skb_load_bytes(skb.cast(), 0, link.add(ADDRESSES / 2).cast(), half) != 0
        {
            return 0;
        }
        bpf_skb_store_bytes(skb, 0, link.cast(), ADDRESSES as u32, 0)
    };
    u32::from(result == 0)
}
