//! What is admitted, for how long, and what is left over a restart.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    time::Duration,
};

use ipnet::IpNet;
use tidewaiter_common::anomaly::AnomalyKind;

use super::{
    Admitted, BlockError, Blocks, LONGEST, MAX_REASON, Now, key, network_at, network_of, parse_network, parse_period,
    state::StateFile,
};
use crate::event::{Block, BlockedBy};

const MINUTE: Duration = Duration::from_mins(1);

fn network(text: &str) -> IpNet {
    parse_network(text).expect("a network")
}

fn block(text: &str, period: Duration, by: BlockedBy) -> (Block, Now) {
    // Files know whole nanoseconds.
    let now = Now::take();
    (Block { network: network(text), until: now.wall + period, reason: "why \"not\" ü".to_owned(), by }, now)
}

fn add(blocks: &mut Blocks, text: &str, period: Duration, by: BlockedBy) -> Result<(), BlockError> {
    let (block, now) = block(text, period, by);
    if let Admitted::New(block) = blocks.admit(block, now)? {
        blocks.insert(block, now);
    }
    Ok(())
}

fn by_hand(blocks: &mut Blocks, text: &str) -> Result<(), BlockError> {
    add(blocks, text, MINUTE, BlockedBy::CommandLine)
}

fn room_for(capacity: usize, protect: &[&str]) -> Blocks {
    let mut blocks = Blocks::default();
    blocks.configure(capacity, &protect.iter().map(|text| network(text)).collect::<Vec<_>>());
    blocks
}

#[test]
fn an_address_is_a_network_however_it_is_written() {
    for (text, expected) in [
        ("203.0.113.7", "203.0.113.7/32"),
        ("::ffff:203.0.113.7", "203.0.113.7/32"),
        ("::ffff:203.0.113.0/120", "203.0.113.0/24"),
        ("2001:db8::/32", "2001:db8::/32"),
    ] {
        assert_eq!(network(text).to_string(), expected);
    }
    for wrong in ["", "203.0.113.7/24", "203.0.113.7/33", "host", "203.0.113.7 or 1", "1.2.3.4/-1"] {
        assert!(matches!(parse_network(wrong), Err(BlockError::Prefix(_))), "{wrong}");
    }
    assert_eq!(parse_period("1h 5m").expect("a time"), Duration::from_mins(65));
    assert!(matches!(parse_period("soon"), Err(BlockError::NotAPeriod(_))));
    let of = |address: &str| network_of(address.parse().expect("an address"), 24, 64).to_string();
    assert_eq!(of("203.0.113.7"), "203.0.113.0/24");
    assert_eq!(of("::ffff:203.0.113.7"), "203.0.113.0/24");
    assert_eq!(of("2001:db8::1:2:3:4"), "2001:db8::/64");
}

#[test]
fn who_is_protected_is_never_blocked_nor_is_half_of_the_world() {
    let mut blocks = room_for(10, &["198.51.100.0/24", "2001:db8:1::/48"]);
    for (text, by) in [
        ("198.51.100.7", "198.51.100.0/24"),
        ("198.51.0.0/16", "198.51.100.0/24"),
        ("2001:db8::/32", "2001:db8:1::/48"),
        ("127.0.0.1", "127.0.0.0/8"),
        ("::1", "::1/128"),
    ] {
        match by_hand(&mut blocks, text) {
            Err(BlockError::Protected { protected, .. }) => assert_eq!(protected.to_string(), by, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    for (text, bits) in [("0.0.0.0/0", 8), ("64.0.0.0/7", 8), ("::/0", 16), ("2000::/15", 16)] {
        assert!(
            matches!(by_hand(&mut blocks, text), Err(BlockError::TooShort { least, .. }) if least == bits),
            "{text}"
        );
    }
    for text in ["64.0.0.0/8", "2000:1::/32", "198.51.101.0/24"] {
        by_hand(&mut blocks, text).expect(text);
    }
}

#[test]
fn reasons_and_times_have_bounds() {
    let blocks = room_for(10, &[]);
    let (good, now) = block("203.0.113.7", MINUTE, BlockedBy::Http);
    let with = |reason: &str| blocks.admit(Block { reason: reason.to_owned(), ..good.clone() }, now);
    with(&"ü".repeat(MAX_REASON)).expect("is short enough");
    for reason in [
        "ü".repeat(MAX_REASON + 1),
        "two\nlines".to_owned(),
        "\u{1b}[2J".to_owned(),
        "\u{9b}".to_owned(),
        "\u{202e}".to_owned(),
    ] {
        assert!(matches!(with(&reason), Err(BlockError::Reason(_))), "{reason:?}");
    }
    for until in [now.wall, now.wall - MINUTE, now.wall + LONGEST + MINUTE] {
        assert!(matches!(blocks.admit(Block { until, ..good.clone() }, now), Err(BlockError::Period(_))));
    }
}

#[test]
fn a_block_is_made_longer_but_not_shorter() {
    let mut blocks = room_for(1, &[]);
    by_hand(&mut blocks, "203.0.113.7").expect("there is room");
    let first = blocks.get(&network("203.0.113.7")).expect("is there").until;
    add(&mut blocks, "203.0.113.7", MINUTE / 2, BlockedBy::Http).expect("no other");
    assert_eq!(blocks.get(&network("203.0.113.7")).expect("is there").until, first);
    add(&mut blocks, "203.0.113.7", 2 * MINUTE, BlockedBy::Http).expect("no other");
    assert!(blocks.get(&network("203.0.113.7")).expect("is there").until > first + MINUTE / 2);
    let now = Now::take().steady;
    assert_eq!(blocks.expired(now + MINUTE), []);
    assert_eq!(blocks.expired(now + 3 * MINUTE), [network("203.0.113.7")]);
}

#[test]
fn a_clock_that_is_set_makes_no_block_longer_or_shorter() {
    let mut blocks = room_for(1, &[]);
    let (one, now) = block("203.0.113.7", 10 * MINUTE, BlockedBy::Http);
    blocks.insert(one.clone(), now);
    assert!(blocks.take_changed());
    for wall in [now.wall - 60 * MINUTE, now.wall + 60 * MINUTE] {
        let later = Now { wall, steady: now.steady + MINUTE };
        blocks.correct_times(later);
        let until = blocks.get(&one.network).expect("is there").until;
        assert_eq!((until, blocks.take_changed()), (wall + 9 * MINUTE, true), "people read what is left");
        blocks.correct_times(later);
        assert!(!blocks.take_changed());
        assert_eq!(blocks.left(&one.network, later.steady), 9 * MINUTE);
        let as_long = Block { until: wall + 9 * MINUTE, ..one.clone() };
        assert!(matches!(blocks.admit(as_long, later), Ok(Admitted::Same(_))));
        let longer = Block { until: wall + 10 * MINUTE, ..one.clone() };
        assert!(matches!(blocks.admit(longer, later), Ok(Admitted::New(_))));
    }
    assert_eq!(blocks.expired(now.steady + 9 * MINUTE), []);
    assert_eq!(blocks.expired(now.steady + 10 * MINUTE), [one.network]);
}

#[test]
fn what_people_have_said_is_not_lost_when_a_program_makes_a_block_longer() {
    let by_program = BlockedBy::Response(AnomalyKind::PortScan);
    for (before, now, says) in [
        (BlockedBy::CommandLine, by_program, BlockedBy::CommandLine),
        (BlockedBy::CommandLine, BlockedBy::Http, BlockedBy::CommandLine),
        (by_program, BlockedBy::CommandLine, BlockedBy::CommandLine),
        (BlockedBy::Unknown, by_program, by_program),
    ] {
        let mut blocks = room_for(10, &[]);
        let (first, at) = block("203.0.113.7", MINUTE, before);
        blocks.insert(Block { reason: "first".to_owned(), ..first.clone() }, at);
        let second = Block { reason: "second".to_owned(), by: now, until: at.wall + 2 * MINUTE, ..first };
        let reason = if says == before { "first" } else { "second" }.to_owned();
        let expected = Block { by: says, reason, ..second.clone() };
        assert_eq!(blocks.admit(second, at).expect("is longer"), Admitted::New(expected));
    }
}

#[test]
fn the_block_around_another_is_known() {
    let mut blocks = room_for(10, &[]);
    for text in ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "2001:db8::/32"] {
        by_hand(&mut blocks, text).expect("there is room");
    }
    for (text, covering) in [
        ("10.1.2.3", Some("10.0.0.0/8")),
        ("10.1.0.0/16", Some("10.0.0.0/8")),
        ("10.0.0.0/8", None),
        ("11.1.2.3", None),
        ("2001:db8::1", Some("2001:db8::/32")),
    ] {
        assert_eq!(blocks.covering(&network(text)), covering.map(network), "{text}");
    }
}

#[test]
fn the_kernels_key_says_which_network_it_is() {
    for text in ["203.0.113.7", "10.0.0.0/8", "2001:db8::/32", "2001:db8::1"] {
        assert_eq!(network_at(&key(&network(text))), Some(network(text)));
    }
}

#[test]
fn there_are_no_more_than_were_asked_for_and_responses_leave_some() {
    let mut blocks = room_for(16, &[]);
    let response = BlockedBy::Response(AnomalyKind::PortScan);
    for last in 0..14 {
        add(&mut blocks, &format!("203.0.113.{last}"), MINUTE, response).expect("there is room");
    }
    assert!(matches!(add(&mut blocks, "203.0.113.14", MINUTE, response), Err(BlockError::Full(14))));
    add(&mut blocks, "203.0.113.13", 2 * MINUTE, response).expect("is there already");
    by_hand(&mut blocks, "203.0.113.14").expect("there is room for people");
    by_hand(&mut blocks, "203.0.113.15").expect("there is room for people");
    assert!(matches!(by_hand(&mut blocks, "203.0.113.16"), Err(BlockError::Full(16))));
    blocks.remove(&network("203.0.113.0")).expect("is there");
    by_hand(&mut blocks, "203.0.113.16").expect("there is room again");
    assert_eq!(blocks.remove(&network("203.0.113.0")), None);
}

#[test]
fn lengths_are_few_and_those_that_nobody_needs_go() {
    let mut blocks = room_for(100, &[]);
    for length in 17..25 {
        by_hand(&mut blocks, &format!("10.0.0.0/{length}")).expect("there is room");
    }
    match by_hand(&mut blocks, "192.0.2.1") {
        Err(error @ BlockError::Lengths { .. }) => assert!(error.to_string().ends_with("/23, /24"), "{error}"),
        other => panic!("{other:?}"),
    }
    by_hand(&mut blocks, "2001:db8::1").expect("the other version has its own");
    by_hand(&mut blocks, "192.0.2.0/24").expect("is one of them");
    blocks.remove(&network("10.0.0.0/24")).expect("is there");
    assert_eq!(blocks.lengths(true), [17, 18, 19, 20, 21, 22, 23, 24], "another has it");
    blocks.remove(&network("10.0.0.0/19")).expect("is there");
    by_hand(&mut blocks, "192.0.2.1").expect("there is room again");
    assert_eq!((blocks.lengths(true), blocks.lengths(false)), (&[17, 18, 20, 21, 22, 23, 24, 32][..], &[128][..]));
}

#[test]
fn the_file_has_them_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("new").join("blocks.json");
    let mut file = StateFile::new(path.clone());
    assert_eq!(file.read().expect("nothing"), []);
    let kinds = [BlockedBy::CommandLine, BlockedBy::Http, BlockedBy::Response(AnomalyKind::PortScan)];
    let blocks: Vec<_> = kinds.iter().map(|by| block("203.0.113.7", MINUTE, *by).0).collect();
    assert!(file.save(&blocks));
    assert_eq!(file.read().expect("is ours"), blocks);
    let mode = |path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!((mode(path.as_path()), mode(path.parent().expect("a folder"))), (0o600, 0o700));

    // Whoever has something written through a link is not obeyed.
    let victim = folder.path().join("victim");
    fs::write(&victim, "mine").expect("is written");
    symlink(&victim, path.with_extension("json.new")).expect("is made");
    assert!(file.save(&blocks[..1]));
    assert_eq!(fs::read_to_string(victim).expect("is there"), "mine");
    assert_eq!(file.load().as_deref(), Some(&blocks[..1]));
}

#[test]
fn a_bad_file_is_put_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("blocks.json");
    let row = r#"{"network":"203.0.113.7/32","until":"2199-01-01T00:00:00Z","by":"http","reason":"a"}"#;
    let whole = format!(r#"{{"version":1,"blocks":[{row}]}}"#);
    fs::write(&path, &whole).expect("is written");
    assert_eq!(StateFile::new(path.clone()).load().expect("is ours").len(), 1);
    for bad in [
        whole[..whole.len() - 3].to_owned(),
        whole.replace("\"version\":1", "\"version\":2"),
        whole.replace("\"http\"", "\"response\""),
        whole.replace("203.0.113.7/32", "203.0.113.7/24"),
        whole.replace("2199-01-01T00:00:00Z", "soon"),
        whole.replace("\"a\"", "\"a\\u0007\""),
    ] {
        fs::write(&path, &bad).expect("is written");
        assert_eq!(StateFile::new(path.clone()).load(), None, "{bad}");
        assert!(!path.exists(), "{bad}");
        assert_eq!(fs::read_to_string(folder.path().join("blocks.json.bad")).expect("is aside"), bad);
    }
}

#[test]
fn without_a_place_nothing_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("file"), "").expect("is written");
    let mut file = StateFile::new(folder.path().join("file").join("blocks.json"));
    assert!(!file.save(&[]));
    assert_eq!(file.load(), None);
}

#[test]
fn what_cannot_be_read_is_not_written_over() {
    let folder = tempfile::tempdir().expect("a folder");
    // Whoever has no right to read it may have one to replace it; nobody can read a folder.
    let path = folder.path().join("blocks.json");
    fs::create_dir(&path).expect("is made");
    let mut file = StateFile::new(path.clone());
    assert_eq!(file.load(), None);
    fs::remove_dir(&path).expect("is empty");
    assert!(file.save(&[]), "there is no need to try again");
    assert!(!path.exists());
    assert_eq!(file.load(), Some(Vec::new()));
}

#[test]
fn what_cannot_be_removed_is_told_once() {
    let mut blocks = room_for(8, &[]);
    by_hand(&mut blocks, "203.0.113.7").expect("there is room");
    let stuck = network("203.0.113.7");
    assert_eq!([blocks.note_stuck(&stuck), blocks.note_stuck(&stuck)], [true, false]);
    assert!(!blocks.note_stuck(&network("203.0.113.8")), "that is not blocked");
    blocks.remove(&stuck).expect("is there");
    by_hand(&mut blocks, "203.0.113.7").expect("there is room");
    assert!(blocks.note_stuck(&stuck), "another block");
}
