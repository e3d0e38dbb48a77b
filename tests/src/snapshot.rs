//! A snapshot with something of everything, as no moment of a test has it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tidewaiter::{
    api::{Api, PortRange, Protocol, Role, Transport, reserved},
    kernel::ProgramStatistics,
    otlp::Signal,
    snapshot::{
        AnomalyKind, ApiCounters, ApiDetails, ApiSnapshot, AuditSnapshot, ClientSnapshot, ClientsSnapshot,
        CollectorSnapshot, ConfigurationSnapshot, Counters, Direction, GONE, GuardSnapshot, InterfaceCounters,
        InterfaceGuardCounters, InterfaceSnapshot, OtlpSnapshot, PairSnapshot, ProcessSnapshot, Range, Reason,
        SinkSnapshot, Snapshot, TableSnapshot, TransmissionSnapshot, Verdict,
    },
};
use tidewaiter_common::http::{METHODS, STATUS_CODES, STATUS_PLACES};

/// A snapshot with something of everything.
#[must_use]
pub fn snapshot() -> Snapshot {
    Snapshot {
        taken: UNIX_EPOCH + Duration::from_secs(1_700_000_600),
        apis: apis(),
        interfaces: interfaces(),
        programs: vec![ProgramStatistics { name: "account_receive", runs: 1000, run_time: Duration::from_micros(15) }],
        tables: vec![
            TableSnapshot { name: "apis", entries: 2, capacity: 1023 },
            TableSnapshot { name: "client_limits", entries: 12, capacity: 65_536 },
            TableSnapshot { name: "blocks", entries: 3, capacity: 10_000 },
        ],
        lost: Some([1, 2, 3, 4]),
        sinks: vec![SinkSnapshot { name: "otlp", records: 200, dropped: 3, created: created() }],
        event_sinks: vec![SinkSnapshot { name: "otlp", records: 7, dropped: 1, created: created() }],
        guard: Some(guard()),
        otlp: vec![OtlpSnapshot {
            signal: Signal::Traces,
            exports: vec![("success", 4), ("partial", 1), ("retried", 2), ("rejected", 0)],
            exported: 150,
            dropped: vec![("queue_full", 40), ("rejected", 5), ("shutdown", 0), ("failed", 0)],
            unsampled: Some(2),
            queued_bytes: 4096,
            queue_bytes: 65_536,
            created: created(),
        }],
        audit: Some(AuditSnapshot {
            written: vec![("tidewaiter.anomaly.port_scan", 3), ("tidewaiter.flow", 400)],
            dropped: vec![("tidewaiter.flow", "backlog", 6)],
            bytes: 123_456,
            failures: 2,
            rotations: 1,
            is_writable: true,
            sequence: 405,
        }),
        configuration: Some(ConfigurationSnapshot {
            generation: 3,
            is_successful: false,
            last_success: UNIX_EPOCH + Duration::from_secs(1_700_000_300),
        }),
        process: Some(ProcessSnapshot {
            cpu: Duration::from_millis(1250),
            resident: 20_000_000,
            open_files: Some(20),
            started: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        }),
        collectors: vec![
            CollectorSnapshot { name: "apis", success: true, duration: Duration::from_micros(120) },
            CollectorSnapshot { name: "interfaces", success: false, duration: Duration::from_micros(80) },
        ],
    }
}

/// A guard with rules that are enforced and others, and one that was enforced and is not any more.
fn guard() -> GuardSnapshot {
    use Verdict::{Drop, Mark, Pass, Reject, WouldDrop, WouldReject};
    let pair = |rule: &str, api: &str, verdicts: &[Verdict], counted: &[(Verdict, u64)]| {
        let mut packets = [0; Verdict::COUNT];
        for (verdict, count) in counted {
            packets[*verdict as usize] = *count;
        }
        let created = UNIX_EPOCH + Duration::from_secs(1_700_000_002);
        PairSnapshot { rule: rule.into(), api: api.into(), packets, verdicts: verdicts.to_vec(), created }
    };
    GuardSnapshot {
        pairs: vec![
            pair("limit", "orders", &[Pass, Reject], &[(Pass, 800), (Reject, 5)]),
            pair("list \"a\"", "orders", &[Pass, WouldDrop], &[(WouldDrop, 7), (Drop, 40)]),
            pair("list \"a\"", reserved::UNMAPPED, &[Pass, WouldReject], &[]),
            pair("office", reserved::UNMAPPED, &[Mark], &[(Mark, 3)]),
        ],
        is_on: true,
        enforces: true,
        is_switched_off: false,
        generation: 3,
        clients: 12,
        client_capacity: 65_536,
        clients_evicted: 2,
        blocks_refused: vec![
            ("capacity", 3),
            ("lengths", 0),
            ("protected", 1),
            ("backlog", 0),
            ("invalid", 0),
            ("kernel", 0),
        ],
    }
}

/// Since when the exporter itself counts.
fn created() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_500)
}

/// The API `orders` of the snapshot: two ranges of ports, two transports, two protocols.
#[must_use]
pub fn orders() -> Api {
    Api {
        name: "orders".to_owned(),
        role: Role::Server,
        transports: vec![Transport::Tcp, Transport::Udp],
        ports: vec![8080.into(), PortRange::new(9000, 9010).expect("a range")],
        addresses: Vec::new(),
        expect: vec![Protocol::Http1, Protocol::Tls],
    }
}

/// What a snapshot says of `api`.
#[must_use]
pub fn api_snapshot(api: Api, packets: u64, details: ApiDetails) -> ApiSnapshot {
    let unexpected = (!api.expect.is_empty()).then_some((AnomalyKind::UnexpectedPayload, details.unexpected));
    ApiSnapshot {
        name: api.name.clone(),
        role: Some(api.role),
        anomalies: unexpected.into_iter().collect(),
        api: Some(Arc::new(api)),
        details: Some(Box::new(details)),
        ..nameless(packets)
    }
}

fn nameless(packets: u64) -> ApiSnapshot {
    let wire = [1, 2].map(|direction| Counters { packets: packets * direction, bytes: packets * direction * 100 });
    ApiSnapshot {
        name: String::new(),
        role: None,
        api: None,
        counters: ApiCounters { wire, untracked: Counters { packets: packets / 10, bytes: packets * 10 } },
        details: None,
        anomalies: Vec::new(),
        clients: None,
        transmission: TransmissionSnapshot {
            retransmitted: Some(packets / 5),
            dropped: Some(
                [("no_socket", packets / 4), ("other", 1)].map(|(reason, count)| (reason.to_owned(), count)).into(),
            ),
        },
        created: UNIX_EPOCH + Duration::from_secs(1_700_000_001),
    }
}

fn apis() -> Vec<ApiSnapshot> {
    let database = Api {
        // What a label must survive.
        name: "\"dätabase\"\\\n".to_owned(),
        role: Role::Client,
        transports: vec![Transport::Tcp],
        ports: vec![5432.into()],
        addresses: Vec::new(),
        expect: Vec::new(),
    };
    let names = Api {
        name: "names".to_owned(),
        role: Role::Server,
        transports: vec![Transport::Udp],
        ports: vec![53.into()],
        addresses: Vec::new(),
        expect: vec![Protocol::Dns],
    };
    let mut asked = ApiDetails { unexpected: 1, ..ApiDetails::default() };
    asked.protocols[Protocol::Dns.index()] = 40;
    let mut unmapped = ApiDetails { attempts: 3, refused: 2, reset_packets: [2, 0], ..ApiDetails::default() };
    unmapped.protocols[Protocol::Unknown.index()] = 1;
    vec![
        ApiSnapshot {
            name: reserved::UNMAPPED.to_owned(),
            details: Some(Box::new(unmapped)),
            anomalies: vec![(AnomalyKind::PortScan, 3), (AnomalyKind::Malformed, 0)],
            ..nameless(10)
        },
        ApiSnapshot { clients: Some(clients()), ..api_snapshot(orders(), 20, details()) },
        // Nothing but packets yet.
        api_snapshot(database, 9_007_199_254_740_991 / 200, ApiDetails::default()),
        // Without connections.
        api_snapshot(names, 40, asked),
        ApiSnapshot { name: reserved::REMOVED.to_owned(), role: Some(Role::Server), ..nameless(30) },
    ]
}

/// Two that have a name, and others.
fn clients() -> ClientsSnapshot {
    let named = [("192.0.2.1", 4500), ("2001:db8::1", 1000)].map(|(address, bytes)| ClientSnapshot {
        address: address.parse().expect("is one"),
        bytes,
        created: created(),
    });
    ClientsSnapshot { named: named.into(), other: Some(500), distinct: 12, created: created() }
}

/// Something of everything that is counted beside packets and bytes.
#[must_use]
pub fn details() -> ApiDetails {
    let mut details = ApiDetails {
        attempts: 110,
        refused: 4,
        opened: 100,
        adopted: 3,
        closed: [80, 6, 1],
        left: 2,
        reset_packets: [5, 7],
        unexpected: 2,
        ..ApiDetails::default()
    };
    details.protocols[Protocol::Http1.index()] = 98;
    details.protocols[Protocol::Redis.index()] = 2;
    details.requests[0] = 500;
    details.requests[METHODS.len() - 1] = 1;
    for (code, count) in [(200, 480), (404, 19)] {
        let place = STATUS_CODES.iter().position(|known| *known == code).expect("is known");
        details.responses[place] = count;
    }
    details.responses[STATUS_PLACES - 1] = 1;
    for round in 1..=100 {
        details.handshake.observe(Range::Latency, 20_000 + round * 1000);
        details.response.observe(Range::Latency, round * round * 100_000);
        details.lifetime.observe(Range::Lifetime, round * 3_000_000_000);
    }
    // Beyond either end of what is told apart.
    details.response.observe(Range::Latency, 500);
    details.response.observe(Range::Latency, 600_000_000_000);
    details
}

fn interfaces() -> Vec<InterfaceSnapshot> {
    let mut counters = InterfaceCounters::default();
    for direction in Direction::ALL {
        counters.totals[direction.index()].wire = Counters { packets: 1000, bytes: 100_000 };
        counters.totals[direction.index()].buffers = 900;
        for (place, _) in Reason::ALL.iter().enumerate() {
            counters.uncounted[direction.index()][place] = Counters { packets: place as u64, bytes: 60 * place as u64 };
        }
    }
    let created = UNIX_EPOCH + Duration::from_secs(1_700_000_001);
    vec![
        InterfaceSnapshot {
            name: "eth0".to_owned(),
            counters,
            guard: Some(InterfaceGuardCounters { passed: 900, dropped: 40, rejected: 5, answered: 4 }),
            created,
            kernel: Some([900, 1250]),
            // As of a device that counts buffers on receipt, and of which it is not known what it transmits.
            coverage: [Some(1.0), None],
        },
        InterfaceSnapshot { name: GONE.to_owned(), counters, guard: None, created, kernel: None, coverage: [None; 2] },
    ]
}
