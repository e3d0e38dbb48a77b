//! Refusing a frame before the stack sees it.

use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_DROP, XDP_TX},
        xdp_md,
    },
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use tidewaiter_common::{
    frame::{Frame, Framing},
    packet::{Network, Packet},
    reject::{Answer, MAX_ANSWER},
};

use super::{
    ADDRESSES, GROUP, LINK, LINK_TAG, MAX_LINK, NO_ANSWER, Refused, UNREACHABLE, answer, read_question, refused,
};
use crate::guard::frame::Paged;

/// The part of a frame that lies in one piece: all of it, but for jumbo frames, and there all headers.
struct XdpLinear(*mut xdp_md);

/// Reads a field of the context that is a pointer to the verifier and 32 bits to the compiler, which would cut it down to those
/// when it carries it from one branch to another: then the verifier takes it for a number.
macro_rules! pointer {
    ($ctx:expr, $field:ident) => {{
        let ctx: *mut xdp_md = $ctx;
        let pointer: usize;
        #[cfg(target_arch = "bpf")]
        // SAFETY: `ctx` is the context that the kernel gave this program; the verifier allows reading this field. Not pure:
        // the helpers that move a frame's ends change it.
        unsafe {
            core::arch::asm!(
                "{pointer} = *(u32 *)({ctx} + {offset})",
                pointer = out(reg) pointer,
                ctx = in(reg) ctx,
                offset = const core::mem::offset_of!(xdp_md, $field),
                options(readonly, nostack, preserves_flags),
            );
        }
        // Only for checks of the source on other machines.
        #[cfg(not(target_arch = "bpf"))]
        {
            // SAFETY: as above.
            pointer = unsafe { (&raw const (*ctx).$field).read_volatile() } as usize;
        }
        pointer
    }};
}

impl XdpLinear {
    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        (pointer!(self.0, data), pointer!(self.0, data_end))
    }

    /// The first bytes.
    #[inline(always)]
    fn read<const N: usize>(&self) -> Option<[u8; N]> {
        let (start, end) = self.bounds();
        if start + N > end {
            return None;
        }
        // SAFETY: these bytes lie within the frame; the verifier holds us to the comparison above.
        Some(unsafe { (start as *const [u8; N]).read() })
    }

    /// Writes `bytes` at `offset`, and says whether they fit.
    #[inline(always)]
    fn write<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> bool {
        let (data, end) = self.bounds();
        let start = data + offset;
        if start + N > end {
            return false;
        }
        // SAFETY: these bytes lie within the frame; the verifier holds us to the comparison above.
        unsafe { (start as *mut [u8; N]).write(*bytes) };
        true
    }
}

/// Answers a received frame, with an Ethernet header, by what it becomes itself, sent out of the interface that it came by: the
/// result is the program's verdict. What gets no answer is dropped.
///
/// Two kinds of devices lose such answers: a veth device whose peer has no program of XDP, because it does not wake that up
/// (`veth_xdp_flush`, `drivers/net/veth.c`), and one that takes tags off before it calls the program, because nothing
/// puts them on again. There [`reject_buffer`](super::reject_buffer) is the way.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn reject_frame(ctx: *mut xdp_md) -> u32 {
    if read_frame(ctx) == 0 {
        return XDP_DROP;
    }
    let kind = ask_frame(ctx);
    if kind == NO_ANSWER || compose_frame(ctx, kind) == 0 {
        return XDP_DROP;
    }
    if reshape(ctx, kind) == 0 || write_frame(ctx) == 0 {
        return XDP_DROP;
    }
    XDP_TX
}

/// Reads the headers. Answers with 0 if there is nothing to answer.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_frame(ctx: *mut xdp_md) -> u32 {
    let Some(refused) = refused() else { return 0 };
    let ctx = XdpContext::new(ctx);
    let frame = Paged(&ctx);
    let Some([first, _]) = frame.read(0) else { return 0 };
    let mut packet = Packet::UNREAD;
    let is_read = first & GROUP == 0 && packet.read(&frame, Framing::Ethernet).is_ok();
    refused.packet = packet;
    is_read.into()
}

/// Reads the question, and says what kind of answer it gets.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn ask_frame(ctx: *mut xdp_md) -> u32 {
    let Some(refused) = refused() else { return NO_ANSWER };
    read_question(refused, &Paged(&XdpContext::new(ctx)), false)
}

/// Puts the headers of the answer together. Answers with 0 if there is to be none.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn compose_frame(ctx: *mut xdp_md, kind: u32) -> u32 {
    let Some(refused) = refused() else { return 0 };
    let linear = XdpLinear(ctx);
    let ctx = XdpContext::new(ctx);
    let frame = Paged(&ctx);
    // No device completes what is sent from here.
    let is_composed = answer(refused, &frame, kind, false);
    let is_kept = match refused.question.network_offset as usize {
        LINK => keep_link::<LINK>(&linear, &mut refused.link),
        LINK_TAG => keep_link::<LINK_TAG>(&linear, &mut refused.link),
        MAX_LINK => keep_link::<MAX_LINK>(&linear, &mut refused.link),
        _ => false,
    };
    u32::from(is_composed && is_kept)
}

#[inline(always)]
fn keep_link<const N: usize>(frame: &XdpLinear, link: &mut [u8; MAX_LINK]) -> bool {
    let Some(header) = frame.read::<N>() else { return false };
    let turned = turned(header);
    // SAFETY: none that is kept is longer than that.
    unsafe { link.as_mut_ptr().cast::<[u8; N]>().write(turned) };
    true
}

/// Makes the frame as long as the answer. Answers with 0 if that cannot be.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn reshape(ctx: *mut xdp_md, kind: u32) -> u32 {
    let Some(refused) = refused() else { return 0 };
    let length = refused.answer.length;
    let kept = refused.question.network_offset + if kind == UNREACHABLE { refused.quoted } else { length };
    let tail = kept.wrapping_sub(Paged(&XdpContext::new(ctx)).length() as u32).cast_signed();
    // SAFETY: the helpers check whatever they are given.
    unsafe {
        if tail != 0 && bpf_xdp_adjust_tail(ctx, tail) != 0 {
            return 0;
        }
        if kind == UNREACHABLE && bpf_xdp_adjust_head(ctx, -length.cast_signed()) != 0 {
            return 0;
        }
    }
    1
}

/// Writes the headers. Answers with 0 if they do not fit.
// SAFETY: nothing else in the object has this name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn write_frame(ctx: *mut xdp_md) -> u32 {
    let Some(refused) = refused() else { return 0 };
    let frame = XdpLinear(ctx);
    u32::from(match refused.question.network_offset as usize {
        LINK => write_at::<LINK>(&frame, refused),
        LINK_TAG => write_at::<LINK_TAG>(&frame, refused),
        MAX_LINK => write_at::<MAX_LINK>(&frame, refused),
        _ => false,
    })
}

/// Writes the headers, `LINK` bytes of them those of the link layer.
#[inline(always)]
fn write_at<const LINK: usize>(frame: &XdpLinear, refused: &Refused) -> bool {
    // SAFETY: so many bytes were kept.
    let link = unsafe { &*refused.link.as_ptr().cast::<[u8; LINK]>() };
    let answer = &refused.answer;
    frame.write(0, link)
        && match answer.length as usize {
            RESET4 => frame.write::<RESET4>(LINK, first(answer)),
            RESET6 => frame.write::<RESET6>(LINK, first(answer)),
            UNREACHABLE4 => frame.write::<UNREACHABLE4>(LINK, first(answer)),
            UNREACHABLE6 => frame.write::<UNREACHABLE6>(LINK, first(answer)),
            _ => false,
        }
}

/// The lengths that answers have.
const RESET4: usize = Answer::reset_length(Network::Ipv4);
const RESET6: usize = Answer::reset_length(Network::Ipv6);
const UNREACHABLE4: usize = Answer::unreachable_length(Network::Ipv4);
const UNREACHABLE6: usize = Answer::unreachable_length(Network::Ipv6);

/// The first bytes of the answer's headers.
#[inline(always)]
fn first<const N: usize>(answer: &Answer) -> &[u8; N] {
    const { assert!(N <= MAX_ANSWER) };
    // SAFETY: there are more than these.
    unsafe { &*answer.bytes().as_ptr().cast() }
}

/// An Ethernet header with its addresses swapped.
#[inline(always)]
const fn turned<const N: usize>(header: [u8; N]) -> [u8; N] {
    let mut turned = header;
    let mut place = 0;
    while place < ADDRESSES {
        turned[place] = header[(place + ADDRESSES / 2) % ADDRESSES];
        place += 1;
    }
    turned
}
