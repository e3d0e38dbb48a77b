//! Captures made by others: what a packet says of itself is no anomaly, unless it was meant to be.

use std::{collections::BTreeMap, fs};

use tidewaiter::{
    anomaly::thresholds::Thresholds,
    replay::capture::{Capture, link_layer::Framing as Link},
};
use tidewaiter_common::{
    anomaly::{
        AnomalyKind,
        stateless::{NONE, stateless_kind},
    },
    frame::{Frame, Framing},
    packet::Packet,
};
use tidewaiter_tests::corpus::{corpus, say};

/// A captured frame, as long as it was on the wire.
struct OnTheWire<'a>(&'a [u8], usize);

impl Frame for OnTheWire<'_> {
    fn length(&self) -> usize {
        self.1
    }

    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.read(offset)
    }
}

/// Captures that have some, and why.
const EXPLAINED: [(&str, &str); 2] = [
    ("fuzz-2020-02-16-11740.pcap", "its packets are made up, byte by byte"),
    ("tcp_scan.pcapng", "it is of a scan: with no flag, with FIN alone, and with FIN, PSH and URG"),
];

#[test]
fn ordinary_captures_have_no_anomalies() {
    let Some(folder) = corpus() else { return };
    let expected = Thresholds::default().expected_protocols;
    let (mut frames, mut found) = (0, BTreeMap::new());
    for entry in fs::read_dir(folder.join("pcap")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut capture = Capture::open(&path).unwrap();
        while let Some(Ok(captured)) = capture.next_frame() {
            let framing = match captured.framing {
                Link::Ethernet => Framing::Ethernet,
                Link::Ip => Framing::Ip,
                Link::Unreadable { .. } => continue,
            };
            let frame = OnTheWire(captured.data, captured.length as usize);
            let mut packet = Packet::UNREAD;
            let read = packet.read(&frame, framing);
            let kind = stateless_kind(&packet, &frame, read, |number| expected.contains(&number), false);
            frames += 1;
            if kind != NONE {
                *found.entry((name.clone(), AnomalyKind::from_index(kind).unwrap().as_str())).or_insert(0) += 1;
            }
        }
    }
    say(&format!("stateless anomalies of {frames} frames of the corpus: {found:?}"));
    assert!(frames > 10_000, "{frames}");
    let explained = |(name, _): &(String, _)| EXPLAINED.iter().any(|(file, _)| file == name);
    for (file, why) in EXPLAINED {
        assert!(found.keys().any(|(name, _)| name == file), "{file} has none, although {why}");
    }
    found.retain(|key, _| !explained(key));
    assert_eq!(found, BTreeMap::new());
}
