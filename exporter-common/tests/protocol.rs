//! First payloads of every protocol, of each end, and what only looks like them.

#![allow(clippy::unwrap_used, reason = "a test panics for a stack trace")]

use proptest::prelude::*;
use tidewaiter_common::{
    protocol::{PREFIX_BYTES, Prefix, Protocol},
    transport::Transport,
};

fn tcp(payload: &[u8]) -> Protocol {
    Protocol::classify(Transport::Tcp, &Prefix::of(payload))
}

fn udp(payload: &[u8]) -> Protocol {
    Protocol::classify(Transport::Udp, &Prefix::of(payload))
}

/// The bytes that these digits, with spaces between them, are.
fn hex(digits: &str) -> Vec<u8> {
    let digits: Vec<_> = digits.chars().filter(|digit| !digit.is_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}

/// A payload that begins with these bytes, and is so long.
fn long(start: &[u8], length: usize) -> Vec<u8> {
    let mut payload = start.to_vec();
    payload.resize(length, b'x');
    payload
}

/// `message` behind its length in four bytes, as Kafka has it.
fn sized(message: &[u8]) -> Vec<u8> {
    [&u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// `message` behind a length in four bytes that counts itself, as `PostgreSQL` has it.
fn counted(message: &[u8]) -> Vec<u8> {
    [&(u32::try_from(message.len()).unwrap() + 4).to_be_bytes(), message].concat()
}

/// `contents` as packet `number` of `MySQL`.
fn mysql(number: u8, contents: &[u8]) -> Vec<u8> {
    [&u32::try_from(contents.len()).unwrap().to_le_bytes()[..3], &[number], contents].concat()
}

/// What clients and servers send first, over TCP.
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn examples() -> Vec<(Protocol, Vec<u8>)> {
    let text = |protocol, lines: &[&str]| -> Vec<_> {
        lines.iter().map(|line| (protocol, line.as_bytes().to_vec())).collect()
    };
    let bytes = |protocol, payloads: Vec<Vec<u8>>| -> Vec<_> {
        payloads.into_iter().map(|payload| (protocol, payload)).collect()
    };
    let settings = |contents: &str| hex(contents);
    let login = [&hex("8da2 0b00 0000 0040 2d")[..], &[0; 23], b"root\0"].concat();
    let kafka_answer = hex("00000000 0000 3c 0000 0000 0009 00 0001 0000 000d 00 0002 0000 0007 00");
    [
        text(
            Protocol::Http1,
            &[
                "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                "POST /v1/orders HTTP/1.1\r\n",
                "OPTIONS * HTTP/1.1\r\n",
                "CONNECT db.example.com:443 HTTP/1.1\r\n",
                "CONNECT [::1]:443 HTTP/1.1\r\n",
                "PROPFIND /dav/ HTTP/1.1\r\n",
                "HTTP/1.1 200 OK\r\n",
                "HTTP/1.0 404 Not Found\r\n",
                "HEAD http://example.com/ HTTP/1.1\r\n",
                "SEARCH / HTTP/1.1\r\n",
                "M-SEARCH * HTTP/1.1\r\n",
            ],
        ),
        text(Protocol::Http2, &["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0"]),
        bytes(
            Protocol::Http2,
            vec![
                // nginx; Go's gRPC; an empty one and then its acknowledgement of the client's; alone; C core's gRPC.
                settings("000012 04 00 00000000 0003 00000080 0004 00010000 0005 00ffffff"),
                settings("000006 04 00 00000000 0005 00004000"),
                settings("000000 04 00 00000000 000000 04 01 00000000"),
                settings("000000 04 00 00000000"),
                settings("000018 04 00 00000000 fe03 00000001 0004 003fffff"),
            ],
        ),
        bytes(
            Protocol::Tls,
            vec![
                hex("1603010200 010001fc 0303 aabbccddeeff00112233445566778899aabbccdd"),
                hex("160303007a 02000076 0303 aabbccddeeff00112233445566778899aabbccdd"),
                hex("1603000061 0100005d 0300 aabbccddeeff00112233445566778899aabbccdd"),
                hex("1503010002 0228"),
                hex("1503030002 0100"),
            ],
        ),
        bytes(
            Protocol::Dns,
            vec![
                // example.com A, with EDNS; its answer.
                hex("0028 a1b2 0120 0001 0000 0000 0001 07 6578616d706c65 03 636f6d 00 0001 0001 00 0029 04d0 0000 0000 0000"),
                long(&hex("002d a1b2 8180 0001 0001 0000 0000 07 6578616d706c65 03 636f6d 00 0001 0001"), 0x2f),
                // The transfer of a zone, as far as one segment has it.
                long(&hex("3f21 a1b2 8480 0001 0120 0000 0000 07 6578616d706c65 03 636f6d 00 00fc 0001"), 1460),
            ],
        ),
        text(Protocol::Ssh, &["SSH-2.0-OpenSSH_9.9p1 Debian-3\r\n", "SSH-1.99-Cisco-1.25\n", "SSH-2.0-Go\r\n"]),
        text(
            Protocol::Smtp,
            &[
                "220 mx.example.com ESMTP Postfix (Debian)\r\n",
                "220-mail.example.com ESMTP Exim 4.98\r\n",
                "554 mx.example.com ESMTP not accepting messages\r\n",
                "220 host SMTP\r\n",
                "EHLO client.example.com\r\n",
                "HELO [192.0.2.1]\r\n",
                "helo x\r\n",
                "MAIL FROM:<a@example.com>\r\n",
            ],
        ),
        bytes(
            Protocol::Postgresql,
            vec![
                counted(b"\0\x03\0\0user\0postgres\0database\0shop\0\0"),
                counted(b"\0\x03\0\x02database\0shop\0user\0postgres\0\0"),
                hex("00000008 04d2162f"),
                hex("00000008 04d21630"),
                hex("00000010 04d2162e 00001234 deadbeef"),
                b"S".to_vec(),
                b"N".to_vec(),
                b"G".to_vec(),
                hex("52 00000008 00000000 53 00000016"),
                hex("52 0000000c 00000005 01020304"),
                hex("52 00000017 0000000a 534352414d2d5348412d323536 0000"),
                b"E\0\0\0\x5aSFATAL\0VFATAL\0C28000\0Mno pg_hba.conf entry".to_vec(),
            ],
        ),
        bytes(
            Protocol::Mysql,
            vec![
                mysql(0, b"\x0a8.4.3\0\x0b\0\0\0abcdefgh\0\xff\xff\xff\x02\0"),
                mysql(0, b"\x0a5.5.5-10.11.6-MariaDB\0\x0b\0\0\0abcdefgh\0\xff\xff\xff\x02\0"),
                mysql(0, b"\x0a11.4.2-MariaDB\0\x0b\0\0\0abcdefgh\0\xff\xff\xff\x02\0"),
                mysql(0, b"\xff\x6a\x04Host '10.0.0.9' is not allowed to connect to this MySQL server"),
                mysql(0, b"\xff\x10\x04Too many connections"),
                mysql(1, &login),
            ],
        ),
        text(
            Protocol::Redis,
            &[
                "*1\r\n$4\r\nPING\r\n",
                "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n",
                "*12\r\n$4\r\nMSET\r\n",
                "PING\r\n",
                "ping\r\n",
                "+OK\r\n",
                "+PONG\r\n",
                "-ERR unknown command 'FOO'\r\n",
                "-NOAUTH Authentication required.\r\n",
                "-WRONGPASS invalid username-password pair\r\n",
                ":1\r\n",
                ":-1\r\n",
                ":31337\r\n",
                "$5\r\nhello\r\n",
                "$-1\r\n",
                "*0\r\n",
                "*-1\r\n",
                "%7\r\n$6\r\nserver\r\n",
                "*2\r\n:1\r\n:2\r\n",
            ],
        ),
        bytes(Protocol::Redis, vec![long(b"$1024\r\n# Server\r\n", 1033), long(b"$65536\r\n{", 1460)]),
        bytes(
            Protocol::Kafka,
            vec![
                // ApiVersions of the Java client; of librdkafka; Metadata without a name, and with an empty one.
                sized(&[&hex("0012 0003 00000000 000a")[..], b"producer-1\0\x12apache-kafka-java\x063.7.0\0"].concat()),
                sized(&[&hex("0012 0000 00000001 0007")[..], b"rdkafka"].concat()),
                sized(&hex("0003 0000 00000001 ffff 00000000")),
                sized(&hex("0003 0001 00000001 0000 00000000")),
                // Their answers.
                sized(&kafka_answer),
                sized(&hex("00000001 0000 00000002 0000 0000 0007 0001 0000 000b")),
            ],
        ),
        bytes(
            Protocol::Mqtt,
            vec![
                hex("10 10 0004 4d515454 04 02 003c 0004 74657374"),
                hex("10 11 0004 4d515454 05 02 003c 00 0004 74657374"),
                long(&hex("10 9001 0004 4d515454 04 c2 003c"), 147),
                hex("10 12 0006 4d5149736470 03 02 003c 0004 74657374"),
                hex("20 02 00 00"),
                hex("20 02 01 00"),
                hex("20 02 00 05"),
                hex("20 03 00 00 00"),
                hex("20 06 00 00 03 22 000a"),
            ],
        ),
        bytes(
            Protocol::Amqp,
            vec![
                hex("414d5150 00 00 09 01"),
                hex("414d5150 00 01 00 00"),
                hex("414d5150 03 01 00 00"),
                long(&hex("01 0000 000001fc 000a 000a 00 09 000001d7"), 516),
            ],
        ),
    ]
    .concat()
}

#[test]
fn every_protocol_is_told_by_what_either_end_sends_first() {
    for (protocol, payload) in examples() {
        assert_eq!(tcp(&payload), protocol, "{:?}", payload.escape_ascii().to_string());
    }
    for protocol in Protocol::ALL {
        // gRPC cannot be told by so little.
        let is_told = !matches!(protocol, Protocol::Unknown | Protocol::Grpc);
        assert_eq!(examples().iter().any(|(example, _)| *example == protocol), is_told, "{protocol:?}");
    }
}

#[test]
fn dns_is_told_in_datagrams() {
    let name = "07 6578616d706c65 03 636f6d 00";
    for message in [
        // A query; with EDNS; the root's name servers; an answer; one cut short; a refusal without a question.
        format!("a1b2 0100 0001 0000 0000 0000 {name} 0001 0001"),
        format!("a1b2 0120 0001 0000 0000 0001 {name} 001c 0001 00 0029 04d0 0000 0000 0000"),
        "a1b2 0100 0001 0000 0000 0000 00 0002 0001".to_owned(),
        format!("a1b2 8180 0001 0001 0000 0000 {name} 0001 0001 c00c 0001 0001 0000003c 0004 c0000201"),
        format!("a1b2 8380 0001 0020 0000 0000 {name} 0001 0001"),
        "a1b2 8181 0000 0000 0000 0000".to_owned(),
        // A notification; an update; multicast: two questions, and an answer without one.
        format!("a1b2 2400 0001 0000 0000 0000 {name} 0006 0001"),
        format!("a1b2 2800 0001 0000 0001 0000 {name} 0006 0001 {name} 0001 0001 0000003c 0004 c0000201"),
        "0000 0000 0002 0000 0000 0000 05 5f69707073 04 5f746370 05 6c6f63616c 00 000c 0001 04 5f697070 c012 000c 0001"
            .to_owned(),
        "0000 8400 0000 0001 0000 0000 05 5f68747470 04 5f746370 05 6c6f63616c 00 000c 0001 00001194 0002 c00c"
            .to_owned(),
    ] {
        assert_eq!(udp(&hex(&message)), Protocol::Dns, "{message}");
        assert_eq!(Protocol::classify(Transport::Sctp, &Prefix::of(&hex(&message))), Protocol::Unknown);
        let segment = [&u16::try_from(hex(&message).len()).unwrap().to_be_bytes(), &hex(&message)[..]].concat();
        assert_eq!(tcp(&segment), Protocol::Dns, "{message}");
    }
}

#[test]
fn nothing_but_dns_is_told_in_datagrams_and_nothing_at_all_in_sctp() {
    for (protocol, payload) in examples() {
        assert_eq!(udp(&payload), Protocol::Unknown, "{protocol:?} {payload:02x?}");
        assert_eq!(Protocol::classify(Transport::Sctp, &Prefix::of(&payload)), Protocol::Unknown);
    }
}

#[test]
fn what_only_looks_like_dns_is_not() {
    let name = "07 6578616d706c65 03 636f6d 00";
    for (what, message) in [
        // RFC 1002: one label of 32 letters from A to P.
        ("NetBIOS", format!("a1b2 0110 0001 0000 0000 0000 20 {} 00 0020 0001", "4641".repeat(16))),
        ("NTP", format!("2300 0000 0000 0000 0000 0000 {}", "00".repeat(36))),
        ("STUN", "0001 0000 2112 a442 0102 0304 0506 0708 090a 0b0c".to_owned()),
        ("more records than there is room for", format!("a1b2 8180 0001 0020 0000 0000 {name} 0001 0001")),
        ("a query with a code", format!("a1b2 0101 0001 0000 0000 0000 {name} 0001 0001")),
        ("a reserved bit", format!("a1b2 0140 0001 0000 0000 0000 {name} 0001 0001")),
        ("an opcode that is none", format!("a1b2 3800 0001 0000 0000 0000 {name} 0001 0001")),
        ("a label of control characters", "a1b2 0100 0001 0000 0000 0000 04 01020304 00 0001 0001".to_owned()),
        ("a label that is too long", "a1b2 0100 0001 0000 0000 0000 40 61626364 00 0001 0001".to_owned()),
        ("a header alone", "a1b2 0100 0001 0000 0000 0000".to_owned()),
        ("nothing but zeros", "00".repeat(32)),
    ] {
        assert_eq!(udp(&hex(&message)), Protocol::Unknown, "{what}");
    }
}

#[test]
fn what_only_looks_like_a_protocol_is_unknown() {
    let text = [
        // FTP, POP3, IMAP, NNTP: greetings, refusals, commands.
        "220 (vsFTPd 3.0.5)\r\n",
        "220 ProFTPD Server (Debian) [::ffff:192.0.2.1]\r\n",
        "220 ftp.example.com FTP server ready\r\n",
        "220---------- Welcome to Pure-FTPd [privsep] [TLS] ----------\r\n",
        "220 smtp.example.com\r\n",
        "+OK POP3 ready <1896.697170952@example.com>\r\n",
        "+OK Dovecot ready.\r\n",
        "-ERR [SYS/TEMP] try again later\r\n",
        "* OK IMAP4rev1 ready\r\n",
        "200 news.example.com ready\r\n",
        "USER anonymous\r\n",
        "HELP\r\n",
        // What has borrowed HTTP's request line.
        "OPTIONS rtsp://192.0.2.1/ RTSP/1.0\r\n",
        "OPTIONS * RTSP/1.0\r\n",
        "INVITE sip:bob@example.com SIP/2.0\r\n",
        "REQMOD icap://icap.example.com/ ICAP/1.0\r\n",
        "RTSP/1.0 200 OK\r\n",
        "CONNECT {\"verbose\":false}\r\n",
        "CONNECT\naccept-version:1.2\n",
        // memcached, IRC, Redis without RESP, Git, rsync, SOCKS, BitTorrent.
        "get key\r\n",
        "GET key\r\n",
        "PING :irc.example.com\r\n",
        ":irc.example.com 001 me :Welcome\r\n",
        "NICK me\r\n",
        "003cgit-upload-pack /repo.git\0host=example.com\0",
        "@RSYNCD: 31.0\n",
        "\x05\x01\0",
        "\x13BitTorrent protocol",
        // Single letters that somebody types.
        "s",
        "P",
        "A",
        "*",
        // Prose, and a log.
        "A /path that is no target, of a method that is too short",
        "THE HTTP way",
        "POST it",
        "HTTP/2 200\r\n",
        "HTTP/1.1 999 \r\n",
        "SSH-agent",
        "EHLO\r\n",
        "AMQPish",
    ];
    for line in text {
        assert_eq!(tcp(line.as_bytes()), Protocol::Unknown, "{line:?}");
    }
    for (what, payload) in [
        (
            "ZooKeeper's first message",
            sized(&hex(&format!("00000000 0000000000000000 00007530 0000000000000000 00000010 {}", "00".repeat(16)))),
        ),
        ("a size and zeros", sized(&[0; 40])),
        ("a number behind its length", hex("00000004 00000000 00000004 00000001")),
        ("SMB", long(&hex("000000a4 ff534d42 72 00000000 18 53c8"), 0xa8)),
        ("SMB2", long(&hex("000000a4 fe534d42 4000 0000"), 0xa8)),
        ("RDP", hex("0300002b 26e00000000000436f6f6b69653a206d737473686173683d")),
        ("LDAP", hex("300c020101600702010304008000")),
        ("Thrift", sized(b"\x80\x01\0\x01\0\0\0\x04ping\0\0\0\0\0")),
        ("MongoDB", long(&hex("3a000000 01000000 00000000 d4070000 00000000 61646d696e2e24636d64 00"), 0x3a)),
        ("TLS application data", hex("1703030020 aabbccddeeff00112233445566778899aabbccddeeff00112233")),
        ("a DTLS hello over TCP", hex("16feff0000000000000000008a 0100007e 000000000000007e fefd 00")),
        ("a hello of a version that is none", hex("1603010200 010001fc 0403 aabbccddeeff00112233445566778899")),
        ("an MQTT publication", hex("300a 0004 74657374 68656c6c")),
        ("another name than MQTT's", hex("10 10 0004 4d515455 04 02 003c 0004 74657374")),
        ("SETTINGS with a flag", hex("000006 04 02 00000000 0005 00004000")),
        ("SETTINGS of a stream", hex("000006 04 00 00000001 0005 00004000")),
        ("SETTINGS of a strange length", hex("000007 04 00 00000000 0005 00004000 00")),
        ("a Kafka request of which part is missing", hex("00000100 0012 0003 00000000 0005 61626364 65")),
        ("nothing", Vec::new()),
        ("zeros", vec![0; 64]),
        ("ones", vec![0xff; 64]),
    ] {
        assert_eq!(tcp(&payload), Protocol::Unknown, "{what}");
    }
}

/// A generator of numbers (xorshift*) that is the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn payload(&mut self, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(length);
        bytes
    }
}

/// What is told of this many payloads of random bytes, of 2 to 64 each.
fn told_of_random(count: usize) -> usize {
    let mut random = Random(0x7469_6465_7761_6974);
    (0..count)
        .filter(|_| {
            let length = 2 + (random.next() % 63) as usize;
            let payload = random.payload(length);
            tcp(&payload) != Protocol::Unknown || udp(&payload) != Protocol::Unknown
        })
        .count()
}

#[test]
fn random_bytes_are_unknown() {
    assert_eq!(told_of_random(1_000_000), 0);
}

#[test]
#[ignore = "takes minutes; the figure that it prints is in the documentation of `classify`"]
fn random_bytes_are_nearly_never_told() {
    let count = 1_000_000_000;
    let told = told_of_random(count);
    println!("{told} of {count}");
    assert!(told < 10, "{told} of {count}");
}

#[test]
fn of_single_bytes_three_are_told() {
    let told = (0..=255).filter(|byte| tcp(&[*byte]) != Protocol::Unknown).collect::<Vec<u8>>();
    assert_eq!(told, b"GNS");
}

/// However much of it came, a payload is told as what it is, or not at all.
#[test]
fn a_payload_that_is_cut_off_is_nothing_else() {
    for (protocol, payload) in examples() {
        for length in 2..payload.len().min(PREFIX_BYTES) {
            let cut = tcp(&payload[..length]);
            assert!(cut == protocol || cut == Protocol::Unknown, "{cut:?} for {protocol:?}, {length} of {payload:?}");
        }
    }
}

/// A payload with one byte changed is the same or nothing: no two protocols are a byte apart. Only a client's name that
/// begins with a slash makes of SMTP's command a method of HTTP/1, with a path.
#[test]
fn no_two_protocols_are_a_byte_apart() {
    for (protocol, payload) in examples().into_iter().filter(|(_, payload)| payload.len() > 1) {
        for at in 0..payload.len().min(PREFIX_BYTES) {
            for byte in 0..=255 {
                let mut changed = payload.clone();
                changed[at] = byte;
                let told = tcp(&changed);
                let is_path = protocol == Protocol::Smtp && told == Protocol::Http1 && changed[5] == b'/';
                assert!(
                    is_path || told == protocol || told == Protocol::Unknown,
                    "{told:?} for {protocol:?}, {changed:?}"
                );
            }
        }
    }
}

proptest! {
    /// Nothing behind the prefix is known, and the answer is the same whatever it is.
    #[test]
    fn no_more_than_the_prefix_counts(index in 0_usize..200, rest in prop::collection::vec(any::<u8>(), 64)) {
        let examples = examples();
        let (protocol, payload) = &examples[index % examples.len()];
        let mut changed = payload.clone();
        for (byte, other) in changed.iter_mut().skip(PREFIX_BYTES).zip(rest) {
            *byte = other;
        }
        prop_assert_eq!(tcp(&changed), *protocol);
    }
}
