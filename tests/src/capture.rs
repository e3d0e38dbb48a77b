//! Packets as a packet socket sees them (packet(7)): what passes between the device and the stack.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, SockAddr, Socket, Type};
use tidewaiter_common::direction::Direction;

use crate::{namespace::Namespace, network::packet_address};

/// All protocols (`ETH_P_ALL`, `include/uapi/linux/if_ether.h`).
const EVERY_PROTOCOL: u16 = 0x0003;
/// Packets that go out (`PACKET_OUTGOING`, `include/uapi/linux/if_packet.h`), and the option for what was dropped.
const OUTGOING: u8 = 4;
const STATISTICS: libc::c_int = 6;
/// What is kept of each packet: all headers that tests look at.
const KEPT: usize = 128;
/// Room for packets that were not read yet.
static BUFFER: libc::c_int = 256 << 20;
/// How long the reader waits for a packet before it looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(50);

/// A packet.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Which way it went.
    pub direction: Direction,
    /// Bytes of the whole frame.
    pub length: usize,
    /// The first of them.
    pub start: Vec<u8>,
}

/// A capture that is under way.
#[derive(Debug)]
pub struct Capture {
    is_over: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Captured>>,
}

impl Capture {
    /// Starts one on the interface called `name` of `namespace`.
    #[must_use]
    pub fn start(namespace: &Namespace, name: &str) -> Self {
        let socket = namespace.run(|| {
            // Without a protocol it hears nothing yet.
            let socket = Socket::new(Domain::PACKET, Type::RAW, None).expect("is permitted");
            set_buffer(&socket);
            let any = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("is permitted");
            let index = rustix::net::netdevice::name_to_index(&any, name).expect("is there");
            socket.bind(&packet_address(index, EVERY_PROTOCOL)).expect("can be heard");
            socket
        });
        socket.set_read_timeout(Some(PATIENCE)).expect("is a time");
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        Self { is_over, reader: thread::spawn(move || read(&socket, &over)) }
    }

    /// Ends it, and answers with all that passed; nothing may have been dropped.
    #[must_use]
    pub fn end(self) -> Vec<Captured> {
        self.is_over.store(true, Ordering::Relaxed);
        self.reader.join().expect("the reader does not panic")
    }
}

fn read(socket: &Socket, is_over: &AtomicBool) -> Vec<Captured> {
    let mut packets = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); KEPT];
    loop {
        match socket.recv_from_with_flags(&mut buffer, libc::MSG_TRUNC) {
            Ok((length, address)) => {
                let kept = &buffer[..length.min(KEPT)];
                // SAFETY: the kernel has written so many bytes.
                let start = kept.iter().map(|byte| unsafe { byte.assume_init() }).collect();
                packets.push(Captured { direction: direction(&address), length, start });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(dropped(socket), 0, "the capture lost packets");
    packets
}

fn direction(address: &SockAddr) -> Direction {
    // SAFETY: an address of a packet socket is a `sockaddr_ll`.
    let address = unsafe { &*address.as_ptr().cast::<libc::sockaddr_ll>() };
    if address.sll_pkttype == OUTGOING { Direction::Transmit } else { Direction::Receive }
}

fn set_buffer(socket: &Socket) {
    // SAFETY: the option takes a number.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const BUFFER).cast(),
            size_of_val(&BUFFER) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// How many packets found no room since the last time that this was asked.
fn dropped(socket: &Socket) -> u32 {
    // `struct tpacket_stats`: packets, and drops.
    let mut statistics = [0_u32; 2];
    let mut length = size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the option is such a structure.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    statistics[1]
}
