//! What the kernel tells of an anomaly, in words.

use tidewaiter_common::{
    anomaly::{AnomalyKind, source::scan},
    packet::tcp_flag::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG},
    reason::Reason,
};

use super::{protocols, thresholds::Thresholds};

/// Flags of TCP, as they are called.
const FLAGS: [(u8, &str); 8] =
    [(SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (PSH, "PSH"), (ACK, "ACK"), (URG, "URG"), (ECE, "ECE"), (CWR, "CWR")];

/// A few words on an anomaly of `kind`, of which the kernel has told `numbers`
/// ([`ToldAnomaly`](tidewaiter_common::anomaly::told::ToldAnomaly)).
pub(crate) fn detail(kind: AnomalyKind, numbers: [u32; 4], thresholds: &Thresholds) -> String {
    let [first, second, third, _] = numbers;
    match kind {
        AnomalyKind::UnexpectedPayload => "a flow's payload is not what its API expects".to_owned(),
        AnomalyKind::BadTcpFlags => flags(first as u8),
        AnomalyKind::Land => "source and destination are the same".to_owned(),
        AnomalyKind::Malformed => malformed(u8::try_from(first).ok().and_then(Reason::from_index)),
        AnomalyKind::TinyFragment if first == 0 => {
            format!("a first fragment of {second} bytes, which ends before its transport's header does")
        }
        AnomalyKind::TinyFragment => format!("a fragment at byte {first}, within a TCP header"),
        AnomalyKind::OverlappingFragment => {
            format!("bytes {first} to {} of a datagram, some of which were there already", first.saturating_add(second))
        }
        AnomalyKind::UnexpectedProtocol => {
            let name = u8::try_from(first).ok().and_then(protocols::name);
            name.map_or_else(|| format!("IP protocol {first}"), |name| format!("IP protocol {first} ({name})"))
        }
        AnomalyKind::PortScan => {
            let what = if u64::from(third) == scan::HORIZONTAL { "addresses at one port" } else { "ports" };
            format!("{first} {what} in {}, none of which it got through to", seconds(second))
        }
        AnomalyKind::SynFlood => {
            let window = humantime::format_duration(thresholds.syn_flood.window);
            format!("{first} connections begun in {window}, {second} of them completed and {third} refused")
        }
        AnomalyKind::ConnectionChurn => {
            let churn = &thresholds.connection_churn;
            let [window, short] = [churn.window, churn.shorter_than].map(humantime::format_duration);
            format!("{first} connections in {window}, none of which lasted {short}")
        }
        AnomalyKind::Amplification => "answers far larger than questions".to_owned(),
        AnomalyKind::IcmpFlood => {
            let from = if second == 0 { "one source" } else { "all sources" };
            format!("{first} messages of {from} in {}", humantime::format_duration(thresholds.icmp_flood.window))
        }
    }
}

/// A few words on answers of so many bytes to questions of so many.
pub(crate) fn amplified(asked: u64, answered: u64, thresholds: &Thresholds) -> String {
    let window = humantime::format_duration(thresholds.amplification.window);
    let ratio = answered / asked.max(1);
    format!("{answered} bytes in answer to {asked} in {window}, {ratio} times as many")
}

fn flags(flags: u8) -> String {
    let names = |mask: u8| -> Vec<_> {
        FLAGS.into_iter().filter(|(flag, _)| flags & mask & flag != 0).map(|(_, name)| name).collect()
    };
    let (does, all) = (names(SYN | FIN | RST), names(!0));
    match (does.as_slice(), all.as_slice()) {
        (_, []) => "no flag is set".to_owned(),
        ([one, other], _) => format!("{one} and {other} are both set"),
        ([_, _, _], _) => "SYN, FIN and RST are all set".to_owned(),
        ([one @ ("SYN" | "RST")], _) => format!("{one} and URG are both set"),
        (_, [one]) => format!("{one} is set without ACK"),
        (_, [rest @ .., last]) => format!("{} and {last} are set without ACK", rest.join(", ")),
    }
}

fn malformed(reason: Option<Reason>) -> String {
    let Some(reason) = reason else { return "headers that contradict themselves".to_owned() };
    let what = match reason {
        Reason::Ipv4Truncated => "the packet ends within its IPv4 header",
        Reason::Ipv4Malformed => "the IPv4 header contradicts itself",
        Reason::Ipv6Truncated => "the packet ends within its IPv6 headers",
        Reason::Ipv6Malformed => "the IPv6 header contradicts itself",
        Reason::TcpTruncated => "the packet ends within its TCP header",
        Reason::TcpMalformed => "the TCP header contradicts itself",
        Reason::UdpTruncated => "the packet ends within its UDP header",
        Reason::SctpTruncated => "the packet ends within its SCTP header",
        other => other.as_str(),
    };
    format!("{what} ({})", reason.as_str())
}

/// So many milliseconds, as people say it.
fn seconds(milliseconds: u32) -> String {
    if milliseconds < 10_000 {
        format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100)
    } else {
        format!("{} s", milliseconds / 1000)
    }
}

#[cfg(test)]
mod tests {
    use tidewaiter_common::anomaly::stateless::are_bad_tcp_flags;

    use super::{ACK, AnomalyKind, CWR, FIN, PSH, RST, Reason, SYN, Thresholds, URG, detail, flags, scan};

    #[test]
    fn flags_are_told_by_what_is_wrong_with_them() {
        for (set, text) in [
            (0, "no flag is set"),
            (SYN | FIN, "SYN and FIN are both set"),
            (SYN | FIN | ACK | PSH, "SYN and FIN are both set"),
            (SYN | FIN | RST | ACK, "SYN, FIN and RST are all set"),
            (RST | URG | ACK, "RST and URG are both set"),
            (SYN | ACK | URG, "SYN and URG are both set"),
            (FIN, "FIN is set without ACK"),
            (FIN | PSH | URG, "FIN, PSH and URG are set without ACK"),
            (CWR, "CWR is set without ACK"),
        ] {
            assert!(are_bad_tcp_flags(set), "{set:#x}");
            assert_eq!(flags(set), text);
        }
    }

    #[test]
    fn every_kind_is_told_with_its_figures() {
        let thresholds = Thresholds::default();
        let told = |kind, numbers| detail(kind, numbers, &thresholds);
        let scan = |kind: u64| kind as u32;
        for (kind, numbers, text) in [
            (AnomalyKind::PortScan, [42, 12_345, scan(scan::VERTICAL), 0], "42 ports in 12 s"),
            (AnomalyKind::PortScan, [20, 1_250, scan(scan::HORIZONTAL), 0], "20 addresses at one port in 1.2 s"),
            (AnomalyKind::SynFlood, [900, 3, 2, 0], "900 connections begun in 5s, 3 of them completed and 2 refused"),
            (AnomalyKind::IcmpFlood, [1000, 0, 0, 0], "1000 messages of one source in 10s"),
            (AnomalyKind::IcmpFlood, [10_000, 1, 0, 0], "10000 messages of all sources in 10s"),
            (AnomalyKind::ConnectionChurn, [1000, 0, 0, 0], "1000 connections in 10s, none of which lasted 1s"),
            (AnomalyKind::Malformed, [Reason::TcpTruncated as u32, 0, 0, 0], "within its TCP header (tcp_truncated)"),
            (AnomalyKind::UnexpectedProtocol, [89, 0, 0, 0], "IP protocol 89 (ospf)"),
            (AnomalyKind::UnexpectedProtocol, [253, 0, 0, 0], "IP protocol 253"),
            (AnomalyKind::TinyFragment, [0, 8, 0, 0], "a first fragment of 8 bytes"),
            (AnomalyKind::TinyFragment, [8, 100, 0, 0], "a fragment at byte 8, within a TCP header"),
            (AnomalyKind::OverlappingFragment, [24, 4, 0, 0], "bytes 24 to 28 of a datagram"),
        ] {
            assert!(told(kind, numbers).contains(text), "{}", told(kind, numbers));
        }
        for kind in AnomalyKind::ALL {
            assert!(!told(kind, [u32::MAX; 4]).is_empty());
        }
    }
}
