//! Captures: what each kind of file gives, and what is said of those that are none.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic for a stack trace")]

use std::{fs, io::Write, path::Path};

use flate2::{Compression, write::GzEncoder};
use tempfile::NamedTempFile;
use tidewaiter::replay::capture::{
    Capture, MAXIMUM_BLOCK,
    error::{CaptureError, Malformation},
    link_layer::Framing,
};
use tidewaiter_tests::corpus::{corpus, say};

/// The header of a frame that is not IP, as it is made up.
const NOT_IP: [u8; 14] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// A frame that outlives its capture.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    timestamp: u64,
    length: u32,
    framing: Framing,
    data: Vec<u8>,
}

/// Reads a file that holds `bytes`: its frames, and the error that there is no more after.
fn read(bytes: &[u8]) -> (Vec<Frame>, Option<CaptureError>) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    read_file(file.path())
}

fn read_file(path: &Path) -> (Vec<Frame>, Option<CaptureError>) {
    let mut frames = Vec::new();
    let mut capture = match Capture::open(path) {
        Ok(capture) => capture,
        Err(error) => return (frames, Some(error)),
    };
    let size = fs::metadata(path).unwrap().len();
    let mut position = capture.position();
    let error = loop {
        match capture.next_frame() {
            Some(Ok(frame)) => {
                assert_eq!(frame.number, frames.len() as u64 + 1);
                assert!(frame.data.len() <= frame.length as usize, "{frame:?}");
                let (timestamp, length, framing, data) =
                    (frame.timestamp, frame.length, frame.framing, frame.data.to_vec());
                frames.push(Frame { timestamp, length, framing, data });
            }
            Some(Err(error)) => break Some(error),
            None => break None,
        }
        assert!((position..=size).contains(&capture.position()), "{} of {size}", capture.position());
        position = capture.position();
    };
    assert!(capture.next_frame().is_none(), "there is more after the end");
    if error.is_none() {
        assert_eq!(capture.position(), size);
    }
    (frames, error)
}

/// The frames of a file that has nothing wrong with it.
fn frames(bytes: &[u8]) -> Vec<Frame> {
    match read(bytes) {
        (frames, None) => frames,
        (_, Some(error)) => panic!("{error}"),
    }
}

/// The byte order that a file is written in.
#[derive(Clone, Copy, Debug)]
enum Order {
    Little,
    Big,
}

const ORDERS: [Order; 2] = [Order::Little, Order::Big];

impl Order {
    fn half(self, number: u16) -> [u8; 2] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }

    fn word(self, number: u32) -> [u8; 4] {
        match self {
            Self::Little => number.to_le_bytes(),
            Self::Big => number.to_be_bytes(),
        }
    }

    fn words(self, numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| self.word(*number)).collect()
    }

    fn pcap_header(self, magic: u32, version: (u16, u16), link_type: u32) -> Vec<u8> {
        let (major, minor) = version;
        let version = [self.half(major), self.half(minor)].concat();
        [self.word(magic).to_vec(), version, self.words(&[0, 0, 65_535, link_type])].concat()
    }

    /// A pcap file of the usual kind with one frame, all of which was captured.
    fn pcap(self, link_type: u32, frame: &[u8]) -> Vec<u8> {
        let length = frame.len() as u32;
        let record = self.words(&[1, 2, length, length]);
        [self.pcap_header(0xa1b2_c3d4, (2, 4), link_type), record, frame.to_vec()].concat()
    }

    /// A block of a pcapng file, padded.
    fn block(self, block_type: u32, contents: &[u8]) -> Vec<u8> {
        let mut contents = contents.to_vec();
        contents.resize(contents.len().next_multiple_of(4), 0);
        let length = contents.len() as u32 + 12;
        [self.words(&[block_type, length]), contents, self.word(length).to_vec()].concat()
    }

    fn section(self) -> Vec<u8> {
        let version = [self.half(1), self.half(0)].concat();
        self.block(0x0a0d_0d0a, &[self.word(0x1a2b_3c4d).to_vec(), version, vec![0xff; 8]].concat())
    }

    fn interface(self, link_type: u16, snap_length: u32, options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut contents = [self.half(link_type).to_vec(), self.half(0).to_vec(), self.words(&[snap_length])].concat();
        for (code, value) in options {
            contents.extend(self.half(*code));
            contents.extend(self.half(value.len() as u16));
            contents.extend(*value);
            contents.resize(contents.len().next_multiple_of(4), 0);
        }
        self.block(1, &contents)
    }

    fn enhanced_packet(self, interface: u32, ticks: u64, length: u32, frame: &[u8]) -> Vec<u8> {
        let fields = self.words(&[interface, (ticks >> 32) as u32, ticks as u32, frame.len() as u32, length]);
        self.block(6, &[fields, frame.to_vec()].concat())
    }

    fn simple_packet(self, length: u32, frame: &[u8]) -> Vec<u8> {
        self.block(3, &[self.word(length).to_vec(), frame.to_vec()].concat())
    }

    fn obsolete_packet(self, interface: u16, ticks: u64, length: u32, frame: &[u8]) -> Vec<u8> {
        let fields = self.words(&[(ticks >> 32) as u32, ticks as u32, frame.len() as u32, length]);
        self.block(2, &[self.half(interface).to_vec(), self.half(7).to_vec(), fields, frame.to_vec()].concat())
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A pcapng file with a bit of everything: two sections of both byte orders, several interfaces, every kind of frame.
fn everything() -> Vec<u8> {
    let [little, big] = ORDERS;
    [
        little.section(),
        little.interface(1, 0, &[]),
        little.interface(101, 0, &[(9, &[9]), (14, &100_i64.to_le_bytes())]),
        little.enhanced_packet(0, 1_500_000, 100, b"Ethernet, then some"),
        little.block(5, &[0; 20]),
        little.enhanced_packet(1, 7, 6, b"E in IP"),
        big.section(),
        // Binary: 2^-10 of a second.
        big.interface(1, 5, &[(2, b"name"), (9, &[0x8a]), (14, &(-1_i64).to_be_bytes())]),
        big.enhanced_packet(0, 2560, 5, b"later"),
        big.simple_packet(9, b"simpl"),
        big.simple_packet(3, b"abc"),
        big.obsolete_packet(0, 1024, 60, b"old"),
    ]
    .concat()
}

fn everything_read() -> Vec<Frame> {
    let frame = |timestamp, length, framing, data: &[u8]| Frame { timestamp, length, framing, data: data.to_vec() };
    vec![
        frame(1_500_000_000, 100, Framing::Ethernet, b"Ethernet, then some"),
        frame(100_000_000_007, 7, Framing::Ip, b"E in IP"),
        frame(1_500_000_000, 5, Framing::Ethernet, b"later"),
        frame(0, 9, Framing::Ethernet, b"simpl"),
        frame(0, 3, Framing::Ethernet, b"abc"),
        frame(0, 60, Framing::Ethernet, b"old"),
    ]
}

#[test]
fn each_link_type_becomes_a_framing() {
    let ethernet = |protocol: [u8; 2], payload: &[u8]| [[0; 12].as_slice(), &protocol, payload].concat();
    let cooked = |protocol: [u8; 2]| [[9; 14].as_slice(), &protocol, b"packet"].concat();
    let cooked_v2 = |protocol: [u8; 2]| [protocol.as_slice(), &[9; 18], b"packet"].concat();
    let ip = (Framing::Ip, b"packet".to_vec());
    let not_ip = |length: usize| (Framing::Ethernet, NOT_IP[..length.min(14)].to_vec());
    let nothing = (Framing::Ethernet, Vec::new());

    let mut cases = vec![
        (1, b"anything".to_vec(), (Framing::Ethernet, b"anything".to_vec())),
        // Flags about a frame check sequence.
        (0x4400_0001, b"anything".to_vec(), (Framing::Ethernet, b"anything".to_vec())),
        (113, cooked([0x08, 0x00]), (Framing::Ethernet, ethernet([0x08, 0x00], b"packet"))),
        (113, cooked([0x08, 0x06]), (Framing::Ethernet, ethernet([0x08, 0x06], b"packet"))),
        (113, cooked([0x86, 0xdd])[..16].to_vec(), (Framing::Ethernet, ethernet([0x86, 0xdd], b""))),
        (113, cooked([0x86, 0xdd])[..15].to_vec(), nothing.clone()),
        (276, cooked_v2([0x86, 0xdd]), (Framing::Ethernet, ethernet([0x86, 0xdd], b"packet"))),
        (276, cooked_v2([0x86, 0xdd])[..19].to_vec(), nothing.clone()),
        (127, b"radiotap".to_vec(), (Framing::Unreadable { link_type: 127 }, b"radiotap".to_vec())),
    ];
    for link_type in [12, 14, 101, 228, 229] {
        cases.push((link_type, b"packet".to_vec(), ip.clone()));
    }
    for family in [2_u32, 10, 24, 28, 30] {
        cases.push((0, [family.to_le_bytes().as_slice(), b"packet"].concat(), ip.clone()));
        cases.push((0, [family.to_be_bytes().as_slice(), b"packet"].concat(), ip.clone()));
        cases.push((108, [family.to_be_bytes().as_slice(), b"packet"].concat(), ip.clone()));
        cases.push((108, [family.to_le_bytes().as_slice(), b"packet"].concat(), not_ip(10)));
    }
    cases.push((0, [7_u32.to_le_bytes().as_slice(), b"AppleTalk, say"].concat(), not_ip(18)));
    cases.push((0, vec![2, 0, 0], nothing.clone()));
    for link_type in [9, 50] {
        for start in [
            [0xff, 0x03, 0x00, 0x21].as_slice(),
            &[0xff, 0x03, 0x00, 0x57],
            &[0xff, 0x03, 0x21],
            &[0x00, 0x21],
            &[0x00, 0x57],
            &[0x21],
            &[0x57],
        ] {
            cases.push((link_type, [start, b"packet"].concat(), ip.clone()));
        }
        cases.push((link_type, vec![0xff, 0x03, 0xc0, 0x21, 1, 2, 3, 4], not_ip(8)));
        cases.push((link_type, vec![0xc1], not_ip(1)));
        cases.push((link_type, vec![0xff, 0x03, 0x00], nothing.clone()));
        cases.push((link_type, vec![], nothing.clone()));
    }
    cases.push((50, [[0x0f, 0x00, 0x08, 0x00].as_slice(), b"packet"].concat(), ip.clone()));
    cases.push((50, [[0x8f, 0x00, 0x86, 0xdd].as_slice(), b"packet"].concat(), ip.clone()));
    cases.push((50, [[0x8f, 0x00, 0x80, 0x35].as_slice(), b"packet"].concat(), not_ip(10)));
    cases.push((50, vec![0x8f, 0x00, 0x86], nothing));

    for order in ORDERS {
        for (link_type, frame, (framing, data)) in &cases {
            let length = frame.len() as u32;
            let expected = Frame { timestamp: 1_000_002_000, length, framing: *framing, data: data.clone() };
            assert_eq!(frames(&order.pcap(*link_type, frame)), [expected], "{order:?}: {link_type}, {frame:02x?}");
        }
    }
}

#[test]
fn magic_numbers_and_versions_of_pcap_are_heeded() {
    const MICROSECONDS: u32 = 0xa1b2_c3d4;
    const NANOSECONDS: u32 = 0xa1b2_3c4d;
    // The two lengths as they lie in the file.
    let cases = [
        (MICROSECONDS, (2, 4), (3, 70), 1_000_002_000),
        (NANOSECONDS, (2, 4), (3, 70), 1_000_000_002),
        (MICROSECONDS, (2, 2), (70, 3), 1_000_002_000),
        (NANOSECONDS, (2, 0), (70, 3), 1_000_000_002),
        (MICROSECONDS, (2, 3), (70, 3), 1_000_002_000),
        (MICROSECONDS, (2, 3), (3, 70), 1_000_002_000),
        (MICROSECONDS, (543, 0), (70, 3), 1_000_002_000),
    ];
    for order in ORDERS {
        for (magic, version, (first, second), timestamp) in cases {
            let header = order.pcap_header(magic, version, 1);
            let record = [order.words(&[1, 2, first, second]), b"abc".to_vec()].concat();
            let expected = Frame { timestamp, length: 70, framing: Framing::Ethernet, data: b"abc".to_vec() };
            let file = [header, record.clone(), record].concat();
            assert_eq!(frames(&file), [expected.clone(), expected], "{order:?} {magic:x} {version:?}");
        }
    }
    let modified = Order::Little;
    let file = [modified.pcap_header(0xa1b2_cd34, (2, 4), 1), modified.words(&[1, 2, 3, 70, 0, 0]), b"abc".to_vec()];
    assert_eq!(frames(&file.concat())[0].data, b"abc");
}

#[test]
fn a_frame_is_as_long_as_what_was_captured_of_it() {
    let order = Order::Little;
    let file = [order.pcap_header(0xa1b2_c3d4, (2, 4), 1), order.words(&[0, 0, 4, 1]), b"abcd".to_vec()].concat();
    assert_eq!(frames(&file)[0].length, 4);
}

#[test]
fn sections_and_interfaces_have_units_of_their_own() {
    assert_eq!(frames(&everything()), everything_read());

    let order = Order::Little;
    for (resolution, ticks, timestamp) in [
        (0, 3, 3_000_000_000),
        (3, 5, 5_000_000),
        (12, 5_999, 5),
        (0x80, 3, 3_000_000_000),
        (0x80 | 63, 1 << 62, 500_000_000),
        // Nothing that there can be, but nothing to fail of either.
        (127, u64::MAX, 0),
        (0xff, u64::MAX, 0),
        (0, u64::MAX, u64::MAX),
    ] {
        let interface = order.interface(1, 0, &[(9, &[resolution])]);
        let file = [order.section(), interface, order.enhanced_packet(0, ticks, 1, b"x")].concat();
        assert_eq!(frames(&file)[0].timestamp, timestamp, "{resolution:#x} {ticks}");
    }
    for offset in [i64::MIN, i64::MAX] {
        let interface = order.interface(1, 0, &[(14, &offset.to_le_bytes())]);
        let file = [order.section(), interface, order.enhanced_packet(0, 1, 1, b"x")].concat();
        assert_eq!(frames(&file)[0].timestamp, if offset < 0 { 0 } else { u64::MAX });
    }
}

#[test]
fn gzip_is_found_by_its_magic_number() {
    let pcap = Order::Little.pcap(1, b"a frame");
    assert_eq!(frames(&compressed(&pcap)), frames(&pcap));
    assert_eq!(frames(&compressed(&everything())), everything_read());
    // As `cat a.gz b.gz` makes it.
    let (first, second) = pcap.split_at(30);
    assert_eq!(frames(&[compressed(first), compressed(second)].concat()), frames(&pcap));

    let mut corrupt = compressed(&pcap);
    let checksum = corrupt.len() - 8;
    corrupt[checksum] ^= 1;
    let (whole, error) = read(&corrupt);
    assert_eq!(whole, frames(&pcap));
    assert!(matches!(error, Some(CaptureError::Unreadable { .. })), "{error:?}");
}

#[test]
fn wherever_a_file_is_cut_the_frames_before_are_read() {
    let order = Order::Big;
    let record = [order.words(&[1, 2, 5, 5]), b"frame".to_vec()].concat();
    let pcap = [order.pcap_header(0xa1b2_3c4d, (2, 4), 1), record.clone(), record.clone(), record].concat();
    for whole in [pcap, everything()] {
        let expected = frames(&whole);
        for file in [whole.clone(), compressed(&whole)] {
            let mut most = 0;
            for end in 0..file.len() {
                let (frames, error) = read(&file[..end]);
                assert!(expected.starts_with(&frames), "cut at {end}");
                assert!(frames.len() >= most, "cut at {end}");
                most = frames.len();
                match error {
                    // Cut between two blocks.
                    None => assert_eq!(file, whole, "cut at {end}"),
                    Some(CaptureError::Truncated { frames: counted, offset, .. }) => {
                        assert_eq!(counted, frames.len() as u64);
                        assert!(offset.is_compressed || offset.bytes == end as u64, "{offset} instead of {end}");
                    }
                    Some(CaptureError::Foreign { first, .. }) => assert!(first.len() < 4, "cut at {end}"),
                    Some(error) => panic!("cut at {end}: {error}"),
                }
            }
        }
    }
}

#[test]
fn whatever_byte_is_wrong_nothing_panics() {
    for whole in [Order::Little.pcap(1, b"a frame"), everything(), compressed(&everything())] {
        for index in 0..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut file = whole.clone();
                file[index] = value;
                read(&file);
            }
        }
    }
}

#[test]
fn what_is_no_capture_is_told_with_its_first_bytes() {
    let expected = "expected pcap or pcapng, either of which may be compressed with gzip";
    for (bytes, found) in [
        (b"".to_vec(), "byte 0 there is nothing"),
        (b"\xd4\xc3".to_vec(), "byte 0 there is d4c3"),
        (b"hello".to_vec(), "byte 0 there is 68656c6c"),
        (b"\x7fELF and so on, for much longer than a header is".to_vec(), "byte 0 there is 7f454c46"),
        (compressed(b"hello"), "byte 0 of the uncompressed data there is 68656c6c"),
        (compressed(&compressed(b"")), "byte 0 of the uncompressed data there is 1f8b0800"),
    ] {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let error = Capture::open(file.path()).unwrap_err();
        let path = file.path().display();
        assert_eq!(error.to_string(), format!("{path} is not a capture: at {found}; {expected}"));
    }
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let error = Capture::open(directory.path()).unwrap_err();
    assert!(matches!(error, CaptureError::Unreadable { .. }), "{error}");
    let error = Capture::open(&directory.path().join("absent")).unwrap_err();
    assert!(matches!(error, CaptureError::Unopenable { .. }), "{error}");
}

#[test]
fn what_contradicts_itself_is_told_and_never_believed() {
    let order = Order::Little;
    let first = [order.section(), order.interface(1, 4, &[])].concat();
    let section = first.len() as u64;
    let frame = order.enhanced_packet(0, 0, 4, b"good");
    let place = section + frame.len() as u64;
    let contents = |block_type| Malformation::Contents { block_type };
    let mut unequal = order.enhanced_packet(0, 0, 4, b"evil");
    let last = unequal.len() - 4;
    unequal[last] ^= 1;
    let lengths = Malformation::UnequalLengths { first: 36, last: 37 };
    let mut beyond = order.enhanced_packet(0, 0, 4, b"evil");
    beyond[20] = 5;
    let mut beyond_obsolete = order.obsolete_packet(0, 0, 4, b"evil");
    beyond_obsolete[20] = 5;
    let mut future = order.section();
    future[12] = 2;
    let mut neither = order.section();
    neither[8] = 0;

    let cases = [
        (order.words(&[6, u32::MAX, 0]), Malformation::TooLong { length: u32::MAX, limit: MAXIMUM_BLOCK }),
        (
            order.words(&[0x1234, MAXIMUM_BLOCK + 1, 0]),
            Malformation::TooLong { length: MAXIMUM_BLOCK + 1, limit: MAXIMUM_BLOCK },
        ),
        (order.block(1, &vec![0; 1 << 20]), Malformation::TooLong { length: (1 << 20) + 12, limit: 1 << 20 }),
        (order.words(&[6, 8, 8]), Malformation::TooShort { length: 8 }),
        (order.words(&[6, 12, 12]), contents(6)),
        (order.words(&[1, 12, 12]), contents(1)),
        (unequal, lengths),
        (beyond, contents(6)),
        (beyond_obsolete, contents(2)),
        (order.simple_packet(9, b""), contents(3)),
        (order.enhanced_packet(1, 0, 4, b"evil"), Malformation::UnknownInterface { interface: 1, known: 1 }),
        (order.obsolete_packet(9, 0, 4, b"evil"), Malformation::UnknownInterface { interface: 9, known: 1 }),
        (future, Malformation::Version { major: 2 }),
        (neither, Malformation::ByteOrder { magic: [0, 0x3c, 0x2b, 0x1a] }),
    ];
    for (block, expected) in cases {
        let file = [first.clone(), frame.clone(), block, frame.clone()].concat();
        let (frames, error) = read(&file);
        assert_eq!(frames.len(), 1, "{expected}");
        match error {
            Some(CaptureError::Malformed { malformation, frames: 1, offset, .. }) => {
                assert_eq!((malformation, offset.bytes), (expected, place));
            }
            other => panic!("{other:?} instead of {expected}"),
        }
    }

    let (_, error) = read(&[order.section(), order.simple_packet(1, b"x")].concat());
    let no_interface = Malformation::UnknownInterface { interface: 0, known: 0 };
    assert!(matches!(error, Some(CaptureError::Malformed { malformation, .. }) if malformation == no_interface));

    let header = order.pcap_header(0xa1b2_c3d4, (2, 4), 1);
    let (_, error) = read(&[header, order.words(&[0, 0, u32::MAX, 1]), vec![0; 100]].concat());
    let error = error.unwrap().to_string();
    let told =
        "is malformed at byte 24, frames before that: 0; a block claims 4294967295 bytes, at most 16777216 are read";
    assert!(error.ends_with(told), "{error}");
}

/// Whether the outermost network layer is IP, behind VLAN tags or not.
fn is_ip(frame: &Frame) -> bool {
    match frame.framing {
        Framing::Ip => matches!(frame.data.first(), Some(0x40..=0x4f | 0x60..=0x6f)),
        Framing::Ethernet => {
            let mut fields = frame.data.get(12..).unwrap_or_default();
            while let [0x81, 0x00, _, _, rest @ ..] | [0x88, 0xa8, _, _, rest @ ..] = fields {
                fields = rest;
            }
            matches!(fields, [0x08, 0x00, _, ..] | [0x86, 0xdd, _, ..])
        }
        Framing::Unreadable { .. } => false,
    }
}

#[test]
fn captures_of_others_have_the_frames_that_tshark_finds() {
    let Some(corpus) = corpus() else { return };
    let expected = fs::read_to_string(corpus.join("expected.tsv")).unwrap();
    let mut files = 0;
    for line in expected.lines() {
        let columns: Vec<_> = line.split('\t').collect();
        let [name, "FRAMES", _, _, _, _, count, bytes, ip_count, ip_bytes] = columns[..] else { continue };
        let (frames, error) = read_file(&corpus.join("pcap").join(name));
        let length: u64 = frames.iter().map(|frame| u64::from(frame.length)).sum();
        assert_eq!((frames.len().to_string(), length.to_string()), (count.to_owned(), bytes.to_owned()), "{name}");
        let ip: Vec<_> = frames.iter().filter(|frame| is_ip(frame)).map(|frame| u64::from(frame.length)).collect();
        let found = (ip.len().to_string(), ip.iter().sum::<u64>().to_string());
        assert_eq!(found, (ip_count.to_owned(), ip_bytes.to_owned()), "{name}: frames that are IP");
        match error {
            None => {}
            // Some were cut when they were captured; tshark says so too.
            Some(error @ CaptureError::Truncated { .. }) => say(&error.to_string()),
            Some(error) => panic!("{error}"),
        }
        files += 1;
    }
    say(&format!("{files} captures"));
    assert_ne!(files, 0);
}
