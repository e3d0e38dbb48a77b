//! Captured frames, mutated: whatever they have become, the programs run and count each once.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{fs, path::PathBuf, time::Duration};

use tidewaiter::{
    accounting::Accounting,
    config::AttachMode,
    interfaces::{Interface, LinkLayer},
    kernel::{FlowCapacity, Kernel, KernelError, LoadOptions},
    replay::capture::{Capture, link_layer::Framing},
    snapshot::{Counters, Direction},
};
use tidewaiter_tests::{
    corpus::{corpus, say},
    namespace::Namespace,
    random::Random,
};

/// Mutated frames, half of each framing; the kernel refuses some.
const FRAMES: usize = 106_000;
/// "Ask the next program", to TCX and TC alike.
const NEXT: i32 = -1;
/// The most of a frame that is used: what is beyond is payload, and the kernel takes no more than some 3.7 KB.
const LENGTH: usize = 2_000;

fn captures() -> Option<Vec<PathBuf>> {
    let files = fs::read_dir(corpus()?.join("pcap")).expect("can be listed");
    let mut files: Vec<_> = files.map(|file| file.expect("can be listed").path()).collect();
    files.sort_unstable();
    Some(files)
}

/// The frames of all captures with an Ethernet header.
fn frames(files: &[PathBuf]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for file in files {
        let mut capture = Capture::open(file).expect("is a capture");
        // A file may be cut off.
        while let Some(Ok(frame)) = capture.next_frame() {
            if frame.framing == Framing::Ethernet && !frame.data.is_empty() {
                frames.push(frame.data[..frame.data.len().min(LENGTH)].to_vec());
            }
        }
    }
    frames
}

/// `frame` with some bytes changed, mostly those of headers, and perhaps cut or made longer.
fn mutate(random: &mut Random, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for _ in 0..=random.below(5) {
        let reach = if random.below(4) == 0 { frame.len() } else { frame.len().min(80) };
        let place = random.below(reach);
        frame[place] = match random.below(3) {
            0 => [0x00, 0xff, 0x81, 0x08, 0x86, 0x06, 0x11, 0x2c, 0x33, 0x45][random.below(10)],
            1 => frame[place] ^ (1 << random.below(8)),
            _ => random.byte(),
        };
    }
    match random.below(6) {
        0 => frame.truncate(random.below(frame.len()).max(1)),
        1 => frame.resize(frame.len() + random.below(200), random.byte()),
        _ => {}
    }
    frame
}

#[test]
fn mutated_captures_are_counted_like_any_others() {
    let Some(files) = captures() else { return };
    let frames = frames(&files);
    let mut random = Random::new(0x5eed_0f71_de00);
    Namespace::new().run(|| {
        let options = LoadOptions { flows: FlowCapacity::for_established(16_384), ..LoadOptions::default() };
        let kernel = Kernel::load(options).expect("the kernel takes the programs");
        let mut accounting = Accounting::new(kernel, AttachMode::Auto, Duration::MAX).expect("it can be read");
        // TEST_RUN says that packets pass the interface with index 1. Every second frame is read as one without a link
        // layer, which then begins with what is no IP header, or with one that was made so.
        let (mut ran, mut refused, mut bytes) = (0, 0, 0);
        for link_layer in [LinkLayer::Ethernet, LinkLayer::Ip] {
            let interface = Interface { index: 1, name: format!("{link_layer:?}").to_lowercase(), link_layer };
            accounting.pretend_interface(&interface).expect("there is room");
            for _ in 0..FRAMES / 2 {
                let original = &frames[random.below(frames.len())];
                let original =
                    if link_layer == LinkLayer::Ip { original.get(14..).unwrap_or(original) } else { original };
                if original.is_empty() {
                    continue;
                }
                let frame = mutate(&mut random, original);
                let kernel = accounting.kernel();
                match kernel.test_run_baseline(&frame, 1) {
                    Ok(_) => {}
                    Err(KernelError::TestRun { .. }) => {
                        refused += 1;
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                }
                for direction in Direction::ALL {
                    let run = kernel.test_run(direction, &frame, 1);
                    let run = run.unwrap_or_else(|error| panic!("{error}: {frame:02x?}"));
                    assert_eq!(run.verdict, NEXT, "{frame:02x?}");
                }
                ran += 1;
                bytes += frame.len() as u64;
            }
        }
        say(&format!("{ran} mutated frames were run, the kernel refuses {refused} others"));
        assert!(ran > 100_000);

        let snapshot = accounting.snapshot();
        for direction in Direction::ALL.map(Direction::index) {
            let seen: Counters = snapshot.interfaces.iter().map(|one| one.counters.totals[direction].wire).sum();
            assert_eq!(seen, Counters { packets: ran, bytes });
            let mut counted: Counters = snapshot.apis.iter().map(|api| api.counters.wire[direction]).sum();
            for interface in &snapshot.interfaces {
                counted += interface.counters.uncounted[direction].into_iter().sum();
            }
            assert_eq!(counted, seen, "the sums prove it");
        }
    });
}
