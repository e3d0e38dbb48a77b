use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Entry, Gap, Hash, Head, Link, MAX_LINE, Opened, Torn, Why};
use crate::{
    anomaly::{Anomaly, AnomalyKind},
    api::Role,
    event::{ConfigurationChange, Event, Happening, Trigger},
    flow::Protocol,
};

fn line(entry: &Entry, head: Head) -> (String, Head) {
    let (line, head) = entry.line(head).expect("can be written");
    assert_eq!(head.hash, Hash::of(&line));
    (String::from_utf8(line).expect("text"), head)
}

#[test]
fn a_line_is_one_object_that_names_the_line_before() {
    let anomaly = Anomaly {
        kind: AnomalyKind::UnexpectedPayload,
        api: "orders".into(),
        role: Some(Role::Server),
        local: Some(SocketAddr::from(([10, 0, 0, 1], 8080))),
        remote: Some(SocketAddr::from(([203, 0, 113, 7], 0))),
        application: Some(Protocol::Ssh),
        rule: Some("no ssh".into()),
        detail: "line\nbreak".to_owned(),
        first_bytes: b"SSH\r\n\xff\"".to_vec(),
    };
    let event = Event { time: UNIX_EPOCH + Duration::from_secs(1_700_000_000), what: Happening::Anomaly(anomaly) };
    let before = Head { sequence: 41, hash: Hash::of(b"the line before") };
    let (line, head) = line(&Entry::event(&event), before);
    let expected = format!(
        concat!(
            r#"{{"sequence":42,"time":"2023-11-14T22:13:20.000000000Z","event":"tidewaiter.anomaly.unexpected_payload","#,
            r#""severity":"WARN","message":"line\nbreak","api":"orders","role":"server","kind":"unexpected_payload","#,
            r#""rule":"no ssh","first_bytes":"SSH\\r\\n\\xff\\\"","local":{{"address":"10.0.0.1","port":8080}},"#,
            r#""remote":{{"address":"203.0.113.7","port":0}},"application":"ssh","previous":"{}"}}"#,
        ),
        before.hash
    );
    assert_eq!(line, expected);
    let read = Link::read(line.as_bytes()).expect("is one");
    assert_eq!((read.sequence, read.previous, head.sequence), (42, before.hash, 42));
}

#[test]
fn the_hash_is_sha_256() {
    assert_eq!(Hash::of(b"abc").to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(Hash::of(b"abc").to_string().parse(), Ok(Hash::of(b"abc")));
    for wrong in ["", "ab", &"g".repeat(64), &"€".repeat(22), &"a".repeat(65)] {
        assert!(wrong.parse::<Hash>().is_err(), "{wrong}");
    }
}

#[test]
fn own_records_say_what_they_are_about() {
    let now = SystemTime::now();
    let gap = Gap {
        total: 3,
        lost: [("tidewaiter.flow", 3)].into(),
        reasons: [("backlog", 3)].into(),
        since: now,
        until: now,
    };
    let opened = Opened { why: Why::Rotated, continues: Some("audit.jsonl.7".to_owned()) };
    let torn = Torn { bytes: 9, sha256: Hash::NONE };
    for (entry, part) in [
        (Entry::gap(gap), r#""total":3,"lost":{"tidewaiter.flow":3},"reasons":{"backlog":3},"since":""#),
        (Entry::opened(opened), r#""why":"rotated","continues":"audit.jsonl.7","previous":""#),
        (Entry::torn(torn), r#""bytes":9,"sha256":"0000"#),
    ] {
        let (line, _) = line(&entry, Head::NONE);
        assert!(line.contains(part), "{line}");
        let read = Link::read(line.as_bytes()).expect("is one");
        assert_eq!((read.sequence, read.previous), (1, Hash::NONE));
    }
}

#[test]
fn no_line_is_too_long_whatever_is_in_it() {
    let worst = "\u{1}".repeat(1 << 20);
    let api: Arc<str> = worst.as_str().into();
    let change = ConfigurationChange {
        by: Trigger::File,
        hash_before: worst.clone(),
        hash: worst.clone(),
        difference: vec![worst.clone(); 1000],
        generation: 1,
    };
    let anomaly = Anomaly {
        kind: AnomalyKind::Malformed,
        api,
        role: None,
        local: None,
        remote: None,
        application: None,
        rule: Some(worst.as_str().into()),
        detail: worst.clone(),
        first_bytes: vec![0; 1 << 20],
    };
    for what in [Happening::ConfigurationChanged(change), Happening::Anomaly(anomaly)] {
        let (line, _) = line(&Entry::event(&Event { time: SystemTime::now(), what }), Head::NONE);
        assert!(line.len() <= MAX_LINE, "{}", line.len());
    }
}

#[test]
fn what_others_write_is_no_line_of_ours() {
    for line in ["", "{}", "127.0.0.1 - - [x]", r#"{"sequence":1,"time":"x","event":"other","previous":""}"#, "null"] {
        assert!(Link::read(line.as_bytes()).is_none(), "{line}");
    }
}
