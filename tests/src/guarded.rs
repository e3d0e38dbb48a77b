//! A host whose guard is under test, within the test's own process, and one that sends to it.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use tidewaiter::{
    accounting::Accounting,
    cli::Overrides,
    config::{ApiSource, AttachMode, Configuration},
    guard::compile::prefix_capacity,
    interfaces::{Interface, LinkLayer},
    kernel::{FlowCapacity, GuardCapacity, Kernel, LoadOptions},
    snapshot::InterfaceGuardCounters,
};
use tidewaiter_common::guard::Verdict;

use crate::network::{INTERFACE, Network, Offload};

/// Where packets are judged, as `guard.attach` says it.
pub const PLACES: [&str; 2] = ["xdp", "tc"];

/// Who is always let in: whatever was sent before something of theirs has been judged.
pub const FRIEND: &str = "10.77.0.100";

/// How long any datagram may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A host whose guard is under test, and one that sends to it.
#[derive(Debug)]
pub struct Guarded {
    /// Both hosts.
    pub network: Network,
    /// The server's.
    pub accounting: Accounting,
    /// Where packets are judged.
    attach: &'static str,
}

/// The configuration that `text` is.
#[must_use]
pub fn configuration(text: &str) -> Configuration {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tidewaiter.toml");
    fs::write(&file, text).expect("can be written");
    Configuration::load(Some(&file), &Overrides::default()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

impl Guarded {
    /// Two hosts; nothing is judged before [`Guarded::apply`].
    #[must_use]
    pub fn new(attach: &'static str) -> Self {
        let Configuration { guard, .. } = configuration("");
        let capacity = GuardCapacity { prefixes: prefix_capacity(&guard).expect("is none"), clients: guard.clients };
        Self::on(Network::new(Offload::Off), attach, capacity)
    }

    /// The same on `network`, with room for what `capacity` says.
    #[must_use]
    pub fn on(network: Network, attach: &'static str, capacity: GuardCapacity) -> Self {
        network.client.ip(&format!("address add {FRIEND}/24 dev {INTERFACE}"));
        let options =
            LoadOptions { guard: capacity, flows: FlowCapacity::for_established(4096), ..LoadOptions::default() };
        let index = network.server.index(INTERFACE);
        let accounting = network.server.run(|| {
            let kernel = Kernel::load(options).expect("the kernel takes the programs");
            let mut accounting =
                Accounting::new(kernel, AttachMode::Auto, Duration::from_mins(1)).expect("it can be read");
            accounting.note_paired([index].into());
            let interface = Interface { index, name: INTERFACE.to_owned(), link_layer: LinkLayer::Ethernet };
            let failures = accounting.apply_interfaces(&[interface]);
            assert!(failures.is_empty(), "{failures:?}");
            accounting
        });
        Self { network, accounting, attach }
    }

    /// Puts the APIs and rules of `text` in force; `guard` is what `[guard]` has beside.
    pub fn apply(&mut self, guard: &str, text: &str) {
        let Self { network, accounting, attach } = self;
        let head = format!("listen = \"127.0.0.1:9473\"\ninterfaces = [\"{INTERFACE}\"]\n");
        let guard = format!("[guard]\nattach = \"{attach}\"\nhold = \"1h\"\nprotect = \"{FRIEND}\"\n{guard}\n");
        let Configuration { apis, guard, .. } = configuration(&(head + &guard + text));
        let ApiSource::Configured(apis) = apis else { panic!("no APIs in {text}") };
        network.server.run(|| {
            accounting.apply_apis(&apis).expect("is written");
            let failures = accounting.apply_guard(Arc::new(guard)).expect("can be worked out");
            assert!(failures.is_empty(), "{failures:?}");
        });
    }

    /// Where packets are judged: one of [`PLACES`].
    #[must_use]
    pub const fn place(&self) -> &'static str {
        self.attach
    }

    /// How many packets of `api` were decided about by `rule`, by verdict, where it is not zero.
    pub fn decided(&mut self, rule: &str, api: &str) -> BTreeMap<&'static str, u64> {
        let guard = self.accounting.snapshot().guard.expect("there are rules");
        let pair = guard.pairs.iter().find(|pair| &*pair.rule == rule && &*pair.api == api);
        let packets = pair.map(|pair| pair.packets).unwrap_or_default();
        Verdict::ALL.iter().map(|verdict| verdict.as_str()).zip(packets).filter(|(_, count)| *count > 0).collect()
    }

    /// What the guard has done to what came by the wire.
    pub fn interface(&mut self) -> InterfaceGuardCounters {
        self.accounting.snapshot().interfaces.remove(0).guard.unwrap_or_default()
    }

    /// Sends a datagram to the server by UDP for each of `sent`, a sender and a port; answers with whether it has arrived.
    ///
    /// # Panics
    /// If something arrives that was not sent, or nothing does.
    #[must_use]
    pub fn arrive(&self, sent: &[(&str, u16)]) -> Vec<bool> {
        let mut ports: Vec<_> = sent.iter().map(|(_, port)| *port).collect();
        ports.sort_unstable();
        ports.dedup();
        let listening: Vec<_> = ports.iter().map(|port| self.network.server.run(|| listen(*port))).collect();
        self.network.client.run(|| {
            for (number, (sender, port)) in sent.iter().enumerate() {
                send(sender, *port, &number.to_be_bytes());
            }
            for port in ports {
                send(FRIEND, port, b"that is all");
            }
        });
        let mut arrived = vec![false; sent.len()];
        for socket in listening {
            let mut datagram = [0; 64];
            while let (8, _) = socket.recv_from(&mut datagram).expect("the last one arrives") {
                let number = usize::from_be_bytes(datagram[..8].try_into().expect("eight"));
                assert!(!std::mem::replace(&mut arrived[number], true), "{:?} arrived twice", sent[number]);
            }
        }
        arrived
    }
}

fn listen(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(("::", port)).expect("is free");
    socket.set_read_timeout(Some(PATIENCE)).expect("is a time");
    socket
}

fn send(sender: &str, port: u16, datagram: &[u8]) {
    let sender: IpAddr = sender.parse().expect("an address");
    let server = Network::SERVERS[usize::from(sender.is_ipv6())];
    let socket = UdpSocket::bind((sender, 0)).expect("is an address of the client");
    socket.send_to(datagram, SocketAddr::new(server, port)).expect("is sent");
}
