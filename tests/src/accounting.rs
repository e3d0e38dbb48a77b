//! Accounting within the test's own process, so that its tables can be looked into.

use std::time::Duration;

use tidewaiter::{
    accounting::Accounting,
    api::{Api, Role, Transport},
    config::AttachMode,
    interfaces::{Interface, LinkLayer},
    kernel::{FlowCapacity, FlowTable, Kernel, LoadOptions},
    snapshot::{ApiCounters, InterfaceCounters},
};
use tidewaiter_common::flow::{Flow, FlowKey};

use crate::namespace::Namespace;

/// Accounting of the interface called `name` of `namespace`, with port 8080 of every transport as the API "orders".
#[must_use]
pub fn account(namespace: &Namespace, name: &str, flows: u32, idle_timeout: Duration) -> Accounting {
    let options = LoadOptions { flows: FlowCapacity::for_established(flows), ..LoadOptions::default() };
    account_as(namespace, name, options, idle_timeout)
}

/// The same with a kernel side that is loaded as `options` say.
#[must_use]
pub fn account_as(namespace: &Namespace, name: &str, options: LoadOptions, idle_timeout: Duration) -> Accounting {
    let index = namespace.index(name);
    namespace.run(|| {
        let kernel = Kernel::load(options).expect("the kernel takes the programs");
        let mut accounting = Accounting::new(kernel, AttachMode::Auto, idle_timeout).expect("it can be read");
        let transports = Transport::ALL.to_vec();
        let (name_of_api, role) = ("orders".to_owned(), Role::Server);
        let api = Api {
            name: name_of_api,
            role,
            transports,
            ports: vec![8080.into()],
            addresses: Vec::new(),
            expect: Vec::new(),
        };
        accounting.apply_apis(&[api]).expect("is written");
        let interface = Interface { index, name: name.to_owned(), link_layer: LinkLayer::Ethernet };
        let failures = accounting.apply_interfaces(&[interface]);
        assert!(failures.is_empty(), "{failures:?}");
        accounting
    })
}

/// All flows of `table`.
pub fn flows(accounting: &mut Accounting, table: FlowTable) -> Vec<(FlowKey, Flow)> {
    accounting.kernel().all_flows(table).expect("can be read")
}

/// What was counted for "orders", for traffic of no API, and for the interface.
pub fn counted(accounting: &mut Accounting) -> (ApiCounters, ApiCounters, InterfaceCounters) {
    let mut snapshot = accounting.snapshot();
    let interface = snapshot.interfaces.remove(0);
    let [unmapped, orders] = snapshot.apis.try_into().expect("two APIs");
    assert_eq!((unmapped.name.as_str(), orders.name.as_str()), ("unmapped", "orders"));
    (orders.counters, unmapped.counters, interface.counters)
}
