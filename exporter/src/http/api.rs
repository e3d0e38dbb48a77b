//! `/api/v1/…`: JSON, for programs of this host, or for whoever has shown who he is.

use std::collections::BTreeSet;

use axum::{
    Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use tidewaiter_common::{
    api::ApiSlot,
    flow::{Flow, FlowKey},
};
use tokio::task::yield_now;
use tracing::{error, warn};

use super::{Access, Shared, local};
use crate::{
    api::reserved,
    chain::chain,
    flow::{FlowContext, FlowRecord, is_empty},
    kernel::{FlowTable, KernelError, Walk},
    report::{api::DetailedApiRow, flow::FlowRow},
    snapshot::ApiSnapshot,
};

/// How many flows are answered with unless somebody says otherwise.
const DEFAULT_LIMIT: usize = 100;
/// How many anybody may ask for: some 5 MB.
const MAX_LIMIT: usize = 10_000;

/// Everything that is served here, to those who may see it as `access` says.
pub(super) fn router(access: &Access) -> Router<Shared> {
    Router::new()
        .route("/apis", get(apis))
        .route("/flows", get(flows))
        .fallback(|| async {
            failure(StatusCode::NOT_FOUND, "there are /api/v1/apis, /api/v1/flows and /api/v1/blocks")
        })
        .layer(middleware::from_fn_with_state(access.clone(), local::require))
}

#[derive(Serialize)]
struct Apis {
    apis: Vec<DetailedApiRow>,
}

async fn apis(State(shared): State<Shared>) -> Response {
    answer(shared.accounting().apis())
}

fn answer(apis: Result<Vec<ApiSnapshot>, KernelError>) -> Response {
    match apis {
        Ok(apis) => json(StatusCode::OK, &Apis { apis: apis.iter().map(DetailedApiRow::from).collect() }),
        Err(error) => unreadable(&error),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selection {
    api: Option<String>,
    limit: Option<String>,
}

#[derive(Serialize)]
struct Flows {
    flows: Vec<LiveFlow>,
    /// Whether there were more than were asked for.
    more: bool,
}

#[derive(Serialize)]
struct LiveFlow {
    /// Whether it is a conversation, rather than somebody who sent packets.
    established: bool,
    #[serde(flatten)]
    flow: FlowRow,
}

async fn flows(State(shared): State<Shared>, selection: Result<Query<Selection>, QueryRejection>) -> Response {
    let Selection { api, limit } = match selection {
        Ok(Query(selection)) => selection,
        Err(rejection) => return failure(StatusCode::BAD_REQUEST, &rejection.body_text()),
    };
    let in_range = |limit: &usize| (1..=MAX_LIMIT).contains(limit);
    let Some(limit) = limit.as_ref().map_or(Some(DEFAULT_LIMIT), |limit| limit.parse().ok().filter(in_range)) else {
        let message = format!("limit: found {:?}, expected 1 to {MAX_LIMIT}", limit.unwrap_or_default());
        return failure(StatusCode::BAD_REQUEST, &message);
    };
    let context = match shared.accounting().flow_context() {
        Ok(context) => context,
        Err(error) => return unreadable(&error),
    };
    let wanted = match api.map(|api| Wanted::api(&api, &context).ok_or(api)) {
        None => Wanted::All,
        Some(Ok(wanted)) => wanted,
        Some(Err(api)) => return failure(StatusCode::NOT_FOUND, &format!("there is no API called {api:?}")),
    };
    match find(&shared, &wanted, &context, limit).await {
        Ok(found) => json(StatusCode::OK, &found),
        Err(error) => unreadable(&error),
    }
}

/// The flows that somebody asks for.
enum Wanted {
    All,
    /// Those of APIs with these slots.
    Of(BTreeSet<ApiSlot>),
    /// Those of none of these.
    Unmapped(BTreeSet<ApiSlot>),
}

impl Wanted {
    /// Those of the APIs called `name`: there may be one in each role. `None` if there is none.
    fn api(name: &str, context: &FlowContext) -> Option<Self> {
        if name == reserved::UNMAPPED {
            return Some(Self::Unmapped(context.apis.keys().copied().collect()));
        }
        let called = context.apis.iter().filter(|(_, (api, _))| **api == *name);
        let slots: BTreeSet<_> = called.map(|(slot, _)| *slot).collect();
        (!slots.is_empty()).then_some(Self::Of(slots))
    }

    fn has(&self, slot: ApiSlot) -> bool {
        match self {
            Self::All => true,
            Self::Of(slots) => slots.contains(&slot),
            Self::Unmapped(others) => !others.contains(&slot),
        }
    }
}

/// Finds at most `limit` flows, established ones first. The tables are read in slices, and between two of them others get
/// what they wait for.
async fn find(shared: &Shared, wanted: &Wanted, context: &FlowContext, limit: usize) -> Result<Flows, KernelError> {
    let mut found = Flows { flows: Vec::new(), more: false };
    for table in [FlowTable::Established, FlowTable::New] {
        let established = table == FlowTable::Established;
        let mut walk = Walk::default();
        loop {
            let (slice, is_over) = shared.accounting().some_flows(table, &mut walk)?;
            for (key, flow) in slice.iter().filter(|(_, flow)| wanted.has(flow.api) && !is_empty(flow)) {
                if found.flows.len() == limit {
                    found.more = true;
                    return Ok(found);
                }
                found.flows.push(LiveFlow { established, flow: row(key, flow, context) });
            }
            if is_over {
                break;
            }
            yield_now().await;
        }
    }
    Ok(found)
}

fn row(key: &FlowKey, flow: &Flow, context: &FlowContext) -> FlowRow {
    FlowRow::from(&FlowRecord::new(key, flow, context))
}

fn unreadable(error: &KernelError) -> Response {
    warn!(error = chain(error), "cannot read what a request asks for");
    failure(StatusCode::INTERNAL_SERVER_ERROR, &chain(error))
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
}

/// An answer that says why there is no other.
pub(super) fn failure(status: StatusCode, error: &str) -> Response {
    json(status, &Failure { error })
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            error!(%error, "cannot write JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        body::to_bytes,
        http::{StatusCode, header},
    };

    use super::answer;
    use crate::kernel::KernelError;

    #[tokio::test]
    async fn what_cannot_be_read_is_no_empty_list() {
        let response = answer(Err(KernelError::Missing { kind: "map", name: "FLOWS" }));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let body = to_bytes(response.into_body(), 1000).await.expect("a body");
        assert!(body.starts_with(b"{\"error\":\"the BPF object has no map FLOWS"), "{}", body.escape_ascii());
    }
}
