//! `POST /-/reload`: reads the configuration anew.

use axum::{extract::State, http::StatusCode, response::Response};
use tokio::sync::oneshot;

use super::{
    Shared,
    api::{failure, json},
};
use crate::reload::Answer;

/// Answers with the number of the configuration and with what is different: 200. If it was refused, with what is wrong with it: 400,
/// or 500 if that is not its own fault; then what was in force still is.
pub(super) async fn reload(State(shared): State<Shared>) -> Response {
    let (request, answer) = oneshot::channel();
    if !shared.ask_to_reload(request) {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "too many have asked for this already: try again later");
    }
    match answer.await {
        Ok(Answer::Taken(taken)) => json(StatusCode::OK, &taken),
        Ok(Answer::Refused(error)) => failure(StatusCode::BAD_REQUEST, &error),
        Ok(Answer::Failed(error)) => failure(StatusCode::INTERNAL_SERVER_ERROR, &error),
        Err(_) => failure(StatusCode::SERVICE_UNAVAILABLE, "the exporter is about to end"),
    }
}
