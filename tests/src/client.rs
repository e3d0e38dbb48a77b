//! A client that takes the time: of connecting, and from the last byte of what it asks to the first of the answer.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use socket2::SockRef;
use tidewaiter_common::histogram::Range;

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// "How many bytes were not sent yet?" (`SIOCOUTQNSD`, `include/uapi/linux/sockios.h`).
const UNSENT: libc::Ioctl = 0x894b;

/// Has the thread go before all others of this machine: what it measures is to be the wire's time and the server's, not that in
/// which it waits for a CPU.
pub fn go_first() {
    // SAFETY: takes numbers alone; 0 is the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// A connection, and how long it and its answers took.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    /// How long it took to connect.
    pub connecting: Duration,
    /// How long each answer took.
    pub answers: Vec<Duration>,
}

impl Client {
    /// Connects to `server`, from the thread's namespace.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn connect(server: SocketAddr) -> Self {
        let start = Instant::now();
        let stream = TcpStream::connect(server).expect("is heard");
        let connecting = start.elapsed();
        stream.set_nodelay(true).expect("is TCP");
        stream.set_read_timeout(Some(PATIENCE)).expect("is a time");
        Self { stream, received: Vec::new(), connecting, answers: Vec::new() }
    }

    /// Its own port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.stream.local_addr().expect("is connected").port()
    }

    /// Sends `bytes` so that what is sent next does not share a segment with them.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("is heard");
        // The kernel adds what is written to a segment that it has not sent.
        while self.unsent() > 0 {
            std::thread::yield_now();
        }
    }

    fn unsent(&self) -> libc::c_int {
        let mut unsent = 0;
        // SAFETY: the request writes one number.
        let result = unsafe { libc::ioctl(self.stream.as_raw_fd(), UNSENT, &raw mut unsent) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        unsent
    }

    /// Says that nothing more will be sent.
    pub fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("is open");
    }

    /// Waits for an answer, of which `whole` says how many bytes it has when all of it is there.
    pub fn receive(&mut self, whole: impl Fn(&[u8]) -> Option<usize>) -> Vec<u8> {
        loop {
            if let Some(length) = whole(&self.received) {
                return self.received.drain(..length).collect();
            }
            self.receive_some();
        }
    }

    fn receive_some(&mut self) {
        let mut some = [0; 1 << 14];
        let length = self.stream.read(&mut some).expect("an answer");
        assert!(length > 0, "the end, after {:?}", String::from_utf8_lossy(&self.received));
        self.received.extend(&some[..length]);
    }

    /// Sends `request` and waits for the answer, which is timed.
    pub fn ask(&mut self, request: &[u8], whole: impl Fn(&[u8]) -> Option<usize>) -> Vec<u8> {
        assert!(self.received.is_empty(), "an answer that nobody asked for: {:?}", self.received);
        let start = Instant::now();
        self.send(request);
        self.receive_some();
        self.answers.push(start.elapsed());
        self.receive(whole)
    }

    /// Waits until the other side has closed the connection, and answers with all that it sent before.
    pub fn receive_all(&mut self) -> Vec<u8> {
        self.stream.read_to_end(&mut self.received).expect("an answer");
        std::mem::take(&mut self.received)
    }

    /// Ends the connection by a reset.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("is TCP");
    }
}

/// Where `what` first stands in `bytes`.
#[must_use]
pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The length of an answer of HTTP/1 with a body, if all of it is there; "100 Continue" is an answer by itself.
#[must_use]
pub fn http_answer(bytes: &[u8]) -> Option<usize> {
    let (head, text) = http_head(bytes)?;
    if matches!(http_status(bytes), 100..200 | 204 | 304) {
        return Some(head);
    }
    let length = text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
    let length = head + length.parse::<usize>().expect("a number");
    (bytes.len() >= length).then_some(length)
}

/// As [`http_answer`], of the answer to HEAD.
#[must_use]
pub fn http_head_answer(bytes: &[u8]) -> Option<usize> {
    http_head(bytes).map(|(length, _)| length)
}

fn http_head(bytes: &[u8]) -> Option<(usize, &str)> {
    let length = find(bytes, b"\r\n\r\n")? + 4;
    Some((length, str::from_utf8(&bytes[..length]).expect("is text")))
}

/// The status of an answer of HTTP/1.
///
/// # Panics
/// If it has none.
#[must_use]
pub fn http_status(answer: &[u8]) -> u16 {
    let status = answer.get(9..12).and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
    status.unwrap_or_else(|| panic!("not a status line: {:?}", String::from_utf8_lossy(answer)))
}

/// The length of an answer of Redis that is not an array, if all of it is there.
#[must_use]
pub fn redis_answer(bytes: &[u8]) -> Option<usize> {
    let line = find(bytes, b"\r\n")? + 2;
    let length = match bytes.strip_prefix(b"$") {
        Some(rest) => {
            line + 2 + str::from_utf8(&rest[..line - 3]).expect("is text").parse::<usize>().expect("a length")
        }
        None => line,
    };
    (bytes.len() >= length).then_some(length)
}

/// A command as Redis wants it from programs.
#[must_use]
pub fn redis_command(words: &[&str]) -> Vec<u8> {
    let strings = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len()));
    let strings: Vec<_> = strings.collect();
    format!("*{}\r\n{}", words.len(), strings.concat()).into_bytes()
}

/// The length of all that `PostgreSQL` sends until it is ready for another query, if all of it is there.
#[must_use]
pub fn postgresql_answer(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let (kind, length) = (*bytes.get(at)?, bytes.get(at + 1..at + 5)?);
        at += 1 + u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        if kind == b'Z' {
            return (bytes.len() >= at).then_some(at);
        }
    }
}

/// What a session with `PostgreSQL` begins with: protocol 3.0, and who asks.
#[must_use]
pub fn postgresql_startup() -> Vec<u8> {
    let parameters = b"user\0postgres\0database\0postgres\0\0";
    let length = u32::try_from(8 + parameters.len()).expect("is short");
    [&length.to_be_bytes()[..], &(3_u32 << 16).to_be_bytes(), parameters].concat()
}

/// A query as `PostgreSQL` wants it.
#[must_use]
pub fn postgresql_query(query: &str) -> Vec<u8> {
    let length = u32::try_from(4 + query.len() + 1).expect("is short");
    [b"Q", &length.to_be_bytes()[..], query.as_bytes(), b"\0"].concat()
}

/// The one in the middle of `times`, of which there are some.
#[must_use]
pub fn median(times: impl IntoIterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.into_iter().collect();
    times.sort_unstable();
    times[times.len().div_ceil(2) - 1]
}

/// Sees that two medians are in the same bucket of a histogram, or in neighbours.
pub fn assert_agree(what: &str, ours: Duration, truth: Duration) {
    println!("{what}: {ours:?}, measured {truth:?}");
    let bucket = |time: Duration| Range::Latency.bucket(u64::try_from(time.as_nanos()).unwrap());
    assert!(bucket(ours).abs_diff(bucket(truth)) <= 1, "{what}: {ours:?}, measured {truth:?}");
}
