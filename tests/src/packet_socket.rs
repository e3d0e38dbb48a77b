//! Packet sockets that count packets of UDP to a port (packet(7)): what programs without eBPF do.

use std::{
    io,
    os::fd::{AsRawFd as _, RawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{frames::Offsets, network::packet_address};

/// IP alone (`ETH_P_IP`, `include/uapi/linux/if_ether.h`).
const IPV4: u16 = 0x0800;
/// Room for packets that were not read yet.
const BUFFER: libc::c_int = 256 << 20;
/// Packets that are read at once.
const MESSAGES: usize = 64;
/// What is read of each.
const KEPT: usize = 128;

/// A ring of blocks, into which the kernel writes packets one after the other.
const BLOCK: usize = 1 << 18;
const BLOCKS: usize = 64;
/// After how many milliseconds the kernel hands over a block that is not full.
const TIMEOUT: u32 = 1;
/// The options and the version of packet sockets, and who has a block (`include/uapi/linux/if_packet.h`).
const RX_RING: libc::c_int = 5;
const VERSION: libc::c_int = 10;
const TPACKET_V3: libc::c_int = 2;
const USER: u32 = 1;

/// A filter that lets through what is to a port of UDP over IPv4 (classic BPF, `Documentation/networking/filter.rst`).
#[must_use]
pub fn port_filter(port: u16) -> [libc::sock_filter; 11] {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let unless =
        |k: u32, jf: u8| libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf, k };
    let if_set = |k: u32, jt: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16,
        jt,
        jf: 0,
        k,
    };
    let [half, byte] = [libc::BPF_H, libc::BPF_B].map(|size| libc::BPF_LD | size | libc::BPF_ABS);
    // What tcpdump makes of "ip and udp dst port".
    [
        statement(half, 12),
        unless(IPV4.into(), 8),
        statement(byte, 23),
        unless(17, 6),
        statement(half, 20),
        if_set(0x1fff, 4),
        statement(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 14),
        statement(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 16),
        unless(port.into(), 1),
        statement(libc::BPF_RET | libc::BPF_K, KEPT as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0),
    ]
}

/// Whether the frame is of UDP over IPv4, and to `port`.
fn is_to(frame: &[u8], port: u16) -> bool {
    let number = |at: usize| frame.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let Some(version) = frame.get(Offsets::IPV4.source - 12) else { return false };
    let headers = 14 + usize::from(version & 0x0f) * 4;
    number(12) == Some(IPV4)
        && frame.get(23) == Some(&17)
        && number(20).is_some_and(|fragment| fragment & 0x1fff < 1)
        && number(headers + 2) == Some(port)
}

fn socket(name: &str, prepare: impl FnOnce(&Socket)) -> Socket {
    // Without a protocol it hears nothing yet.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None::<Protocol>).expect("is permitted");
    prepare(&socket);
    let any = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("is permitted");
    let index = rustix::net::netdevice::name_to_index(&any, name).expect("is there");
    socket.bind(&packet_address(index, IPV4)).expect("can be heard");
    socket
}

fn set<T>(socket: &Socket, level: libc::c_int, option: libc::c_int, value: &T) {
    // SAFETY: the callers give each option what it takes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// A socket that is read by messages, some at once.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
    buffers: Box<[[u8; KEPT]; MESSAGES]>,
}

impl PacketSocket {
    /// Hears the interface called `name` of this thread's namespace.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let socket = socket(name, |socket| set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER));
        Self { socket, buffers: Box::new([[0; KEPT]; MESSAGES]) }
    }

    /// Reads packets until there are none: how many, and how many of them were to `port`.
    pub fn count(&mut self, port: u16) -> [u64; 2] {
        let mut counts = [0; 2];
        loop {
            let mut parts = self
                .buffers
                .each_mut()
                .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: KEPT });
            // SAFETY: zeros are a message without a part or an address.
            let mut messages: [libc::mmsghdr; MESSAGES] = unsafe { std::mem::zeroed() };
            for (message, part) in messages.iter_mut().zip(&mut parts) {
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
            }
            // SAFETY: all that the messages point to lives until the call is over.
            let read = unsafe {
                libc::recvmmsg(
                    self.socket.as_raw_fd(),
                    messages.as_mut_ptr(),
                    MESSAGES as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    std::ptr::null_mut(),
                )
            };
            let Ok(read) = usize::try_from(read) else { return counts };
            for (message, buffer) in messages.iter().zip(self.buffers.iter()).take(read) {
                counts[0] += 1;
                counts[1] += u64::from(is_to(&buffer[..KEPT.min(message.msg_len as usize)], port));
            }
        }
    }
}

/// A socket that the kernel writes packets of into memory which it shares with the reader.
#[derive(Debug)]
pub struct PacketRing {
    socket: Socket,
    /// Their first words.
    blocks: NonNull<AtomicU32>,
    next: usize,
}

// SAFETY: the memory is this ring's alone, and no thread is special to it.
unsafe impl Send for PacketRing {}

impl PacketRing {
    /// Hears what `filter` lets through of the interface called `name` of this thread's namespace.
    #[must_use]
    pub fn new(name: &str, filter: Option<&[libc::sock_filter]>) -> Self {
        /// `struct tpacket_req3`.
        #[repr(C)]
        struct Request {
            block_size: u32,
            blocks: u32,
            frame_size: u32,
            frames: u32,
            timeout: u32,
            private: u32,
            features: u32,
        }
        let socket = socket(name, |socket| {
            if let Some(filter) = filter {
                let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
                set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program);
            }
            set(socket, libc::SOL_PACKET, VERSION, &TPACKET_V3);
            let (block_size, blocks, frame_size) = (BLOCK as u32, BLOCKS as u32, 2_048);
            let frames = block_size / frame_size * blocks;
            let request = Request { block_size, blocks, frame_size, frames, timeout: TIMEOUT, private: 0, features: 0 };
            set(socket, libc::SOL_PACKET, RX_RING, &request);
        });
        let blocks = map(socket.as_raw_fd());
        Self { socket, blocks, next: 0 }
    }

    /// Counts packets in blocks that are full, without a look at any.
    pub fn count(&mut self) -> u64 {
        self.each_block(|_, packets| u64::from(packets))
    }

    /// Looks at packets in blocks that are full: how many, and how many of them were to `port`.
    pub fn count_to(&mut self, port: u16) -> [u64; 2] {
        let mut found = 0;
        let read = self.each_block(|block, packets| {
            // `struct tpacket_hdr_v1`, behind two words: where the first packet is.
            let mut at = word(block, 16) as usize;
            for _ in 0..packets {
                // `struct tpacket3_hdr`: where the next one is; how much of it there is; where its frame begins.
                let (next, kept) = (word(block, at) as usize, word(block, at + 12) as usize);
                let frame = at + usize::from(word(block, at + 24) as u16);
                found += u64::from(block.get(frame..frame + kept).is_some_and(|frame| is_to(frame, port)));
                at += next;
            }
            packets.into()
        });
        [read, found]
    }

    /// Goes through the blocks that are the reader's, and gives them back.
    fn each_block(&mut self, mut each: impl FnMut(&[u8], u32) -> u64) -> u64 {
        let mut sum = 0;
        loop {
            // SAFETY: the block is in the memory that was mapped. Its status is the third word of it.
            let (block, status) = unsafe {
                let block = self.blocks.as_ptr().add(self.next * (BLOCK / size_of::<AtomicU32>()));
                (block, &*block.add(2))
            };
            if status.load(Ordering::Acquire) & USER == 0 {
                return sum;
            }
            // SAFETY: until it is given back the kernel does not write to it.
            let bytes = unsafe { std::slice::from_raw_parts(block.cast::<u8>(), BLOCK) };
            sum += each(bytes, word(bytes, 12));
            status.store(0, Ordering::Release);
            self.next = (self.next + 1) % BLOCKS;
        }
    }
}

impl Drop for PacketRing {
    fn drop(&mut self) {
        let _ = &self.socket;
        // SAFETY: it was mapped so, and nothing points to it any more.
        unsafe { libc::munmap(self.blocks.as_ptr().cast(), BLOCK * BLOCKS) };
    }
}

fn map(socket: RawFd) -> NonNull<AtomicU32> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping of all of the ring.
    let blocks = unsafe { libc::mmap(std::ptr::null_mut(), BLOCK * BLOCKS, access, kind, socket, 0) };
    assert_ne!(blocks, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    NonNull::new(blocks.cast()).expect("is somewhere")
}

/// 4 bytes of a block, which is the kernel's to have filled.
fn word(block: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([0, 1, 2, 3].map(|byte| block[at + byte]))
}
