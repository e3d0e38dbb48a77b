//! Small BPF programs of the tests' own, instruction by instruction: some that make packets faster than any socket can, some
//! that put VLAN tags on and take them off, which devices of this kernel may not be able to, one that loses packets, and those
//! that benchmarks compare with.

mod assembler;
pub mod drive;
pub mod generator;

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    time::Duration,
};

use tidewaiter_common::direction::Direction;

use self::assembler::{and, call, constant, exit, load_word, skip_if_less};

/// Commands of the system call, types and flags (`include/uapi/linux/bpf.h`).
mod uapi {
    pub(super) const MAP_CREATE: libc::c_long = 0;
    pub(super) const MAP_UPDATE: libc::c_long = 2;
    pub(super) const PROG_LOAD: libc::c_long = 5;
    pub(super) const PROG_TEST_RUN: libc::c_long = 10;
    pub(super) const LINK_CREATE: libc::c_long = 28;
    pub(super) const MAP_ARRAY: u32 = 2;
    pub(super) const MAP_PROGRAMS: u32 = 3;
    pub(super) const SCHED_CLS: u32 = 3;
    pub(super) const XDP: u32 = 6;
    pub(super) const TCX_INGRESS: u32 = 46;
    pub(super) const TCX_EGRESS: u32 = 47;
    pub(super) const XDP_ATTACHMENT: u32 = 37;
    pub(super) const XDP_PASS: i32 = 2;
    pub(super) const LIVE_FRAMES: u32 = 1 << 1;
    pub(super) const KTIME_GET_NS: i32 = 5;
    pub(super) const RANDOM: i32 = 7;
    pub(super) const TAIL_CALL: i32 = 12;
    pub(super) const SKB_VLAN_PUSH: i32 = 18;
    pub(super) const SKB_VLAN_POP: i32 = 19;
    pub(super) const REDIRECT: i32 = 23;
    /// Where in `struct __sk_buff` it says whether a tag stands beside the frame.
    pub(super) const SKB_VLAN_PRESENT: i16 = 20;
    pub(super) const TCX_NEXT: i32 = -1;
    pub(super) const TCX_DROP: i32 = 2;
}

/// `EtherType` of a tag of IEEE 802.1Q, in network byte order.
const VLAN: i32 = 0x8100_u16.to_be() as i32;

/// A program in the kernel.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// Keeps a program attached.
#[derive(Debug)]
pub struct Link(#[expect(dead_code, reason = "closing it detaches the program")] OwnedFd);

impl Program {
    /// Puts a tag with `id` on each packet.
    #[must_use]
    pub fn push_tag(id: u16) -> Self {
        Self::load(
            uapi::SCHED_CLS,
            &[
                constant(2, VLAN),
                constant(3, id.into()),
                call(uapi::SKB_VLAN_PUSH),
                constant(0, uapi::TCX_NEXT),
                exit(),
            ],
        )
    }

    /// Takes a tag off each packet.
    #[must_use]
    pub fn pop_tag() -> Self {
        Self::load(uapi::SCHED_CLS, &[call(uapi::SKB_VLAN_POP), constant(0, uapi::TCX_NEXT), exit()])
    }

    /// Drops each packet without a tag.
    #[must_use]
    pub fn drop_untagged() -> Self {
        Self::load(
            uapi::SCHED_CLS,
            &[
                load_word(0, 1, uapi::SKB_VLAN_PRESENT),
                skip_if_less(0, 1, 2),
                constant(0, uapi::TCX_NEXT),
                exit(),
                constant(0, uapi::TCX_DROP),
                exit(),
            ],
        )
    }

    /// Drops so many packets out of 65,536, at random.
    #[must_use]
    pub fn drop_some(of_65536: u32) -> Self {
        let threshold = of_65536.try_into().expect("a small number");
        Self::load(
            uapi::SCHED_CLS,
            &[
                call(uapi::RANDOM),
                and(0, 0xffff),
                skip_if_less(0, threshold, 2),
                constant(0, uapi::TCX_NEXT),
                exit(),
                constant(0, uapi::TCX_DROP),
                exit(),
            ],
        )
    }

    /// Does nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self::load(uapi::SCHED_CLS, &[constant(0, uapi::TCX_NEXT), exit()])
    }

    /// Reads the precise clock, and does nothing else.
    #[must_use]
    pub fn clock() -> Self {
        Self::load(uapi::SCHED_CLS, &[call(uapi::KTIME_GET_NS), constant(0, uapi::TCX_NEXT), exit()])
    }

    /// Lets each frame pass, before the stack sees it. (Of a pair of veth devices, one wakes the other up for frames that its
    /// own program sends back only if the other has a program too: `veth_xdp_flush`, `drivers/net/veth.c`.)
    #[must_use]
    pub fn pass_frames() -> Self {
        Self::load(uapi::XDP, &[constant(0, uapi::XDP_PASS), exit()])
    }

    /// Sends each frame out of the interface with `index`.
    #[must_use]
    pub fn redirect(index: u32) -> Self {
        let index = index.try_into().expect("a small number");
        Self::load(uapi::XDP, &[constant(1, index), constant(2, 0), call(uapi::REDIRECT), exit()])
    }

    fn load(kind: u32, instructions: &[u64]) -> Self {
        #[repr(C)]
        struct Attributes {
            kind: u32,
            count: u32,
            instructions: u64,
            license: u64,
            // Where the log goes, the version and the flags.
            zeros: [u32; 6],
        }
        let count = instructions.len().try_into().expect("a few");
        let (instructions, license) = (instructions.as_ptr() as u64, c"GPL".as_ptr() as u64);
        let mut attributes = Attributes { kind, count, instructions, license, zeros: [0; 6] };
        // SAFETY: the attributes are those of the command, and what they point to is there until it is over.
        Self(unsafe { descriptor(bpf(uapi::PROG_LOAD, &mut attributes)) })
    }

    /// Attaches the program, behind all that are there already, to the interface with `index`; from its namespace.
    #[must_use]
    pub fn attach(&self, index: u32, direction: Direction) -> Link {
        self.attach_as(
            index,
            match direction {
                Direction::Receive => uapi::TCX_INGRESS,
                Direction::Transmit => uapi::TCX_EGRESS,
            },
        )
    }

    /// Attaches the program, of frames, to the device of the interface with `index`; from its namespace.
    #[must_use]
    pub fn attach_to_device(&self, index: u32) -> Link {
        self.attach_as(index, uapi::XDP_ATTACHMENT)
    }

    fn attach_as(&self, index: u32, kind: u32) -> Link {
        #[repr(C)]
        struct Attributes {
            program: i32,
            index: u32,
            kind: u32,
            // Flags, and where among others.
            zeros: [u32; 5],
        }
        let mut attributes = Attributes { program: self.0.as_raw_fd(), index, kind, zeros: [0; 5] };
        // SAFETY: as in `load`.
        Link(unsafe { descriptor(bpf(uapi::LINK_CREATE, &mut attributes)) })
    }

    /// Runs the program on `frame` as if a device had received that, `times` over; from the namespace that it is for.
    pub fn run_live(&self, frame: &[u8], times: u32) -> io::Result<()> {
        let mut attributes = self.test_run(frame, times);
        attributes.flags = uapi::LIVE_FRAMES;
        attributes.batch = 64;
        // SAFETY: as in `load`.
        match unsafe { bpf(uapi::PROG_TEST_RUN, &mut attributes) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Runs the program on `frame`, which it may change, `times` over. Answers with how long one run took on average, in
    /// whole nanoseconds.
    pub fn run(&self, frame: &mut [u8], times: u32) -> Duration {
        let mut attributes = self.test_run(frame, times);
        attributes.data_out = frame.as_mut_ptr() as u64;
        attributes.length_out = attributes.length;
        // SAFETY: as in `load`; the kernel reads the frame before it writes it.
        let result = unsafe { bpf(uapi::PROG_TEST_RUN, &mut attributes) };
        assert_eq!(result, 0, "the kernel refuses the frame: {}", io::Error::last_os_error());
        Duration::from_nanos(attributes.duration.into())
    }

    fn test_run(&self, frame: &[u8], repeat: u32) -> TestRun {
        TestRun {
            program: self.0.as_raw_fd(),
            length: frame.len().try_into().expect("a frame"),
            data: frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        }
    }
}

/// The part of `union bpf_attr` that runs a program.
#[derive(Default)]
#[repr(C)]
struct TestRun {
    program: i32,
    result: u32,
    length: u32,
    length_out: u32,
    data: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_length: [u32; 2],
    context: [u64; 2],
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// A map with keys of 4 bytes.
#[derive(Debug)]
struct Map(OwnedFd);

impl Map {
    fn new(kind: u32, value_size: u32, entries: u32) -> Self {
        #[repr(C)]
        struct Attributes {
            kind: u32,
            key_size: u32,
            value_size: u32,
            entries: u32,
            flags: u32,
            padding: u32,
        }
        let mut attributes = Attributes { kind, key_size: 4, value_size, entries, flags: 0, padding: 0 };
        // SAFETY: as in `load`.
        Self(unsafe { descriptor(bpf(uapi::MAP_CREATE, &mut attributes)) })
    }

    /// Programs that others can end in, by their places.
    fn of_programs(programs: &[BorrowedFd<'_>]) -> Self {
        let map = Self::new(uapi::MAP_PROGRAMS, 4, programs.len().try_into().expect("a few"));
        for (key, program) in (0_u32..).zip(programs) {
            #[repr(C)]
            struct Attributes {
                map: i32,
                padding: u32,
                key: u64,
                value: u64,
                flags: u64,
            }
            let (descriptor, map) = (program.as_raw_fd(), map.0.as_raw_fd());
            let (key, value) = ((&raw const key) as u64, (&raw const descriptor) as u64);
            let mut attributes = Attributes { map, padding: 0, key, value, flags: 0 };
            // SAFETY: as in `load`.
            let result = unsafe { bpf(uapi::MAP_UPDATE, &mut attributes) };
            assert_eq!(result, 0, "the kernel refuses it: {}", io::Error::last_os_error());
        }
        map
    }
}

/// # Safety
/// `attributes` must be those of `command`.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> libc::c_long {
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) }
}

/// # Safety
/// `result` must be that of a call that answers with a descriptor of the caller's own.
unsafe fn descriptor(result: libc::c_long) -> OwnedFd {
    assert!(result >= 0, "the kernel refuses it: {}", io::Error::last_os_error());
    // SAFETY: the caller's.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(result).expect("a descriptor")) }
}
