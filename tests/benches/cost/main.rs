//! What it costs: a packet, a flow that is over, a scrape, memory, spans of flows; and other ways to count packets, and to keep them
//! out, side by side.
//!
//! `cargo bench --bench cost` prints all of it, `cargo bench --bench cost -- packet scrape` those sections. It needs what the
//! integration tests need: root, and namespaces. Goals are printed beside what was measured; missing one fails nothing.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a benchmark that cannot go on has failed, and says where")]

mod beside;
mod conversation;
mod drain;
mod filters;
mod flood;
mod guard;
mod live;
mod loss;
mod memory;
mod scrape;
mod shapes;
mod spans;
mod subject;

use tidewaiter_tests::measure::print_machine;

/// A name, and what prints the section.
type Section = (&'static str, fn());

const SECTIONS: [Section; 11] = [
    ("packet", || {
        shapes::print();
        conversation::print();
    }),
    ("guard", guard::print),
    ("beside", beside::print),
    ("flood", flood::print),
    ("drain", drain::print),
    ("scrape", scrape::print),
    ("memory", memory::print),
    ("spans", spans::print),
    ("outage", spans::print_outage),
    ("loss", loss::print),
    ("filters", filters::print),
];

fn main() {
    // Cargo adds "--bench".
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let unknown = wanted.iter().find(|name| !SECTIONS.iter().any(|(known, _)| known == name));
    if let Some(name) = unknown {
        let known = SECTIONS.map(|(name, _)| name).join(", ");
        eprintln!("there is no section {name}: expected one of {known}");
        std::process::exit(2);
    }
    print_machine();
    for (name, print) in SECTIONS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            println!("\n=== {name}");
            print();
        }
    }
}
