//! The listening sockets of this network namespace, and the processes behind them.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use procfs::{
    ProcError, ProcResult,
    net::{TcpState, UdpState},
    process::{FDTarget, Process, all_processes},
};
use serde::{Deserialize, Serialize};

use crate::config::raw::RawTransport;

/// A socket that waits for others to speak first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listener {
    /// The name of the process that has it open; `None` if no process could be seen to.
    pub process: Option<String>,
    /// What it listens by.
    pub transport: RawTransport,
    /// The port it listens at.
    pub port: u16,
    /// The address it listens at; `None` for any.
    pub address: Option<IpAddr>,
}

/// A socket as `/proc/net` has it.
struct Socket {
    transport: RawTransport,
    address: IpAddr,
    port: u16,
    inode: u64,
}

impl Socket {
    fn new(transport: RawTransport, local: SocketAddr, inode: u64) -> Self {
        Self { transport, address: local.ip().to_canonical(), port: local.port(), inode }
    }
}

/// Finds listening sockets, and remembers whose they are.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Process names by the inode of the socket; `None` where no process could be seen to have it. Looking through all
    /// the files of all processes is slow on a large host, and only a new socket makes it necessary.
    names: HashMap<u64, Option<String>>,
}

impl Scanner {
    /// The listening sockets as they are now.
    ///
    /// # Errors
    /// If `/proc/net` cannot be read. A process that cannot be looked into makes its sockets nameless.
    pub fn scan(&mut self) -> ProcResult<Vec<Listener>> {
        let sockets = sockets()?;
        let inodes: HashSet<_> = sockets.iter().map(|socket| socket.inode).collect();
        self.names.retain(|inode, _| inodes.contains(inode));
        if inodes.iter().any(|inode| !self.names.contains_key(inode)) {
            self.find_names(&inodes)?;
        }
        Ok(sockets
            .into_iter()
            .map(|Socket { transport, address, port, inode }| Listener {
                process: self.names.get(&inode).cloned().flatten(),
                transport,
                port,
                address: (!address.is_unspecified()).then_some(address),
            })
            .collect())
    }

    fn find_names(&mut self, inodes: &HashSet<u64>) -> ProcResult<()> {
        for process in all_processes()? {
            // Processes come and go, and not all of them may be looked into.
            let Ok(found) = process.and_then(|process| sockets_of(&process, inodes)) else { continue };
            let (name, inodes) = found;
            for inode in inodes {
                // A socket that several processes share belongs to the oldest: the first by number.
                self.names.entry(inode).or_default().get_or_insert_with(|| name.clone());
            }
        }
        for &inode in inodes {
            self.names.entry(inode).or_default();
        }
        Ok(())
    }
}

/// The name of `process`, and which of `inodes` it has open.
fn sockets_of(process: &Process, inodes: &HashSet<u64>) -> ProcResult<(String, Vec<u64>)> {
    let open = process.fd()?.filter_map(|file| match file.ok()?.target {
        FDTarget::Socket(inode) if inodes.contains(&inode) => Some(inode),
        _ => None,
    });
    let open: Vec<_> = open.collect();
    let name = if open.is_empty() { String::new() } else { process.stat()?.comm };
    Ok((name, open))
}

fn sockets() -> ProcResult<Vec<Socket>> {
    let mut sockets = Vec::new();
    for table in [procfs::net::tcp(), if_there(procfs::net::tcp6())] {
        let listening = table?.into_iter().filter(|entry| entry.state == TcpState::Listen);
        sockets.extend(listening.map(|entry| Socket::new(RawTransport::Tcp, entry.local_address, entry.inode)));
    }
    let ephemeral = ephemeral_ports();
    for table in [procfs::net::udp(), if_there(procfs::net::udp6())] {
        let waiting = table?.into_iter().filter(|entry| {
            // UDP has no listening state: a server's socket is bound, not connected, and not to a port that the kernel
            // chose for a client.
            entry.state == UdpState::Close
                && entry.remote_address.port() == 0
                && !ephemeral.contains(&entry.local_address.port())
        });
        sockets.extend(waiting.map(|entry| Socket::new(RawTransport::Udp, entry.local_address, entry.inode)));
    }
    Ok(sockets)
}

/// Nothing where a kernel without IPv6 has no such file.
fn if_there<T>(table: ProcResult<Vec<T>>) -> ProcResult<Vec<T>> {
    match table {
        Err(ProcError::NotFound(_)) => Ok(Vec::new()),
        table => table,
    }
}

/// The ports that the kernel chooses from for clients.
fn ephemeral_ports() -> RangeInclusive<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = range.split_whitespace().map(str::parse);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        // The kernel's own default (`inet_init_net`, `net/ipv4/af_inet.c`).
        _ => 32768..=60999,
    }
}
