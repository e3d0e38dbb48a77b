//! What the guard can do here: where it judges packets, and whether what it needs of the file system can be used.

use std::{collections::BTreeMap, path::Path};

use super::{Finding, Verdict};
use crate::{
    chain::chain,
    config::guard::blocks::DEFAULT_SOCKET,
    control::server::{self, ControlError},
    interfaces::{Interface, Links},
    kernel::{
        namespace_cookie,
        pins::{PinError, Pins},
    },
};

/// Where packets of `interface` are judged; `xdp` says which drivers run programs of XDP, if the kernel does.
pub(super) fn place(links: &Links, interface: &Interface, xdp: Option<&BTreeMap<u32, bool>>) -> Finding {
    let is_pair = links.device(interface).kind.as_deref() == Some("veth");
    let (verdict, text) = match (interface.is_loopback(), xdp.map(|xdp| xdp.get(&interface.index))) {
        (true, _) => (Verdict::Good, "in TC: what a host sends to itself never was a frame"),
        (_, Some(Some(true))) if is_pair => (
            Verdict::Good,
            "by XDP; in TC while a rule rejects, because answers to frames would not reach the other end",
        ),
        (_, Some(Some(true))) => (Verdict::Good, "by XDP, before the kernel makes anything of a frame"),
        (_, Some(_)) => (Verdict::Lacking, "in TC, which costs more for each packet dropped: its driver has no XDP"),
        (_, None) => (
            Verdict::Lacking,
            "by XDP if its driver has that, else in TC: the kernel does not say before it is tried (Linux 6.3 does)",
        ),
    };
    Finding { what: format!("guard {}", interface.name), verdict, text: text.to_owned() }
}

/// Whether an exporter that is told nothing else can listen to the command line, and pin what is to outlive it.
pub(super) fn paths() -> [Finding; 2] {
    [socket(server::examine(Path::new(DEFAULT_SOCKET))), pins()]
}

fn socket(examined: Result<bool, ControlError>) -> Finding {
    let what = "control socket".to_owned();
    match examined {
        Ok(true) => Finding { what, verdict: Verdict::Good, text: format!("an exporter listens at {DEFAULT_SOCKET}") },
        Ok(false) => Finding { what, verdict: Verdict::Good, text: format!("{DEFAULT_SOCKET} can be made") },
        Err(error) => {
            let text = format!("the command line can neither block nor unblock: {}", chain(&error));
            Finding { what, verdict: Verdict::Lacking, text }
        }
    }
}

fn pins() -> Finding {
    let what = "pin path".to_owned();
    let path = match namespace_cookie() {
        Ok(cookie) => Pins::default_path(cookie),
        Err(error) => return Finding { what, verdict: Verdict::Lacking, text: chain(&error) },
    };
    match Pins::examine(&path) {
        Ok(()) => Finding { what, verdict: Verdict::Good, text: format!("{} can be used", path.display()) },
        Err(error) => Finding { what, verdict: Verdict::Lacking, text: lost(&error) },
    }
}

fn lost(error: &PinError) -> String {
    format!("counters, blocks and limits end with the exporter, and it leaves a gap: {}", chain(error))
}
