//! The answer that a frame should get: by the same decisions as in the kernel, which have tests of their own against etherparse.

use tidewaiter_common::{
    frame::Framing,
    packet::{ETHERNET_HEADER, Packet},
    reject::{Answer, Question, Refusal},
};

/// The answer to `frame`, whose checksums are whole, if there is to be one.
pub(crate) fn to(frame: &[u8], framing: Framing, is_loopback: bool) -> Option<Vec<u8>> {
    let (mut packet, mut question, mut answer) = (Packet::UNREAD, Question::UNREAD, Answer::NONE);
    packet.read(frame, framing).ok()?;
    let refusal = question.read(frame, &packet, is_loopback)?;
    let quoted = match refusal {
        Refusal::Reset => {
            answer.reset(&question, false);
            0
        }
        Refusal::Unreachable => {
            let quote = question.quote(frame, false)?;
            answer.unreachable(&question, quote);
            quote.length as usize
        }
    };
    let (link, question) = frame.split_at(packet.network_offset);
    let mut link = link.to_vec();
    if link.len() >= ETHERNET_HEADER {
        link[..12].rotate_left(6);
    }
    Some([&link, &answer.bytes()[..answer.length as usize], &question[..quoted]].concat())
}
