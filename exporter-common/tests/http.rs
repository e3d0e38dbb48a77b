//! First lines of HTTP/1.

use proptest::prelude::*;
use tidewaiter_common::{
    http::{METHODS, STATUS_CODES, STATUS_PLACES, method, status_code, status_place},
    protocol::Prefix,
};

fn method_of(payload: &str) -> Option<&'static str> {
    method(&Prefix::of(payload.as_bytes())).map(|index| METHODS[index])
}

fn status_of(payload: &str) -> Option<u16> {
    status_code(&Prefix::of(payload.as_bytes()))
}

#[test]
fn known_methods_are_told_apart() {
    for name in METHODS.into_iter().filter(|name| !matches!(*name, "other" | "CONNECT")) {
        for target in ["/", "/orders/1?x=y HTTP/1.1\r\n", "http://example.com/", "HTTPS://example.com/", "* HTTP/1.1"] {
            assert_eq!(method_of(&format!("{name} {target}")), Some(name), "{target}");
        }
        for rest in ["", " ", "/", "\t/", "  /", " key", " {}", " rtsp://", "S /", " * RTSP/1.0", " hello"] {
            let payload = format!("{name}{rest}");
            assert!(method_of(&payload).is_none_or(|told| told == "other" && rest == "S /"), "{payload}");
        }
        assert_eq!(method_of(&format!("{} /", name.to_lowercase())), None);
    }
    assert_eq!(method_of("CONNECT example.com:443 HTTP/1.1"), Some("CONNECT"));
    assert_eq!(method_of("CONNECT [2001:db8::1]:443 HTTP/1.1"), Some("CONNECT"));
    assert_eq!(method_of("CONNECT {\"verbose\":false}"), None);
}

#[test]
fn any_other_method_is_another() {
    for payload in [
        "PROPFIND /dav/ HTTP/1.1",
        "ACL / HTTP/1.1",
        "VERSION-CONTROL /x HTTP/1.1",
        "UPDATEREDIRECTREF /x HTTP/1.1",
        "M-SEARCH * HTTP/1.1",
        "RPC_IN_DATA /rpc/rpcproxy.dll HTTP/1.1",
        "QUERY http://example.com/ HTTP/1.1",
    ] {
        assert_eq!(method_of(payload), Some("other"), "{payload}");
    }
    for payload in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
        "AB / HTTP/1.1",
        "EIGHTEEN-CHARACTERS / HTTP/1.1",
        "PropFind / HTTP/1.1",
        " GET / HTTP/1.1",
        "1234 /",
        "-A- /",
        "FOO bar",
        "FOO /\u{1}",
        "FOO /",
        "",
    ] {
        assert_eq!(method_of(payload), None, "{payload}");
    }
}

#[test]
fn status_codes_are_read() {
    assert_eq!(status_of("HTTP/1.1 200 OK\r\n"), Some(200));
    assert_eq!(status_of("HTTP/1.0 404 Not Found\r\n"), Some(404));
    assert_eq!(status_of("HTTP/1.1 204\r\n"), Some(204));
    assert_eq!(status_of("HTTP/1.1 204\n"), Some(204));
    assert_eq!(status_of("HTTP/1.1 503"), Some(503));
    for payload in [
        "HTTP/1.1 099 ",
        "HTTP/1.1 600 ",
        "HTTP/1.1 2000 ",
        "HTTP/1.1 20",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 20x ",
        "HTTP/2 200 OK",
        "HTTP/1.2 200 OK",
        "http/1.1 200 OK",
        "HTTP/1.1 2:0 OK",
        "",
    ] {
        assert_eq!(status_of(payload), None, "{payload}");
    }
}

#[test]
fn every_code_has_its_place() {
    for code in 0..=u16::MAX {
        let place = status_place(code);
        let expected = STATUS_CODES.iter().position(|known| *known == code).unwrap_or(STATUS_PLACES - 1);
        assert_eq!(place, expected, "{code}");
    }
}

proptest! {
    #[test]
    fn all_codes_are_read(code in 100_u16..600) {
        prop_assert_eq!(status_of(&format!("HTTP/1.1 {code} Reason")), Some(code));
    }

    /// As a regular expression says it.
    #[test]
    fn a_method_is_three_letters_or_more_a_space_and_a_target(
        name in "[A-Z][A-Z0-9_-]{0,20}", separator in "[ /\t]", target in "[/*hHa][t ][tH][pT][T:s]", rest in "P?/[12]",
    ) {
        let payload = format!("{name}{separator}{target}{rest} HTTP/1.1");
        let is_target = target.starts_with('/')
            || target == "* HTT" && rest == "P/1"
            || matches!(&*target.to_lowercase(), "http:" | "https");
        let is_method = (3..=17).contains(&name.len()) && name != "PRI" && separator == " " && is_target;
        prop_assume!(!METHODS.contains(&name.as_str()));
        prop_assert_eq!(method_of(&payload), is_method.then_some("other"));
    }
}
