//! Programs that send frames which differ from each other, as fast as they can: see [`Program::run_live`].

use std::os::fd::AsRawFd as _;

use tidewaiter_common::packet::tcp_flag;

use super::{
    Map, Program,
    assembler::{
        add, add_word, call, constant, constant_word, copy, divide, exit, load_double_word, load_word, map_values,
        remainder, skip_if_above, skip_unless, store_byte, store_double_word, store_half_word, store_word, swap_word,
    },
    uapi,
};
use crate::frames::Offsets;

/// Sends frames that differ from each other. One thread at a time may have it do so.
#[derive(Debug)]
pub struct Generator {
    /// The program, to be [run](Program::run_live).
    pub program: Program,
    /// How many were sent.
    _count: Map,
}

impl Generator {
    /// Sends frames of UDP or TCP over IPv4 out of the interface with `index`: `each` with the same source address, which is
    /// `from` and one more for each flow. Segments of TCP are the first, the last, and what is in between, of a connection that
    /// is reset.
    #[must_use]
    pub fn flows(index: u32, is_tcp: bool, from: u32, each: i32) -> Self {
        let mut code = vec![copy(5, 8), divide(5, each), add_word(5, from), swap_word(5)];
        code.push(store_word(2, at(Offsets::IPV4.source), 5));
        if is_tcp {
            let flags = |flags: u8| constant(5, flags.into());
            code.extend([copy(4, 8), remainder(4, each), flags(tcp_flag::PSH | tcp_flag::ACK)]);
            code.extend([skip_unless(4, 0, 1), flags(tcp_flag::SYN)]);
            code.extend([skip_unless(4, each - 1, 1), flags(tcp_flag::RST | tcp_flag::ACK)]);
            code.push(store_byte(2, at(Offsets::IPV4.flags), 5));
        }
        Self::new(index, &code)
    }

    /// Sends frames of UDP over IPv4 out of the interface with `index`: one in `each` as it is, the others to another `port`.
    #[must_use]
    pub fn one_in(index: u32, each: i32, port: u16, other: u16) -> Self {
        let put = |port: u16| constant_word(5, port.to_be().into());
        let mut code = vec![copy(4, 8), remainder(4, each), put(other), skip_unless(4, 0, 1), put(port)];
        code.push(store_half_word(2, at(Offsets::IPV4.ports + 2), 5));
        Self::new(index, &code)
    }

    fn new(index: u32, change: &[u64]) -> Self {
        let count = Map::new(uapi::MAP_ARRAY, 8, 1);
        // The frame in register 2, how many there were before in register 8.
        let mut code = vec![load_word(2, 1, 0), load_word(3, 1, 4)];
        code.extend(map_values(7, count.0.as_raw_fd()));
        code.extend([load_double_word(8, 7, 0), copy(5, 8), add(5, 1), store_double_word(7, 0, 5)]);
        code.extend([copy(4, 2), add(4, 54), skip_if_above(4, 3, i16::try_from(change.len()).expect("a few"))]);
        code.extend(change);
        code.extend([constant(1, index.try_into().expect("is small")), constant(2, 0), call(uapi::REDIRECT), exit()]);
        Self { program: Program::load(uapi::XDP, &code), _count: count }
    }
}

fn at(offset: usize) -> i16 {
    i16::try_from(offset).expect("is within a frame")
}
