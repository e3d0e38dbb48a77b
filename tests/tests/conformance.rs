//! Captures made by others, replayed, against flows that were worked out by others: tshark.
//!
//! [`tidewaiter_tests::corpus`] says where they are. `expected.tsv` has a header line, then, separated by tabs: file, protocol (or `FRAMES` or
//! `FRAGMENTS`), first address and port, second address and port, packets and bytes from the first to the second, and
//! back. For `FRAMES` those are frames and bytes, and frames and bytes of IP; `FRAGMENTS` are later fragments.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    process::Command,
};

use serde_json::Value;
use tidewaiter_tests::{
    corpus::{VARIABLE, corpus, say},
    exporter::binary,
    tshark::community_ids,
};

/// What is known not to match, by file, and why.
const EXPLAINED: [(&str, &str); 0] = [];

/// The share of flows that must match whatever is explained.
const LEAST_SHARE: f64 = 0.98;

/// An end of a flow; ordered by the bytes of its address, then by its port.
type End = (Vec<u8>, u16);
/// Packets and bytes.
type Count = (u64, u64);

/// The flows of a file, and its sums.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    /// By protocol and ends: what the first has sent, and what the second has.
    flows: BTreeMap<(u8, End, End), (Count, Count)>,
    frames: Count,
    ip_frames: Count,
    fragments: Count,
}

fn end(address: &str, port: u16) -> End {
    let octets = match address.parse().expect("an address") {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    (octets, port)
}

fn expected(folder: &Path) -> BTreeMap<String, Contents> {
    let mut files: BTreeMap<String, Contents> = BTreeMap::new();
    let text = fs::read_to_string(folder.join("expected.tsv")).expect("is there");
    for line in text.lines().skip(1) {
        let fields: Vec<_> = line.split('\t').collect();
        let [file, protocol, a, a_port, b, b_port, counts @ ..] = fields.as_slice() else { panic!("{line}") };
        let counts: Vec<u64> = counts.iter().map(|count| count.parse().expect("a number")).collect();
        let (first, second) = ((counts[0], counts[1]), (counts[2], counts[3]));
        let contents = files.entry((*file).to_owned()).or_default();
        match *protocol {
            "FRAMES" => (contents.frames, contents.ip_frames) = (first, second),
            "FRAGMENTS" => contents.fragments = first,
            number => {
                let ends =
                    [(a, a_port), (b, b_port)].map(|(address, port)| end(address, port.parse().expect("a port")));
                let [a, b] = ends;
                contents.flows.insert((number.parse().expect("a number"), a, b), (first, second));
            }
        }
    }
    files
}

fn report(file: &Path) -> Value {
    let mut replay = Command::new(binary());
    replay.args(["replay", "--flows", "--format", "json"]).arg(file).env_remove(VARIABLE);
    let output = replay.output().expect("runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Flows in `report` that do not have the name by Community ID that tshark has for them, and how many do.
fn misnamed<'a>(report: &'a Value, file: &Path) -> (Vec<&'a Value>, usize) {
    let theirs = community_ids(file);
    let flows = report["flows"].as_array().unwrap().iter();
    let (named, misnamed): (Vec<_>, _) = flows.partition(|flow| {
        let has_ports = ["tcp", "udp", "sctp"].iter().any(|protocol| flow["protocol"] == *protocol);
        let id = flow.get("community_id").map(|id| id.as_str().expect("text"));
        id.map_or(!has_ports, |id| has_ports && theirs.contains(id))
    });
    (misnamed, named.iter().filter(|flow| flow.get("community_id").is_some()).count())
}

fn replayed(report: &Value) -> Contents {
    let count = |value: &Value| (value["packets"].as_u64().unwrap(), value["bytes"].as_u64().unwrap());
    let sum = |a: Count, b: Count| (a.0 + b.0, a.1 + b.1);

    let mut contents = Contents {
        frames: (report["frames"].as_u64().unwrap(), report["bytes"].as_u64().unwrap()),
        ..Contents::default()
    };
    let mut beside_ip = (report["refused"].as_u64().unwrap(), report["refused_bytes"].as_u64().unwrap());
    for row in report["uncounted"].as_array().unwrap() {
        let both = sum(count(&row["receive"]), count(&row["transmit"]));
        match row["reason"].as_str().unwrap() {
            "fragment" => contents.fragments = both,
            "not_ip" | "vlan" | "ethernet_truncated" => beside_ip = sum(beside_ip, both),
            _ => {}
        }
    }
    assert!(report["unreadable"].as_array().unwrap().is_empty(), "the corpus has no such link types");
    contents.ip_frames = (contents.frames.0 - beside_ip.0, contents.frames.1 - beside_ip.1);
    for flow in report["flows"].as_array().unwrap() {
        let protocol = match flow["protocol"].as_str().unwrap() {
            "icmp" => 1,
            "tcp" => 6,
            "udp" => 17,
            "gre" => 47,
            "icmpv6" => 58,
            "sctp" => 132,
            number => number.parse().expect("a number"),
        };
        let [local, remote] = ["local", "remote"].map(|side| {
            let port = u16::try_from(flow[side]["port"].as_u64().unwrap()).unwrap();
            end(flow[side]["address"].as_str().unwrap(), port)
        });
        let (by_local, by_remote) = (count(&flow["transmit"]), count(&flow["receive"]));
        let (key, value) = match local.cmp(&remote) {
            // Such a flow has no directions: all of it is from the one end to itself.
            Ordering::Equal => ((protocol, local, remote), (sum(by_local, by_remote), (0, 0))),
            Ordering::Less => ((protocol, local, remote), (by_local, by_remote)),
            Ordering::Greater => ((protocol, remote, local), (by_remote, by_local)),
        };
        // Ends that have opened one connection after the other are one flow to those who know the ends alone.
        let (a, b) = contents.flows.entry(key).or_default();
        (*a, *b) = (sum(*a, value.0), sum(*b, value.1));
    }
    contents
}

#[test]
fn captures_of_others_hold_the_flows_that_others_find() {
    let Some(folder) = corpus() else { return };
    let (mut flows, mut matching, mut unexplained) = (0, 0, BTreeSet::new());
    let (mut names, mut wrong_names) = (0, BTreeSet::new());
    say(&format!("{:<50}{:>8}{:>8}{:>10}", "file", "frames", "flows", "matching"));
    for (file, expected) in expected(&folder) {
        let path = folder.join("pcap").join(&file);
        let report = report(&path);
        let found = replayed(&report);
        let (misnamed, right) = misnamed(&report, &path);
        names += right;
        if !misnamed.is_empty() {
            say(&format!("{file}: tshark has other names for {misnamed:?}"));
            wrong_names.insert(file.clone());
        }
        let matches = expected.flows.iter().filter(|(key, counts)| found.flows.get(key) == Some(counts)).count();
        say(&format!("{file:<50}{:>8}{:>8}{matches:>10}", expected.frames.0, expected.flows.len()));
        flows += expected.flows.len();
        matching += matches;

        let explanation = EXPLAINED.iter().find(|(explained, _)| *explained == file);
        match explanation {
            Some((_, why)) => println!("  explained: {why}"),
            None if expected == found => {}
            None => {
                for (key, counts) in &expected.flows {
                    if found.flows.get(key) != Some(counts) {
                        say(&format!("  {key:?}: expected {counts:?}, found {:?}", found.flows.get(key)));
                    }
                }
                for (key, counts) in found.flows.iter().filter(|(key, _)| !expected.flows.contains_key(key)) {
                    say(&format!("  {key:?}: expected none, found {counts:?}"));
                }
                let sums = |contents: &Contents| (contents.frames, contents.ip_frames, contents.fragments);
                say(&format!("  frames, of IP, fragments: expected {:?}, found {:?}", sums(&expected), sums(&found)));
                unexplained.insert(file);
            }
        }
    }
    say(&format!("{matching} of {flows} flows match, {names} have a Community ID"));
    assert_eq!((unexplained, wrong_names), (BTreeSet::new(), BTreeSet::new()));
    assert!(names > 0);
    let share = f64::from(u32::try_from(matching).unwrap()) / f64::from(u32::try_from(flows).unwrap());
    assert!(share >= LEAST_SHARE, "{share}");
}
