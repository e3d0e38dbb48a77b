//! Hellos of TLS: whole, cut off anywhere, and made to harm.

#![allow(clippy::unwrap_used, reason = "a test panics for a stack trace")]

use tidewaiter::{
    flow::TlsHello,
    tls::{join, read_hello},
};

/// A vector behind its length in `width` bytes.
fn vector(width: usize, contents: &[u8]) -> Vec<u8> {
    [&u32::try_from(contents.len()).unwrap().to_be_bytes()[4 - width..], contents].concat()
}

fn extension(kind: u16, contents: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(2, contents)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &vector(2, &[&[0][..], &vector(2, name)].concat()))
}

fn protocols(names: &[&[u8]]) -> Vec<u8> {
    extension(16, &vector(2, &names.iter().flat_map(|name| vector(1, name)).collect::<Vec<_>>()))
}

fn record(contents: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &vector(2, contents)].concat()
}

fn client_message(version: u16, extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &version.to_be_bytes()[..],
        &[7; 32],
        &vector(1, &[9; 32]),
        &vector(2, &[0x13, 0x01, 0x13, 0x02]),
        &vector(1, &[0]),
        &vector(2, &extensions.concat()),
    ];
    [&[1][..], &vector(3, &body.concat())].concat()
}

fn client(version: u16, extensions: &[Vec<u8>]) -> Vec<u8> {
    record(&client_message(version, extensions))
}

fn server(version: u16, extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &version.to_be_bytes()[..],
        &[7; 32],
        &vector(1, &[9; 32]),
        &[0x13, 0x01, 0],
        &vector(2, &extensions.concat()),
    ];
    record(&[&[2][..], &vector(3, &body.concat())].concat())
}

/// As a browser sends it: with values that mean nothing, and with a key that does not fit into the segment.
fn usual() -> Vec<u8> {
    client(
        0x0303,
        &[
            extension(0x2a2a, &[]),
            server_name(b"api.example.com"),
            protocols(&[b"\x0a\x0a", b"h2", b"http/1.1"]),
            extension(43, &vector(1, &[0x3a, 0x3a, 0x03, 0x04, 0x03, 0x03])),
            extension(51, &vector(2, &[5; 1300])),
        ],
    )
}

fn hello(version: &'static str, server_name: Option<&str>, application_protocols: &[&str]) -> TlsHello {
    TlsHello {
        version: Some(version),
        server_name: server_name.map(str::to_owned),
        application_protocols: application_protocols.iter().map(|name| (*name).to_owned()).collect(),
        ..TlsHello::default()
    }
}

/// What a server chose; of application protocols it may say nothing in the clear.
fn chosen(version: &'static str, server_name: Option<&str>, application_protocols: &[&str]) -> TlsHello {
    TlsHello {
        version_is_chosen: true,
        protocol_is_chosen: !application_protocols.is_empty(),
        ..hello(version, server_name, application_protocols)
    }
}

#[test]
fn a_client_says_whom_it_wants_and_what_it_speaks() {
    let expected = hello("1.3", Some("api.example.com"), &["h2", "http/1.1"]);
    assert_eq!(read_hello(&usual()), Some(expected.clone()));
    assert_eq!(read_hello(&usual()[..1000]), Some(expected), "the key is cut off");
}

#[test]
fn a_server_says_what_it_chose() {
    let newer = server(0x0303, &[extension(43, &[0x03, 0x04])]);
    assert_eq!(read_hello(&newer), Some(chosen("1.3", None, &[])));
    let offered = hello("1.3", Some("api.example.com"), &["h2", "http/1.1"]);
    let offered = TlsHello { version_is_chosen: true, ..offered };
    assert_eq!(
        join(read_hello(&usual()), read_hello(&newer)),
        Some(offered),
        "what it speaks is said behind the curtain"
    );
    let older = server(0x0303, &[protocols(&[b"h2"])]);
    assert_eq!(read_hello(&older), Some(chosen("1.2", None, &["h2"])));
    assert_eq!(join(read_hello(&usual()), read_hello(&older)), Some(chosen("1.2", Some("api.example.com"), &["h2"])));
    assert_eq!(join(None, read_hello(&older)), read_hello(&older));
    assert_eq!(join(read_hello(&usual()), None), read_hello(&usual()));
    assert_eq!(join(None, None), None);
}

#[test]
fn versions_have_their_names() {
    for (version, name) in [(0x0300, "SSL 3.0"), (0x0301, "1.0"), (0x0302, "1.1"), (0x0303, "1.2")] {
        assert_eq!(read_hello(&client(version, &[])), Some(hello(name, None, &[])));
        assert_eq!(read_hello(&server(version, &[])), Some(chosen(name, None, &[])));
    }
    let draft = server(0x0303, &[extension(43, &[0x7f, 0x1c])]);
    assert_eq!(read_hello(&draft).unwrap().version, None);
}

#[test]
fn what_was_cut_off_is_missing_and_nothing_is_wrong() {
    let whole = read_hello(&usual()).unwrap();
    let usual = usual();
    for length in 0..usual.len() {
        let Some(TlsHello { version, server_name, application_protocols, .. }) = read_hello(&usual[..length]) else {
            assert!(length < 11, "{length}");
            continue;
        };
        assert!(version.is_none() || version == whole.version, "{length}: {version:?}");
        assert!(server_name.is_none() || server_name == whole.server_name, "{length}: {server_name:?}");
        assert!(whole.application_protocols.starts_with(&application_protocols), "{length}");
    }
}

#[test]
fn a_message_may_lie_across_records() {
    let message = client_message(0x0303, &[server_name(b"api.example.com"), protocols(&[b"h2"])]);
    for size in [1, 5, 50, 100] {
        let records: Vec<u8> = message.chunks(size).flat_map(record).collect();
        assert_eq!(read_hello(&records), Some(hello("1.2", Some("api.example.com"), &["h2"])), "{size}");
    }
}

#[test]
fn names_are_bounded_and_harmless() {
    let read = |extensions: &[Vec<u8>]| read_hello(&client(0x0303, extensions)).unwrap();
    let name = |name: &[u8]| read(&[server_name(name)]).server_name;
    assert_eq!(name(b"a\n<b>\x1b[31m\xc3\xa4 \"").as_deref(), Some("a?<b>?[31m???\""));
    assert_eq!(name(&[b'a'; 255]), Some("a".repeat(255)));
    assert_eq!(name(&[b'a'; 256]), None);
    assert_eq!(name(b""), None);
    let many = [&b"x\0y"[..]; 100];
    let TlsHello { application_protocols, .. } = read(&[protocols(&many), protocols(&many)]);
    assert_eq!(application_protocols, vec!["x?y"; 16]);
}

#[test]
fn what_is_no_hello_is_none() {
    let mut other = usual();
    other[5] = 11;
    for payload in [&b""[..], b"GET / HTTP/1.1\r\n", &[22, 3, 1, 0, 0], &[22; 64], &[21, 3, 3, 0, 2, 2, 40], &other] {
        assert_eq!(read_hello(payload), None, "{payload:02x?}");
    }
}

#[test]
fn no_bytes_do_harm() {
    let mut state = 0x7469_6465_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for payload in [usual(), server(0x0303, &[protocols(&[b"h2"]), extension(43, &[3, 4])])] {
        for _ in 0..20_000 {
            let mut changed = payload.clone();
            for _ in 0..=random() % 4 {
                let at = random() % changed.len().min(160);
                changed[at] = random() as u8;
            }
            let Some(hello) = read_hello(&changed) else { continue };
            assert!(hello.application_protocols.len() <= 16);
            let texts = hello.server_name.iter().chain(&hello.application_protocols);
            assert!(texts.into_iter().all(|text| text.chars().count() <= 255 && !text.contains(char::is_control)));
        }
    }
}
