//! What is attached to an interface, as the kernel and `tc` tell it.

use aya::programs::{SchedClassifier, TcAttachType};

use crate::{command::output, namespace::Namespace};

/// How many programs are attached to `interface` of `namespace`, by TCX (of anybody) and as TC filters (of tidewaiter).
#[must_use]
pub fn attached(namespace: &Namespace, interface: &str) -> (usize, usize) {
    let by_tcx = |hook| namespace.run(|| SchedClassifier::query_tcx(interface, hook).expect("is known").1.len());
    let filters = |hook| {
        let filters = output(namespace.command("tc").args(["filter", "show", "dev", interface, hook]));
        filters.lines().filter(|line| line.contains("account_")).count()
    };
    let tcx = by_tcx(TcAttachType::Ingress) + by_tcx(TcAttachType::Egress);
    (tcx, filters("ingress") + filters("egress"))
}
