//! What both sides of the kernel boundary share.
//!
//! Everything here is a pure decision or a plain layout: it runs inside the BPF programs and, natively, in
//! userspace and in the tests. Nothing here knows of maps, hooks or sockets.
//!
//! * [`frame`] and [`packet`] read the headers of one packet;
//! * [`wire`] and [`tunnel`] say how many packets and bytes a socket buffer was on the wire;
//! * [`api`] finds the API that a packet belongs to;
//! * [`interface`] and [`reason`] lay out what is counted for each interface, [`flow`] what is kept of each flow;
//! * [`details`] lays out what is counted for each API beside packets and bytes, [`histogram`] how durations are,
//!   [`transmission`] what tracepoints tell;
//! * [`turn`] tells requests from answers, and times them; [`protocol`] and [`http`] read the first bytes of a payload;
//! * [`anomaly`] names what should not be, and finds it;
//! * [`guard`] judges what is let in, [`limiter`] how much of it, and [`prefix`] finds out who it is from; [`reject`] puts
//!   together the answers that refuse a packet;
//! * [`event`] lays out what the kernel tells of by itself;
//! * [`limiter`] says what is within a limit, [`prefix`] to which lists of prefixes an address belongs;
//! * [`record`] lays out what userspace keeps in the kernel for the next exporter.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod address;
pub mod anomaly;
pub mod api;
pub mod atomic;
pub mod clients;
pub mod counters;
pub mod details;
pub mod direction;
pub mod event;
pub mod flow;
pub mod frame;
pub mod guard;
pub mod histogram;
pub mod http;
pub mod interface;
pub mod limiter;
mod numbered;
pub mod packet;
pub mod prefix;
pub mod protocol;
pub mod reason;
pub mod record;
pub mod reject;
pub mod role;
pub mod transmission;
pub mod transport;
pub mod tunnel;
pub mod turn;
pub mod wire;

/// Name of the BPF program that accounts received packets.
pub const ACCOUNT_RECEIVE: &str = "account_receive";
/// Name of the BPF program that accounts transmitted packets.
pub const ACCOUNT_TRANSMIT: &str = "account_transmit";
/// Name of the BPF program that those two end in, for packets that may change what their flow is: never attached.
pub const FOLLOW: &str = "follow";
/// Its place among the programs that others end in.
pub const FOLLOW_INDEX: u32 = 0;
/// Name of the BPF program of XDP that judges frames as they come from the wire.
pub const GUARD_FRAME: &str = "guard_frame";
/// Name of the BPF program that judges received socket buffers, where frames cannot be, and marks them: the program that
/// accounts received packets ends in it before it does anything. Never attached.
pub const GUARD_BUFFER: &str = "guard_buffer";
/// Its place among the programs that others end in.
pub const GUARD_BUFFER_INDEX: u32 = 1;
/// The place of the program that accounts received packets among those that others end in: that goes on in it with what is let in.
pub const ACCOUNT_RECEIVE_INDEX: u32 = 2;
/// Name of the BPF program that judges requests, and payload that is not expected, after they were accounted: never attached.
pub const GUARD_PAYLOAD: &str = "guard_payload";
/// Its place among the programs that others end in.
pub const GUARD_PAYLOAD_INDEX: u32 = 3;
/// Name of the BPF program that those two go on in, for packets that may be anomalies: never attached.
pub const INSPECT: &str = "inspect";
/// Its place among the programs that others end in.
pub const INSPECT_INDEX: u32 = 4;
/// Name of the BPF program that asks one rule about a buffer, and ends in itself to ask the next: never attached.
pub const ASK_BUFFER: &str = "ask_rule_buffer";
/// Its place among the programs that others end in.
pub const ASK_BUFFER_INDEX: u32 = 5;
/// Name of the BPF program that answers a buffer that is refused: never attached.
pub const REFUSE_BUFFER: &str = "refuse_buffer";
/// Its place among the programs that others end in.
pub const REFUSE_BUFFER_INDEX: u32 = 6;
/// How many programs others end in.
pub const PROGRAM_ENTRIES: u32 = 7;
/// Name of the BPF program of XDP that asks one rule about a frame, likewise.
pub const ASK_FRAME: &str = "ask_rule_frame";
/// Its place among the programs of XDP that others end in.
pub const ASK_FRAME_INDEX: u32 = 0;
/// Name of the BPF program of XDP that answers a frame that is refused, likewise.
pub const REFUSE_FRAME: &str = "refuse_frame";
/// Its place among the programs of XDP that others end in.
pub const REFUSE_FRAME_INDEX: u32 = 1;
/// How many programs of XDP others end in.
pub const FRAME_PROGRAM_ENTRIES: u32 = 2;
/// Name of the BPF program that says what tick of the kernel it is: never attached.
pub const CLOCK: &str = "clock";
/// Name of the BPF program that ends flows: userspace hands it keys, and it takes those flows out of the table that have been
/// quiet, counts their end, and tells of them. Never attached. How many of the keys it has dealt with is then the first word
/// of `cb`: fewer than there were if there was no more room in the ring.
pub const FINISH: &str = "finish";
/// Name of the BPF program that does nothing: the baseline of every benchmark, never attached.
pub const BASELINE: &str = "baseline";
/// Name of the BPF program of XDP that does nothing: likewise.
pub const BASELINE_FRAME: &str = "baseline_frame";
/// Name of the BPF program that refuses each frame that can be answered: for tests alone, as are the next two.
pub const ALWAYS_REJECT: &str = "always_reject";
/// Name of the BPF program that refuses each received buffer that can be answered.
pub const ALWAYS_REJECT_BUFFER: &str = "always_reject_buffer";
/// Name of the BPF program that ends each connection at both ends with the first payload that is received.
pub const ALWAYS_RESET_BOTH: &str = "always_reset_both";

/// Name of the BPF program that counts segments that are sent again.
pub const COUNT_RETRANSMISSION: &str = "count_retransmission";
/// Name of the BPF program that counts answers to opening segments that are sent again.
pub const COUNT_SYNACK_RETRANSMISSION: &str = "count_synack_retransmission";
/// Name of the BPF program that counts what the kernel drops.
pub const COUNT_DROP: &str = "count_drop";

/// Name of the read-only [`KernelLayout`](transmission::KernelLayout).
pub const KERNEL_LAYOUT: &str = "KERNEL_LAYOUT";

/// Name of the read-only switch that makes the programs replay captures: the length of a packet is then the first word
/// of its `cb`, its interface its `mark`, and the time its `tstamp`.
pub const REPLAY: &str = "REPLAY";

/// Name of the read-only switch that makes the programs keep flows.
pub const TRACK_FLOWS: &str = "TRACK_FLOWS";

/// Name of the read-only switch that makes the programs sample requests: see
/// [`sample_kind::REQUEST`](event::sample_kind::REQUEST).
pub const SAMPLE_REQUESTS: &str = "SAMPLE_REQUESTS";
