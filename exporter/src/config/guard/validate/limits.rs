//! Limits of rules.

use std::time::Duration;

use tidewaiter_common::{
    guard::Unit,
    limiter::{LEAST_BYTE_BURST, LEAST_PACKET_BURST, Limit, LimitError, MOST_PER_SECOND},
};

use crate::config::{
    guard::{
        Per, RuleLimit,
        raw::{RawLimit, RawPer},
    },
    validate::Check,
};

/// Seconds that rates are reckoned in: thousandths of a unit a second are exact enough for any rate, and let one be once in a quarter
/// of an hour.
const PERIOD: u32 = 1000;

/// The highest rate.
#[expect(clippy::cast_precision_loss, reason = "2^8 times 10^9, which a float holds exactly")]
const MOST_RATE: f64 = MOST_PER_SECOND as f64;

impl Check<'_> {
    pub(super) fn limit(&mut self, key: &str, raw: &RawLimit) -> Option<RuleLimit> {
        let rates = [
            (Unit::Connections, raw.connections_per_second),
            (Unit::Packets, raw.packets_per_second),
            (Unit::Bytes, raw.bytes_per_second),
            (Unit::Requests, raw.requests_per_second),
        ];
        let mut given = rates.into_iter().filter_map(|(unit, rate)| Some((unit, rate?)));
        let (Some((unit, rate)), None) = (given.next(), given.next()) else {
            let all: Vec<_> = rates.iter().map(|(unit, _)| format!("\"{}\"", unit.as_str())).collect();
            self.problem(key, format!("expected exactly one of {}", all.join(", ")));
            return None;
        };
        let units = (rate * f64::from(PERIOD)).round();
        let name = format!("{key}.{}", unit.as_str());
        let complaint = if rate > MOST_RATE {
            Some(format!("found {rate}, expected at most {MOST_PER_SECOND}"))
        } else if units >= 1.0 {
            None
        } else {
            // What is no number too.
            Some(format!("found {rate}, expected at least 0.001"))
        };
        if let Some(complaint) = complaint {
            self.problem(name, complaint);
            return None;
        }
        let least = match unit {
            Unit::Bytes => LEAST_BYTE_BURST,
            Unit::Packets => LEAST_PACKET_BURST,
            _ => 1,
        };
        #[expect(clippy::cast_sign_loss, reason = "above 0 and below 2^63, as was just seen")]
        let [units, in_a_second] = [units, rate.ceil()].map(|number| number as u64);
        let burst = match raw.burst {
            None => in_a_second.max(least),
            Some(burst) => u64::try_from(burst).ok().filter(|burst| *burst >= least).unwrap_or_else(|| {
                let why = if least > 1 { ": the stack may see as much at once" } else { "" };
                self.problem(format!("{key}.burst"), format!("found {burst}, expected at least {least}{why}"));
                least
            }),
        };
        let per = self.per(key, raw);
        match Limit::new(units, Duration::from_secs(PERIOD.into()), burst) {
            Ok(limit) => Some(RuleLimit { unit, rate, burst, per, limit }),
            Err(error) => {
                let is_of_burst = matches!(error, LimitError::TooSlow { .. }) && raw.burst.is_some();
                self.problem(if is_of_burst { format!("{key}.burst") } else { name }, error.to_string());
                None
            }
        }
    }

    fn per(&mut self, key: &str, raw: &RawLimit) -> Per {
        let mut length = |name: &str, length: Option<i64>, most: u8| match length {
            None => most,
            Some(_) if raw.per == RawPer::Api => {
                self.problem(
                    format!("{key}.{name}"),
                    "found without per = \"client\", expected both or none".to_owned(),
                );
                most
            }
            Some(length) => {
                u8::try_from(length).ok().filter(|length| (1..=most).contains(length)).unwrap_or_else(|| {
                    self.problem(format!("{key}.{name}"), format!("found {length}, expected 1 to {most}"));
                    most
                })
            }
        };
        let (ipv4_length, ipv6_length) =
            (length("ipv4_prefix", raw.ipv4_prefix, 32), length("ipv6_prefix", raw.ipv6_prefix, 128));
        match raw.per {
            RawPer::Api => Per::Api,
            RawPer::Client => Per::Client { ipv4_length, ipv6_length },
        }
    }
}
