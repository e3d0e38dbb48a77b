//! What is served over HTTP.

mod access;
mod api;
mod blocks;
mod connections;
mod landing;
mod local;
mod reload;
mod server;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use tokio::sync::mpsc::Sender;
use tower_http::compression::CompressionLayer;
use tracing::error;

pub use self::{
    access::{Access, AccessError, Caller},
    server::serve,
};
use crate::{
    accounting::Accounting,
    audit,
    blocks::state::StateFile,
    event::Block,
    metrics::exposition::Format,
    otlp::Statistics,
    reload::{Request, Standing},
    snapshot::Snapshot,
};

/// What the handlers share with the rest of the program.
#[derive(Clone, Debug)]
pub struct Shared {
    accounting: Arc<Mutex<Accounting>>,
    otlp: Arc<[Arc<Statistics>]>,
    audit: Option<Arc<audit::Statistics>>,
    /// Where blocks are kept, if they are.
    state: Option<Arc<tokio::sync::Mutex<StateFile>>>,
    configuration: Option<Arc<Standing>>,
    reloads: Option<Sender<Request>>,
}

impl Shared {
    /// Shares `accounting`, and counts of what is sent over OTLP.
    #[must_use]
    pub fn new(accounting: Accounting, otlp: Vec<Arc<Statistics>>) -> Self {
        Self {
            accounting: Arc::new(Mutex::new(accounting)),
            otlp: otlp.into(),
            audit: None,
            state: None,
            configuration: None,
            reloads: None,
        }
    }

    /// The same, with counts of what is written to the audit log.
    #[must_use]
    pub fn with_audit(self, audit: Option<Arc<audit::Statistics>>) -> Self {
        Self { audit, ..self }
    }

    /// The same, with where blocks are kept over a restart.
    #[must_use]
    pub fn with_state(self, state: StateFile) -> Self {
        Self { state: Some(Arc::new(tokio::sync::Mutex::new(state))), ..self }
    }

    /// The blocks that were kept over a restart; `None` if they are not known. To be asked once, before any is kept.
    #[must_use]
    pub fn load_blocks(&self) -> Option<Vec<Block>> {
        let Some(state) = &self.state else { return Some(Vec::new()) };
        // Nobody else has it yet.
        state.try_lock().ok()?.load()
    }

    /// Keeps blocks over a restart, if they have changed. Whoever waits for the disk is not the thread that all else waits for.
    pub async fn save_blocks(&self) {
        let Some(state) = &self.state else { return };
        let mut state = Arc::clone(state).lock_owned().await;
        let Some(blocks) = self.accounting().changed_blocks() else { return };
        if !tokio::task::spawn_blocking(move || state.save(&blocks)).await.unwrap_or_default() {
            self.accounting().blocks_not_kept();
        }
    }

    /// The same, with how the configuration stands, and where to ask for it to be read anew.
    #[must_use]
    pub fn with_reloads(self, configuration: Arc<Standing>, reloads: Sender<Request>) -> Self {
        Self { configuration: Some(configuration), reloads: Some(reloads), ..self }
    }

    /// Asks for the configuration to be read anew. Whether there was room for one more who asks.
    fn ask_to_reload(&self, request: Request) -> bool {
        self.reloads.as_ref().is_some_and(|reloads| reloads.try_send(request).is_ok())
    }

    /// All counts at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let otlp = self.otlp.iter().map(|statistics| statistics.snapshot()).collect();
        let audit = self.audit.as_ref().map(|audit| audit.snapshot());
        let configuration = self.configuration.as_ref().map(|standing| standing.snapshot());
        Snapshot { otlp, audit, configuration, ..self.accounting().snapshot() }
    }

    /// The accounting, for a moment.
    pub fn accounting(&self) -> MutexGuard<'_, Accounting> {
        // What panicked while it held the lock left counters that are still right.
        self.accounting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that is served, to those whom `access` lets in.
pub fn router(shared: Shared, access: &Access) -> Router {
    let seen = Router::new()
        .route("/", get(landing))
        .route("/metrics", get(metrics))
        .nest("/api/v1", api::router(access))
        .layer(CompressionLayer::new())
        .route("/healthz", get("ok\n"))
        .route("/readyz", get(readyz));
    // What changes something, or tells what no stranger may know, belongs here, with its whole path.
    let changes = Router::new().merge(blocks::router()).route("/-/reload", post(reload::reload));
    access.protect(seen, changes).with_state(shared)
}

async fn landing(State(shared): State<Shared>) -> Html<String> {
    Html(landing::page(&shared.accounting()))
}

async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    // Several Accept headers are one list (RFC 9110 section 5.3).
    let accept: Vec<_> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = accept.join(",");
    let format = Format::negotiate((!accept.is_empty()).then_some(accept.as_str()));
    let snapshot = Arc::new(shared.snapshot());
    match format.encode(&snapshot) {
        Ok(body) => ([(header::CONTENT_TYPE, format.content_type())], body).into_response(),
        Err(error) => {
            error!(%error, ?format, "cannot write the metrics");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

async fn readyz(State(shared): State<Shared>) -> (StatusCode, String) {
    let accounting = shared.accounting();
    match accounting.interfaces().len() {
        0 => (StatusCode::SERVICE_UNAVAILABLE, "not attached to any interface\n".to_owned()),
        count => (StatusCode::OK, format!("attached to {count} interface{}\n", if count == 1 { "" } else { "s" })),
    }
}
