//! `traceparent`, by itself and in requests.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use proptest::{
    prelude::{ProptestConfig, Strategy, any},
    prop_assert, prop_assert_eq, prop_assume, proptest,
};
use tidewaiter::trace_context::TraceParent;

/// The example of the specification.
const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn valid() -> TraceParent {
    TraceParent {
        trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes(),
        span_id: 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes(),
        flags: 1,
    }
}

fn parse(value: &str) -> Option<TraceParent> {
    TraceParent::parse(value.as_bytes())
}

/// What a request says that has these header lines.
fn of(lines: &str) -> Option<TraceParent> {
    TraceParent::of_request(format!("GET /orders HTTP/1.1\r\nHost: orders.example\r\n{lines}\r\n").as_bytes())
}

#[test]
fn the_specifications_example_is_read_and_written() {
    assert_eq!(parse(VALID), Some(valid()));
    assert_eq!(valid().to_string(), VALID);
}

#[test]
fn what_is_not_valid_is_none() {
    let with = |place: usize, other: &str| [&VALID[..place], other, &VALID[place + other.len()..]].concat();
    for value in [
        "",
        "00",
        "not a trace",
        // Too short, and too long for the only version that says how long it is.
        &VALID[..VALID.len() - 1],
        &format!("{VALID}0"),
        &format!("{VALID}-"),
        &format!("{VALID}-00"),
        &format!(" {VALID}"),
        &format!("{VALID} "),
        // No version.
        &with(0, "ff"),
        &with(0, "FF"),
        // Nobody's trace, and nobody's span.
        &with(3, &"0".repeat(32)),
        &with(36, &"0".repeat(16)),
        // Upper case, and no digits.
        &with(3, "4BF92F"),
        &with(36, "00F0"),
        &with(53, "0g"),
        &with(53, "+1"),
        // No dashes.
        &with(2, "_"),
        &with(35, "0"),
        &with(52, ":"),
    ] {
        assert_eq!(parse(value), None, "{value}");
    }
}

#[test]
fn of_a_later_version_what_is_known_is_read() {
    let later = format!("cc{}", &VALID[2..]);
    for value in [later.clone(), format!("{later}-"), format!("{later}-what-the-future-will-be-like")] {
        assert_eq!(parse(&value), Some(valid()), "{value}");
    }
    assert_eq!(parse(&format!("{later}.")), None);
    assert_eq!(parse(&format!("{later}0")), None);
    assert_eq!(parse(&later[..later.len() - 1]), None);
    // What its other flags mean is not known.
    assert_eq!(parse(&format!("{}ff", &later[..53])), Some(valid()));
    assert_eq!(parse(&format!("{}fe", &later[..53])), Some(TraceParent { flags: 0, ..valid() }));
    assert_eq!(parse(&format!("{}ff", &VALID[..53])), Some(TraceParent { flags: 0xff, ..valid() }));
}

#[test]
fn it_is_found_in_a_request() {
    for lines in [
        format!("traceparent: {VALID}\r\n"),
        format!("TraceParent:{VALID}\r\nAccept: */*\r\n"),
        format!("Accept: */*\r\nTRACEPARENT: \t {VALID}\t \r\n"),
        // Whoever ends lines so is understood (RFC 9112 section 2.2).
        format!("Accept: */*\ntraceparent: {VALID}\n"),
        format!("Cookie: a\r\n b\r\ntraceparent: {VALID}\r\nX: a\r\n\tb\r\n"),
        format!("tracestate: a=b\r\ntraceparent: {VALID}\r\nxtraceparent: 1\r\ntraceparents: 2\r\n"),
        // There is nothing that names the header behind the empty line.
        format!("traceparent: {VALID}\r\n\r\ntraceparent: {VALID}\r\n"),
    ] {
        assert_eq!(of(&lines), Some(valid()), "{lines:?}");
    }
}

#[test]
fn what_is_not_one_header_of_a_request_is_none() {
    for lines in [
        String::new(),
        format!("\r\ntraceparent: {VALID}\r\n"),
        format!("\ntraceparent: {VALID}\r\n"),
        format!("traceparent : {VALID}\r\n"),
        format!(" traceparent: {VALID}\r\n"),
        format!("X: traceparent: {VALID}\r\n"),
        format!("xtraceparent: {VALID}\r\n"),
        format!("traceparents: {VALID}\r\n"),
        format!("traceparent: {VALID}, {VALID}\r\n"),
        // Folded.
        format!("traceparent:\r\n {VALID}\r\n"),
        format!("traceparent: {VALID}\r\n\t-00\r\n"),
        format!("traceparent: {VALID}\r\n \r\n"),
        // More than once, though they say the same, or only one is valid.
        format!("traceparent: {VALID}\r\ntraceparent: {VALID}\r\n"),
        format!("traceparent: {VALID}\r\nX: y\r\nTraceparent: 00\r\n"),
        format!("traceparent: 00\r\ntraceparent: {VALID}\r\n"),
    ] {
        assert_eq!(of(&lines), None, "{lines:?}");
    }
    for start in ["GET / HTTP/2.0", "GET /", "HTTP/1.1 200 OK", "", "GET / HTTP/1.1\r"] {
        let payload = format!("{start}\r\ntraceparent: {VALID}\r\n\r\n");
        let is_found = TraceParent::of_request(payload.as_bytes()).is_some();
        assert!(!is_found, "{payload:?}");
    }
    // The second is cut off: there are two all the same.
    let cut = format!("GET / HTTP/1.1\r\ntraceparent: {VALID}\r\ntraceparent: 00-");
    assert_eq!(TraceParent::of_request(cut.as_bytes()), None);
}

/// A trace, by its ids and flags.
fn trace_parent() -> impl Strategy<Value = TraceParent> {
    (1..=u128::MAX, 1..=u64::MAX, any::<u8>()).prop_map(|(trace_id, span_id, flags)| TraceParent {
        trace_id: trace_id.to_be_bytes(),
        span_id: span_id.to_be_bytes(),
        flags,
    })
}

/// Lines of other headers.
fn other_lines() -> impl Strategy<Value = String> {
    let name = "[A-Za-z][A-Za-z0-9-]{0,12}";
    let line = (name, "[ -~]{0,40}").prop_map(|(name, value)| format!("{name}: {value}\r\n"));
    proptest::collection::vec(line, 0..6).prop_map(|lines| lines.concat())
}

/// The header's name in any case, and what may be around its value.
fn header() -> impl Strategy<Value = (String, String, String, &'static str)> {
    let name = proptest::collection::vec(any::<bool>(), 11).prop_map(|cases| {
        let letters = "traceparent".chars().zip(cases);
        letters.map(|(letter, upper)| if upper { letter.to_ascii_uppercase() } else { letter }).collect()
    });
    (name, "[ \t]{0,3}", "[ \t]{0,3}", proptest::sample::select(vec!["\r\n", "\n"]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_that_is_written_is_read_again_wherever_it_is(
        trace_parent in trace_parent(),
        (name, before, after, end) in header(),
        first in other_lines(),
        last in other_lines(),
        body in any::<Vec<u8>>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        prop_assert_eq!(parse(&trace_parent.to_string()), Some(trace_parent));
        let head = format!("POST /orders HTTP/1.1\r\n{first}{name}:{before}{trace_parent}{after}{end}");
        let whole = [head.as_bytes(), last.as_bytes(), b"\r\n", &body].concat();
        prop_assert_eq!(TraceParent::of_request(&whole), Some(trace_parent));
        // Cut off, it is the same as soon as all of its line is there.
        let cut = cut.index(whole.len() + 1);
        let expected = (cut >= head.len()).then_some(trace_parent);
        prop_assert_eq!(TraceParent::of_request(&whole[..cut]), expected);
    }

    #[test]
    fn another_character_makes_it_another_or_none(
        trace_parent in trace_parent(),
        place in 0..VALID.len(),
        byte in any::<u8>(),
    ) {
        let mut value = trace_parent.to_string().into_bytes();
        prop_assume!(value[place] != byte);
        value[place] = byte;
        if let Some(found) = TraceParent::parse(&value) {
            prop_assert!(found != trace_parent || place < 2, "{}", value.escape_ascii());
            // What was read is what was written; of a later version, what is known.
            let written = found.to_string();
            let length = if place < 2 { 53 } else { value.len() };
            prop_assert_eq!(&written.as_bytes()[2..length], &value[2..length]);
            prop_assert!(found.trace_id != [0; 16] && found.span_id != [0; 8]);
        }
    }

    #[test]
    fn anything_may_be_read(payload in any::<Vec<u8>>(), lines in "(traceparent:|[\r\n \t:a-f0-9-]){0,40}") {
        for payload in [payload.clone(), [b"GET / HTTP/1.1\r\n", &payload[..]].concat()] {
            for found in [TraceParent::parse(&payload), TraceParent::of_request(&payload)].into_iter().flatten() {
                prop_assert!(payload.escape_ascii().to_string().contains(&found.to_string()[2..52]));
            }
        }
        if let Some(found) = of(&lines) {
            prop_assert!(lines.contains(&found.to_string()[2..52]));
        }
    }
}
