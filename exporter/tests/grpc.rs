//! gRPC among other HTTP/2.

#![allow(clippy::unwrap_used, reason = "a test panics for a stack trace")]

use tidewaiter::grpc::is_grpc;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, stream: u8, contents: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(contents.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, 4, 0, 0, 0, stream], contents].concat()
}

/// A client's first bytes, with a request that has these headers.
fn request(headers: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(4, 0, &[0, 4, 0, 0, 255, 255]), &frame(8, 0, &[0, 0, 255, 0]), &frame(1, 1, headers)].concat()
}

/// ":method: POST" and a literal "content-type" (static index 31) with this value, in plain.
fn plain(media_type: &str) -> Vec<u8> {
    [&[0x83, 0x5f, u8::try_from(media_type.len()).unwrap()], media_type.as_bytes()].concat()
}

/// The same in Huffman's code.
fn coded(media_type: &[u8]) -> Vec<u8> {
    [&[0x83, 0x5f, 0x80 | u8::try_from(media_type.len()).unwrap()], media_type].concat()
}

/// "application/grpc", as Go's client sends it.
const GRPC: [u8; 11] = [0x1d, 0x75, 0xd0, 0x62, 0x0d, 0x26, 0x3d, 0x4c, 0x4d, 0x65, 0x64];

#[test]
fn requests_of_grpc_are_told() {
    for media_type in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
        assert!(is_grpc(&request(&plain(media_type))), "{media_type}");
    }
    assert!(is_grpc(&request(&coded(&GRPC))));
    // "+proto" begins with eleven bits of which the last is that of "p".
    assert!(is_grpc(&request(&coded(&[&GRPC[..], &[0xff, 0x75, 0x62, 0x3d, 0x3f]].concat()))));
    // A server's answer, which has no preface.
    assert!(is_grpc(&[frame(4, 0, &[]), frame(4, 0, &[]), frame(1, 1, &coded(&GRPC))].concat()));
    // The headers go on in a second frame.
    assert!(is_grpc(
        &[PREFACE, &frame(4, 0, &[]), &frame(1, 1, &[0x83]), &frame(9, 1, &plain("application/grpc"))].concat()
    ));
}

#[test]
fn other_requests_are_not() {
    for media_type in ["application/json", "application/grpc-web", "application/grpc-web+proto", "xapplication/grpc"] {
        assert!(!is_grpc(&request(&plain(media_type))), "{media_type}");
    }
    // "application/grpc-web" in Huffman's code.
    assert!(!is_grpc(&request(&coded(&[&GRPC[..], &[0x5b, 0xc1, 0x63]].concat()))));
    // Not in headers, not in HTTP/2, and not yet.
    assert!(!is_grpc(&[PREFACE, &frame(4, 0, &[]), &frame(0, 1, &plain("application/grpc"))].concat()));
    assert!(!is_grpc(b"POST / HTTP/1.1\r\nContent-Type: application/grpc\r\n\r\n"));
    assert!(!is_grpc(&[PREFACE, &frame(4, 0, &[])].concat()));
    assert!(!is_grpc(b""));
}

#[test]
fn it_may_be_cut_off_anywhere() {
    for headers in [plain("application/grpc"), coded(&GRPC)] {
        let whole = request(&headers);
        for length in 0..whole.len() {
            assert!(!is_grpc(&whole[..length]), "{length}");
        }
        // The frame says that it is longer than what there is of it.
        let mut longer = whole.clone();
        let at = longer.len() - headers.len() - 7;
        longer[at] += 100;
        assert!(is_grpc(&longer));
    }
}
