//! Who is let in: whoever `web_config` says, and of what changes something those alone who have shown who they are.

mod caption;
mod limit;
mod passwords;
mod refusals;
mod watched;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use ring::{
    hmac::{self, Key},
    rand::SystemRandom,
};
use thiserror::Error;
use tower_http::timeout::RequestBodyTimeoutLayer;

pub(super) use self::refusals::{Refusal, Refusals};
use self::{
    caption::Caption,
    limit::Limit,
    passwords::{Passwords, Verdict},
    watched::Watched,
};
use crate::{
    capabilities::{self, CapabilityError},
    config::{Configuration, error::ConfigurationError, token::Token, web::WebConfig},
    event::Happening,
};

/// The most bytes of a request that changes something: an Alertmanager's webhook has some hundred bytes for each alert.
const MAX_BODY: usize = 1 << 20;

/// How long such a request may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How passwords are asked for (RFC 7617 section 2).
const BASIC: &str = "Basic realm=\"tidewaiter\"";

/// Why it is not known whom to let in.
#[derive(Debug, Error)]
pub enum AccessError {
    /// A file that says so is wrong.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// The system has no random numbers.
    #[error("the system gives no random numbers, without which no password or token can be looked at")]
    Random,
    /// The capabilities could not be put away for a moment.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
}

impl From<ring::error::Unspecified> for AccessError {
    fn from(_: ring::error::Unspecified) -> Self {
        Self::Random
    }
}

/// Who is let in. Files that say so are read anew when they have changed.
#[derive(Clone, Debug)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    web: Option<Watched<WebConfig>>,
    token: Option<Watched<Token>>,
    passwords: Passwords,
    limit: Limit,
    refusals: Refusals,
    /// Tokens are compared by a hash with this key, so that the time that takes says nothing.
    key: Key,
}

/// What a request has shown of who sends it. Handlers find it among the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nothing; perhaps nothing is asked for.
    Anybody,
    /// A user's password, a certificate that an authority vouches for, or the token.
    Authenticated,
}

/// Of a connection: whether its client has shown a certificate that an authority vouches for.
#[derive(Clone, Copy, Debug)]
pub(super) struct HasCertificate(pub(super) bool);

impl Access {
    /// Lets in whom the files say that `configuration` names. They are read by the capabilities alone that are kept: what can be
    /// read at the start can be read when it has changed.
    ///
    /// # Errors
    /// If there is something wrong with them: everything that is, of the first that is.
    pub fn open(configuration: &Configuration) -> Result<Self, AccessError> {
        Self::by_files(configuration.web_config.clone(), configuration.api_token_file.clone())
    }

    fn by_files(web: Option<PathBuf>, token: Option<PathBuf>) -> Result<Self, AccessError> {
        let read = || {
            let web = web.map(|path| Watched::new(move |files| WebConfig::read(&path, files)));
            let token =
                token.map(|path| Watched::new(move |files| Token::read(&path, files).map_err(|problem| vec![problem])));
            Ok::<_, ConfigurationError>((web.transpose()?, token.transpose()?))
        };
        let (web, token) = capabilities::with_only(&capabilities::KEPT, read)??;
        let key = Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?;
        let (passwords, limit, refusals) = (Passwords::new()?, Limit::default(), Refusals::default());
        Ok(Self(Arc::new(Inner { web, token, passwords, limit, refusals, key })))
    }

    /// How TLS and passwords are served now; neither is if `None`.
    #[must_use]
    pub fn web(&self) -> Option<Arc<WebConfig>> {
        self.0.web.as_ref().map(Watched::current)
    }

    /// What has happened to the files since this was last asked: to be told. To be asked each second.
    #[must_use]
    pub fn news(&self) -> Vec<Happening> {
        let web = self.0.web.as_ref().map(Watched::news).unwrap_or_default();
        web.into_iter().chain(self.0.token.as_ref().map(Watched::news).unwrap_or_default()).collect()
    }

    /// Whether it can be told who somebody is, for all of HTTP.
    #[must_use]
    pub fn authenticates(&self) -> bool {
        self.web().is_some_and(|web| web.authenticates())
    }

    pub(super) fn refusals(&self) -> &Refusals {
        &self.0.refusals
    }

    /// Answers the requests of `seen` to whom `web_config` lets in, and those of `changes`, which change something or tell what
    /// strangers must not know, to those alone who have shown who they are: by the token (`Authorization: Bearer`), which
    /// stands in for a password too, or as `web_config` says. All others get 401 without a word; everybody gets 403 if nobody
    /// could be let in. What the requests of `changes` have in them is bounded in bytes (1 MiB) and time (10 s). All of its
    /// routes have their whole paths.
    pub fn protect<S: Clone + Send + Sync + 'static>(&self, seen: Router<S>, changes: Router<S>) -> Router<S> {
        // Otherwise it would be that of `changes` which says that there is nothing, and nobody asked who wants to know.
        let seen = seen.fallback(|| async { StatusCode::NOT_FOUND });
        let seen = seen.layer(middleware::from_fn_with_state(self.clone(), admit));
        if !changes.has_routes() {
            // There is nothing to protect, and axum would panic.
            return seen;
        }
        let changes = changes
            .route_layer(DefaultBodyLimit::max(MAX_BODY))
            .route_layer(RequestBodyTimeoutLayer::new(BODY_TIMEOUT))
            .route_layer(middleware::from_fn_with_state(self.clone(), admit_changes));
        seen.merge(changes)
    }

    /// Finds out who sends a request; answers with why not if `web` asks for more than the request shows.
    async fn identify(&self, web: Option<&WebConfig>, request: &Caption) -> Result<Caller, Refusal> {
        let Some(web) = web else { return Ok(Caller::Anybody) };
        if web.users.is_empty() {
            let verifies = web.tls.as_ref().is_some_and(|tls| tls.clients.verifies());
            return Ok(if verifies && request.has_certificate { Caller::Authenticated } else { Caller::Anybody });
        }
        let Some((user, password)) = request.basic() else { return Err(Refusal::Password) };
        let client = request.peer.ip().to_canonical();
        match self.0.passwords.verify(&web.users, &user, password, client).await {
            Verdict::Right => Ok(Caller::Authenticated),
            Verdict::Wrong => Err(Refusal::Password),
            Verdict::Busy => Err(Refusal::Busy),
        }
    }

    /// Whether a request has the token.
    fn has_token(&self, request: &Caption) -> bool {
        let (Some(token), Some(given)) = (&self.0.token, request.bearer()) else { return false };
        let expected = hmac::sign(&self.0.key, token.current().reveal().as_bytes());
        hmac::verify(&self.0.key, given.as_bytes(), expected.as_ref()).is_ok()
    }

    fn is_within_limit(&self, web: Option<&WebConfig>) -> bool {
        web.and_then(|web| web.rate_limit).is_none_or(|limit| self.0.limit.allows(limit, Instant::now()))
    }

    fn refuse(&self, refusal: Refusal, request: &Caption, scheme: &'static str) -> Response {
        // Without credentials there is nothing wrong yet: browsers ask first.
        if request.authorization.is_some() || !matches!(refusal, Refusal::Password) {
            self.0.refusals.note(refusal, request.peer.ip().to_canonical(), "");
        }
        match refusal {
            Refusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]).into_response(),
            Refusal::Nobody | Refusal::Origin => StatusCode::FORBIDDEN.into_response(),
            _ => (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, scheme)]).into_response(),
        }
    }
}

/// Lets those in whom `web_config` does.
async fn admit(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let web = access.web();
    let web = web.as_deref();
    let answer = if access.is_within_limit(web) {
        let caption = Caption::of(&request);
        match access.identify(web, &caption).await {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                next.run(request).await
            }
            Err(refusal) => access.refuse(refusal, &caption, BASIC),
        }
    } else {
        StatusCode::TOO_MANY_REQUESTS.into_response()
    };
    with_headers(answer, web)
}

/// Lets those in alone who have shown who they are.
async fn admit_changes(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let web = access.web();
    let web = web.as_deref();
    let caption = Caption::of(&request);
    let refusal = if !access.is_within_limit(web) {
        return with_headers(StatusCode::TOO_MANY_REQUESTS.into_response(), web);
    } else if access.has_token(&caption) {
        None
    } else if access.0.token.is_none() && !web.is_some_and(WebConfig::authenticates) {
        Some(Refusal::Nobody)
    } else {
        match access.identify(web, &caption).await {
            // A browser sends passwords and certificates for any page, but tokens for none.
            Ok(Caller::Authenticated) => caption.is_of_another_origin().then_some(Refusal::Origin),
            Ok(Caller::Anybody) | Err(Refusal::Password) => Some(Refusal::Token),
            Err(refusal) => Some(refusal),
        }
    };
    let answer = if let Some(refusal) = refusal {
        let has_users = web.is_some_and(|web| !web.users.is_empty());
        let scheme = if has_users && access.0.token.is_none() { BASIC } else { "Bearer" };
        access.refuse(refusal, &caption, scheme)
    } else {
        request.extensions_mut().insert(Caller::Authenticated);
        next.run(request).await
    };
    with_headers(answer, web)
}

fn with_headers(mut answer: Response, web: Option<&WebConfig>) -> Response {
    if let Some(web) = web {
        answer.headers_mut().extend(web.headers.clone());
    }
    answer
}

#[cfg(test)]
mod tests;
