//! As much traffic as there can be without loss: many connections at once, both ways.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
};

use socket2::{Domain, Socket, Type};

use crate::namespace::Namespace;

/// Options of UDP sockets (`include/uapi/linux/udp.h`).
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
/// Bytes that are written and read at once.
const CHUNK: usize = 1 << 16;

/// Connections that carry bytes both ways at once.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// How many there are to each address.
    pub count: usize,
    /// Bytes that each carries each way.
    pub bytes: usize,
    /// The receive buffer of each end, which bounds what is under way.
    pub buffer: usize,
}

impl Streams {
    /// Connects from `client` to each of `addresses` on `server`, and carries all bytes.
    pub fn run(self, server: &Namespace, client: &Namespace, addresses: &[SocketAddr]) {
        let listeners: Vec<_> = addresses.iter().map(|&address| server.run(|| self.listen(address))).collect();
        thread::scope(|scope| {
            for listener in &listeners {
                scope.spawn(|| {
                    thread::scope(|scope| {
                        for stream in listener.incoming().take(self.count) {
                            let stream = stream.expect("a connection");
                            scope.spawn(move || exchange(&stream, self.bytes));
                        }
                    });
                });
            }
            for &address in addresses {
                for _ in 0..self.count {
                    scope.spawn(move || exchange(&client.run(|| self.connect(address)), self.bytes));
                }
            }
        });
    }

    fn listen(self, address: SocketAddr) -> TcpListener {
        let socket = self.socket(address);
        socket.set_reuse_address(true).expect("is known");
        socket.bind(&address.into()).expect("is free");
        socket.listen(128).expect("can be");
        socket.into()
    }

    fn connect(self, address: SocketAddr) -> TcpStream {
        let socket = self.socket(address);
        socket.connect(&address.into()).expect("is heard");
        socket.into()
    }

    fn socket(self, address: SocketAddr) -> Socket {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("is permitted");
        socket.set_recv_buffer_size(self.buffer).expect("is known");
        socket
    }
}

/// Sends and receives `bytes` at once.
fn exchange(stream: &TcpStream, bytes: usize) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let chunk = vec![0; CHUNK];
            let mut stream = stream;
            let mut left = bytes;
            while left > 0 {
                let length = left.min(CHUNK);
                stream.write_all(&chunk[..length]).expect("is sent");
                left -= length;
            }
            stream.shutdown(Shutdown::Write).expect("is open");
        });
        let mut chunk = vec![0; CHUNK];
        let (mut stream, mut received) = (stream, 0);
        loop {
            match stream.read(&mut chunk).expect("is received") {
                0 => break,
                length => received += length,
            }
        }
        assert_eq!(received, bytes);
    });
}

/// Datagrams that go to and fro, many at once in one super-packet.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams {
    /// How many pairs of sockets there are.
    pub count: usize,
    /// Super-packets that each sends each way.
    pub rounds: usize,
    /// Datagrams in each of them.
    pub segments: usize,
    /// Bytes in each datagram; the last one has one byte less.
    pub size: usize,
}

impl Datagrams {
    /// Sends them all between `client` and `address` on `server`, whose port is that of the first pair; the others have
    /// the next.
    pub fn run(self, server: &Namespace, client: &Namespace, address: SocketAddr) {
        thread::scope(|scope| {
            for pair in 0..self.count {
                let port = address.port() + u16::try_from(pair).expect("a few");
                let server_address = SocketAddr::new(address.ip(), port);
                let any: IpAddr =
                    if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let answering = server.run(|| self.socket(server_address));
                let asking = client.run(|| self.socket((any, 0).into()));
                asking.connect(server_address).expect("can be");
                scope.spawn(move || {
                    let mut client_address = None;
                    for _ in 0..self.rounds {
                        let from = self.receive(&answering);
                        if client_address.is_none() {
                            answering.connect(from).expect("can be");
                            client_address = Some(from);
                        }
                        self.send(&answering);
                    }
                });
                scope.spawn(move || {
                    for _ in 0..self.rounds {
                        self.send(&asking);
                        self.receive(&asking);
                    }
                });
            }
        });
    }

    const fn bytes(self) -> usize {
        self.segments * self.size - 1
    }

    fn send(self, socket: &UdpSocket) {
        let datagrams = vec![0; self.bytes()];
        assert_eq!(socket.send(&datagrams).expect("is sent"), datagrams.len());
    }

    /// Receives what [`Datagrams::send`] sent once; answers with who did.
    fn receive(self, socket: &UdpSocket) -> SocketAddr {
        let mut buffer = vec![0; CHUNK];
        let mut left = self.bytes();
        loop {
            let (length, from) = socket.recv_from(&mut buffer).expect("is received");
            left -= length;
            if left == 0 {
                return from;
            }
        }
    }

    fn socket(self, address: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::bind(address).expect("is free");
        // A datagram that is lost is waited for in vain.
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).expect("is a time");
        set_udp_option(&socket, UDP_SEGMENT, self.size);
        set_udp_option(&socket, UDP_GRO, 1);
        socket
    }
}

fn set_udp_option(socket: &UdpSocket, option: libc::c_int, value: usize) {
    let value = libc::c_int::try_from(value).expect("a small number");
    // SAFETY: these options take a number.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
