//! Requests of HTTP/1 by real connections, each answered before the next one.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};
use tidewaiter_tests::{namespace::Namespace, network::Network};

const REQUEST: &[u8] = b"GET /orders HTTP/1.1\r\nHost: server\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A connection that asks.
pub(crate) struct Asking(TcpStream);

impl Asking {
    /// Connects from the address `from`, which is one of the thread's namespace.
    pub(crate) fn connect(from: Ipv4Addr, to: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("is permitted");
        socket.bind(&SocketAddr::new(from.into(), 0).into()).expect("is an address of this host");
        socket.connect(&to.into()).expect("is heard");
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).expect("is TCP");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("is a time");
        Self(stream)
    }

    /// Asks, and waits for all of the answer.
    pub(crate) fn ask(&mut self) {
        self.0.write_all(REQUEST).expect("is heard");
        let mut answer = [0; ANSWER.len()];
        self.0.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, ANSWER);
    }
}

/// Answers all requests to `port` of `server`, as long as the connections last.
pub(crate) fn answer_all(server: &Namespace, port: u16) {
    let listener = server.run(|| TcpListener::bind((Network::SERVER4, port)).expect("is free"));
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                stream.set_nodelay(true).expect("is TCP");
                let mut request = [0; REQUEST.len()];
                while stream.read_exact(&mut request).and_then(|()| stream.write_all(ANSWER)).is_ok() {}
            });
        }
    });
}
