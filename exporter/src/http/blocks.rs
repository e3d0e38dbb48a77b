//! `/api/v1/blocks`: who is blocked, and by whom; for other systems, such as an Alertmanager, that have shown who they are.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
    routing::{delete, get},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Shared,
    api::{failure, json},
};
use crate::{
    blocks::{BlockError, BlockRow, MAX_REASON, UnblockedRow, parse_network, parse_period, shown},
    chain::chain,
    config::guard::BlockSettings,
    event::{BlockedBy, Unblocked},
};

/// The most alerts of one notification that are looked at.
const MOST_ALERTS: usize = 1000;

/// What an alert may say how long to block in: one of its annotations, or else of its labels.
const BLOCK_FOR: &str = "block_for";

/// Everything that is served here, with whole paths: to be put where callers are asked who they are.
pub(super) fn router() -> Router<Shared> {
    Router::new()
        .route("/api/v1/blocks", get(list).post(add).delete(remove_named))
        .route("/api/v1/blocks/{*address}", delete(remove))
}

#[derive(Serialize)]
struct List {
    blocks: Vec<BlockRow>,
}

async fn list(State(shared): State<Shared>) -> Response {
    let blocks = shared.accounting().blocks();
    json(StatusCode::OK, &List { blocks: blocks.iter().map(BlockRow::from).collect() })
}

/// What may be posted.
#[derive(Deserialize)]
#[serde(untagged)]
enum Posted {
    /// What an Alertmanager's webhook sends, of which there is more than this.
    Alerts(Notification),
    /// One to be blocked.
    One(Wanted),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    address: String,
    #[serde(rename = "for")]
    period: String,
    #[serde(default)]
    reason: String,
}

#[derive(Deserialize)]
struct Notification {
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    status: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// What came of a notification.
#[derive(Default, Serialize)]
struct Outcome {
    blocked: Vec<BlockRow>,
    refused: Vec<Refused>,
    /// Alerts that are resolved, or name nobody.
    ignored: usize,
}

#[derive(Serialize)]
struct Refused {
    address: String,
    error: String,
}

async fn add(State(shared): State<Shared>, body: Bytes) -> Response {
    let answer = match serde_json::from_slice(&body) {
        Ok(Posted::One(wanted)) => add_one(&shared, wanted),
        Ok(Posted::Alerts(notification)) => add_alerts(&shared, notification),
        Err(_) => {
            let expected = "expected {\"address\": \"203.0.113.7\", \"for\": \"10m\", \"reason\": \"…\"}, or what an \
                Alertmanager's webhook sends";
            failure(StatusCode::BAD_REQUEST, expected)
        }
    };
    shared.save_blocks().await;
    answer
}

fn add_one(shared: &Shared, Wanted { address, period, reason }: Wanted) -> Response {
    let block = || {
        let (network, period) = (parse_network(&address)?, parse_period(&period)?);
        shared.accounting().block(network, period, reason, BlockedBy::Http)
    };
    match block() {
        Ok(block) => json(StatusCode::CREATED, &BlockRow::from(&block)),
        Err(error) => refused(&error),
    }
}

/// Blocks those whom alerts are about that fire. Those that are resolved are ignored: what was blocked ends by itself, and an alert
/// is resolved by the very block. That some could not be blocked is said in the answer, whose status does not make an
/// Alertmanager try again what would fail again.
fn add_alerts(shared: &Shared, notification: Notification) -> Response {
    if notification.alerts.len() > MOST_ALERTS {
        return failure(StatusCode::BAD_REQUEST, &format!("expected at most {MOST_ALERTS} alerts"));
    }
    let Some(settings) = shared.accounting().block_settings() else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "the guard is not ready");
    };
    let mut outcome = Outcome::default();
    for alert in notification.alerts {
        let address = alert.labels.get(&settings.alert_label).filter(|_| alert.status == "firing");
        let Some(address) = address else {
            outcome.ignored += 1;
            continue;
        };
        let block = || {
            let (network, period) = (parse_network(address)?, period(&alert, &settings)?);
            shared.accounting().block(network, period, reason(&alert), BlockedBy::Http)
        };
        match block() {
            Ok(block) => outcome.blocked.push(BlockRow::from(&block)),
            Err(error) => {
                let address = address.chars().take(MAX_REASON).collect();
                outcome.refused.push(Refused { address, error: chain(&error) });
            }
        }
    }
    json(StatusCode::OK, &outcome)
}

fn period(alert: &Alert, settings: &BlockSettings) -> Result<Duration, BlockError> {
    let said = alert.annotations.get(BLOCK_FOR).or_else(|| alert.labels.get(BLOCK_FOR));
    said.map_or(Ok(settings.alert_block_for), |said| parse_period(said))
}

/// What the alert is called, and says of itself: as much of it as a reason may have.
fn reason(alert: &Alert) -> String {
    let name = alert.labels.get("alertname").map_or("an alert", String::as_str);
    let summary = alert.annotations.get("summary").map(|summary| format!(": {summary}")).unwrap_or_default();
    shown(&format!("{name}{summary}")).chars().take(MAX_REASON).collect()
}

async fn remove(State(shared): State<Shared>, Path(address): Path<String>) -> Response {
    remove_one(&shared, &address).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    address: String,
}

async fn remove_named(State(shared): State<Shared>, named: Result<Query<Named>, QueryRejection>) -> Response {
    match named {
        Ok(Query(Named { address })) => remove_one(&shared, &address).await,
        Err(rejection) => failure(StatusCode::BAD_REQUEST, &rejection.body_text()),
    }
}

async fn remove_one(shared: &Shared, address: &str) -> Response {
    let removed = parse_network(address).and_then(|network| shared.accounting().unblock(network, Unblocked::Http));
    shared.save_blocks().await;
    match removed {
        Ok(removed) => json(StatusCode::OK, &UnblockedRow::from(&removed)),
        Err(error) => refused(&error),
    }
}

fn refused(error: &BlockError) -> Response {
    let status = match error {
        BlockError::NotBlocked { .. } => StatusCode::NOT_FOUND,
        BlockError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        BlockError::Full(_) | BlockError::Lengths { .. } => StatusCode::CONFLICT,
        BlockError::Kernel(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    failure(status, &chain(error))
}
