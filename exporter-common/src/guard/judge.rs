//! Judging a packet.

use super::{
    GuardRule, List, Stage, Step, Unit, Verdict,
    names::{ALLOW, MARK},
};
use crate::address::Address;

/// What is to become of a packet.
pub mod decision {
    /// It is let in.
    pub const PASS: u32 = 0;
    /// It is dropped.
    pub const DROP: u32 = 1;
    /// It is dropped and answered.
    pub const REJECT: u32 = 2;
}

/// A packet, as far as rules ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Who has sent it.
    pub source: Address,
    /// Packets on the wire.
    pub packets: u64,
    /// Whether it opens a connection of TCP.
    pub is_opening: bool,
    /// The [`AnomalyKind`](crate::anomaly::AnomalyKind) that it is, as its number; any other number if none.
    pub anomaly: u8,
}

/// What [`judge`] asks, and tells, while it goes through a list.
pub trait Judged {
    /// The rule at `index` of the half.
    fn rule(&self, index: u16) -> Option<&GuardRule>;

    /// How many bytes the packet is on the wire.
    fn bytes(&self) -> u64;

    /// Whether `units` are within the limit of `rule`, which is that of `pair`, or of the `client` of it; they are then taken from it.
    fn admits(&self, rule: &GuardRule, pair: u16, client: Option<Address>, units: u64) -> bool;

    /// Whether the packet is to pass whatever rules say, because more would break than traffic: asked only if it is about to
    /// be dropped.
    fn is_exempt(&self) -> bool;

    /// Takes note of what was decided.
    fn note(&self, pair: u16, verdict: Verdict);

    /// Marks the packet.
    fn mark(&self, mark: u32);
}

/// What comes of asking one rule.
pub mod outcome {
    /// The next one is asked.
    pub const NEXT: u32 = 0;
    /// It would have decided: of those that come next, only those are asked that are enforced.
    pub const OBSERVED: u32 = 1;
    /// The packet passes.
    pub const PASS: u32 = 2;
    /// It is dropped.
    pub const DROP: u32 = 3;
    /// It is dropped and answered.
    pub const REJECT: u32 = 4;
}

/// What is to become of a packet by the rules of `list`: see [`decision`].
///
/// They are asked in their order. A rule applies to a packet that it matches, if it has a limit only to what exceeds that; the
/// first one that applies decides, but for marks, after which the next is asked. A rule that is only observed says what it would
/// have decided; then only those go on to be asked that are enforced, as if the others were not there.
pub fn judge<J: Judged>(judged: &J, list: &List, facts: &Facts, stage: Stage) -> u32 {
    let mut was_observed = false;
    for step in list.steps.iter().take(list.count as usize) {
        match ask(judged, *step, facts, stage, was_observed) {
            outcome::NEXT => {}
            outcome::OBSERVED => was_observed = true,
            outcome::DROP => return decision::DROP,
            outcome::REJECT => return decision::REJECT,
            _ => break,
        }
    }
    decision::PASS
}

/// Asks one rule, see [`judge`]: answers with an [`outcome`].
#[inline(always)]
pub fn ask<J: Judged>(judged: &J, step: Step, facts: &Facts, stage: Stage, was_observed: bool) -> u32 {
    let Step { rule: index, pair } = step;
    let Some(rule) = judged.rule(index) else { return outcome::PASS };
    let is_enforced = rule.is_enforced != 0;
    if was_observed && !is_enforced || rule.stages & 1 << stage as u8 == 0 || !is_about(rule, facts) {
        return outcome::NEXT;
    }
    if rule.action == ALLOW {
        // Once a packet, though it is judged again later.
        if matches!(stage, Stage::Frame | Stage::Buffer) {
            judged.note(pair, Verdict::Pass);
        }
        return outcome::PASS;
    }
    if !exceeds(judged, rule, step, facts) {
        return outcome::NEXT;
    }
    let verdict = Verdict::of(rule.action, is_enforced);
    if rule.action == MARK {
        if is_enforced {
            judged.mark(rule.mark);
        }
        judged.note(pair, verdict);
        return outcome::NEXT;
    }
    if judged.is_exempt() {
        judged.note(pair, Verdict::Pass);
        // What is only observed changes nothing for those that come next.
        return if is_enforced { outcome::PASS } else { outcome::OBSERVED };
    }
    judged.note(pair, verdict);
    match verdict {
        Verdict::Drop => outcome::DROP,
        Verdict::Reject => outcome::REJECT,
        _ => outcome::OBSERVED,
    }
}

/// Whether `rule` is about what is out of the ordinary with a packet, or about all.
#[inline(always)]
const fn is_about(rule: &GuardRule, facts: &Facts) -> bool {
    rule.anomalies == 0 || (facts.anomaly < 32 && rule.anomalies & (1 << (facts.anomaly & 31)) != 0)
}

/// Whether a packet exceeds the limit of `rule`; every packet does if there is none. What is within a limit is noted as such.
#[inline(always)]
fn exceeds<J: Judged>(judged: &J, rule: &GuardRule, step: Step, facts: &Facts) -> bool {
    if Unit::None.is(rule.unit) {
        return true;
    }
    let units = if Unit::Bytes.is(rule.unit) {
        judged.bytes()
    } else if Unit::Packets.is(rule.unit) {
        facts.packets
    } else if Unit::Connections.is(rule.unit) {
        facts.is_opening.into()
    } else {
        1
    };
    if units == 0 {
        return false;
    }
    let client = if rule.is_per_client != 0 {
        let mask = if facts.source.is_v4() { &rule.ipv4_mask } else { &rule.ipv6_mask };
        Some(facts.source.and(mask))
    } else {
        None
    };
    let is_admitted = judged.admits(rule, step.pair, client, units);
    if is_admitted {
        judged.note(step.pair, Verdict::Pass);
    }
    !is_admitted
}
