//! Devices whose other end is this process, and a wire of two of them: what one host transmits is read here, and written to
//! the other host's device.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::AsFd as _,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::ioctl::{IntegerSetter, Opcode, Setter, ioctl};

use crate::{
    client::go_first,
    namespace::Namespace,
    network::{INTERFACE, Network},
};

// From `include/uapi/linux/if_tun.h`.
const TUNSETIFF: Opcode = 0x4004_54ca;
const TUNSETOFFLOAD: Opcode = 0x4004_54d0;
/// `IFF_TUN` and `IFF_NO_PI`: IP packets and nothing else.
const TUN: u16 = 0x0001 | 0x1000;
/// `IFF_TAP`, `IFF_NO_PI` and `IFF_VNET_HDR`: frames behind a header that tells what a super-packet is made of.
const TAP: u16 = 0x0002 | 0x1000 | 0x4000;
/// `TUN_F_CSUM`, `TUN_F_TSO4`, `TUN_F_TSO6`, `TUN_F_TSO_ECN`, `TUN_F_USO4` and `TUN_F_USO6`: every super-packet may come.
const EVERY_OFFLOAD: usize = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40;
/// Room for the largest super-packet.
const LARGEST: usize = 1 << 17;

/// Two hosts on a wire of taps, which take super-packets whole. The wire is there until its devices are deleted.
#[must_use]
pub fn network() -> Network {
    join(forward)
}

/// As [`network`], and each frame takes `delay` from one host to the other.
#[must_use]
pub fn long_network(delay: Duration) -> Network {
    join(move |from, to| forward_late(from, to, delay))
}

fn join(carry: impl Fn(File, File) + Clone + Send + 'static) -> Network {
    let network = Network { server: Namespace::new(), client: Namespace::new() };
    let [server, client] = [&network.server, &network.client].map(|host| tap(host, INTERFACE));
    let copy = |file: &File| file.try_clone().expect("a descriptor is free");
    for (from, to) in [(copy(&server), copy(&client)), (client, server)] {
        let carry = carry.clone();
        thread::spawn(move || carry(from, to));
    }
    network.set_up();
    network
}

/// Makes a tap device called `name` in `namespace`, which is there as long as the file is open. Each frame stands behind a
/// `struct virtio_net_hdr`.
#[must_use]
pub fn tap(namespace: &Namespace, name: &str) -> File {
    let file = open(namespace, name, TAP);
    // SAFETY: TUNSETOFFLOAD takes a number (`drivers/net/tun.c`).
    unsafe { ioctl(file.as_fd(), IntegerSetter::<TUNSETOFFLOAD>::new_usize(EVERY_OFFLOAD)).expect("is known") }
    // The kernel takes apart super-packets with constant identification numbers unless it is told not to.
    crate::command::output(namespace.command("ethtool").args(["-K", name, "tx-tcp-mangleid-segmentation", "on"]));
    file
}

/// Makes a tun device called `name` in `namespace`, which is there as long as the file is open: what is read and written
/// are IP packets.
#[must_use]
pub fn tun(namespace: &Namespace, name: &str) -> File {
    open(namespace, name, TUN)
}

fn open(namespace: &Namespace, name: &str, flags: u16) -> File {
    namespace.run(|| {
        let file = File::options().read(true).write(true).open("/dev/net/tun").expect("the kernel has taps");
        // `struct ifreq`: a name of 16 bytes, and 24 of which the first two are the flags.
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        request[16..18].copy_from_slice(&flags.to_ne_bytes());
        // SAFETY: TUNSETIFF takes a `struct ifreq` (`drivers/net/tun.c`).
        unsafe { ioctl(file.as_fd(), Setter::<TUNSETIFF, _>::new(request)).expect("can be made") };
        file
    })
}

/// Carries frames from one device to the other, until one is deleted.
fn forward(mut from: File, mut to: File) {
    let mut frame = vec![0; LARGEST];
    while let Ok(length) = from.read(&mut frame) {
        // A device that is down takes nothing.
        to.write_all(&frame[..length]).ok();
    }
}

/// As [`forward`], each frame `delay` after it was read.
fn forward_late(mut from: File, mut to: File, delay: Duration) {
    let (sender, receiver) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        go_first();
        for (due, frame) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            // As above.
            to.write_all(&frame).ok();
        }
    });
    go_first();
    let mut frame = vec![0; LARGEST];
    while let Ok(length) = from.read(&mut frame) {
        if sender.send((Instant::now() + delay, frame[..length].to_vec())).is_err() {
            break;
        }
    }
}
