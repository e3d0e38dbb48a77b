//! Whom which configuration lets in to what.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request},
    http::{HeaderMap, StatusCode, request::Builder},
    response::Response,
    routing::{get, post},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::{Access, Caller, HasCertificate, MAX_BODY};
use crate::event::Happening;

const TOKEN: &str = "0123456789abcdef";

/// Files, and whom they let in.
struct Door {
    directory: TempDir,
    access: Access,
}

fn users(users: &[(&str, &str)]) -> String {
    let hash = |password| bcrypt::hash_with_salt(password, 4, [7; 16]).expect("is allowed").to_string();
    let users: Vec<_> = users.iter().map(|(name, password)| format!("  {name}: '{}'\n", hash(*password))).collect();
    format!("basic_auth_users:\n{}", users.concat())
}

fn write_token(directory: &Path, token: &str) -> PathBuf {
    let path = directory.join("token");
    fs::write(&path, token).expect("is written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("is ours");
    path
}

impl Door {
    fn new(web: Option<&str>, token: Option<&str>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let web = web.map(|contents| {
            let path = directory.path().join("web.config.yml");
            fs::write(&path, contents).expect("is written");
            path
        });
        let token = token.map(|token| write_token(directory.path(), token));
        let access = Access::by_files(web, token).expect("is right");
        Self { directory, access }
    }

    async fn answer(&self, request: Request) -> Response {
        let seen = Router::new()
            .route("/metrics", get(|Extension(caller): Extension<Caller>| async move { format!("{caller:?}") }));
        let changes =
            Router::new().route("/-/reload", post(|body: String| async move { body }).get(|| async { "changed" }));
        let router = self.access.protect(seen, changes);
        router.oneshot(request).await.expect("never fails")
    }

    /// Status and body, and what is said about authentication.
    async fn ask(&self, request: Builder) -> (u16, String, Option<String>) {
        let answer = self.answer(from(request).body(Body::empty()).expect("is valid")).await;
        let scheme = answer.headers().get("www-authenticate").map(|scheme| scheme.to_str().expect("text").to_owned());
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), MAX_BODY).await.expect("a body");
        (status, String::from_utf8(body.into()).expect("text"), scheme)
    }

    /// The status of each of the paths that all can read and that nobody but who has shown who he is.
    async fn both(&self, change: impl Fn(Builder) -> Builder) -> [u16; 2] {
        let mut found = [0; 2];
        for (found, path) in found.iter_mut().zip(["/metrics", "/-/reload"]) {
            *found = self.ask(change(Request::get(path))).await.0;
        }
        found
    }
}

fn from(request: Builder) -> Builder {
    request.extension(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 1000))))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

fn with(authorization: &str) -> impl Fn(Builder) -> Builder {
    move |request| request.header("authorization", authorization)
}

#[tokio::test]
async fn without_any_configuration_all_can_be_read_and_nothing_changed() {
    let door = Door::new(None, None);
    assert_eq!(door.ask(Request::get("/metrics")).await, (200, "Anybody".to_owned(), None));
    for authorization in ["", "Basic Og==", "Bearer ", "Bearer undefined"] {
        assert_eq!(door.both(with(authorization)).await, [200, 403], "{authorization}");
    }
    assert_eq!(door.ask(Request::post("/-/reload")).await, (403, String::new(), None));
    assert!(!door.access.authenticates());
}

#[tokio::test]
async fn the_token_lets_in_to_changes_alone() {
    let door = Door::new(None, Some(TOKEN));
    assert_eq!(door.both(with(&bearer(TOKEN))).await, [200, 200]);
    assert_eq!(door.both(with(&format!("bearer   {TOKEN} "))).await, [200, 200]);
    for wrong in [
        bearer(""),
        bearer("0123456789abcdeF"),
        bearer(&TOKEN[..15]),
        bearer("0123456789abcdef0"),
        basic(TOKEN, TOKEN),
        TOKEN.to_owned(),
        basic("", TOKEN),
    ] {
        assert_eq!(door.both(with(&wrong)).await, [200, 401], "{wrong}");
    }
    let refused = (401, String::new(), Some("Bearer".to_owned()));
    for request in [Request::get, Request::post, Request::delete] {
        assert_eq!(door.ask(request("/-/reload")).await, refused, "whatever is asked");
        let right = door.ask(with(&bearer(TOKEN))(request("/-/reload"))).await;
        assert_ne!(right.0, 401);
    }
    // Two headers are none.
    let twice = |request| with(&bearer(TOKEN))(with(&bearer(TOKEN))(request));
    assert_eq!(door.both(twice).await, [200, 401]);
    // A page of another origin does not know the token, so who does may say that it is one.
    let foreign = |request: Builder| with(&bearer(TOKEN))(request).header("origin", "https://evil.example");
    assert_eq!(door.both(foreign).await, [200, 200]);
}

#[tokio::test]
async fn a_password_lets_in_to_everything() {
    let door = Door::new(Some(&users(&[("alice", "one"), ("bob", "a:b")])), None);
    let refused = (401, String::new(), Some("Basic realm=\"tidewaiter\"".to_owned()));
    assert_eq!(door.ask(Request::get("/metrics")).await, refused);
    assert_eq!(door.ask(Request::get("/nothing")).await, refused, "nor what there is");
    assert_eq!(door.ask(Request::get("/-/reload")).await, refused, "there is no token");
    for right in [basic("alice", "one"), basic("bob", "a:b"), basic("alice", "one").replace("Basic", "bASIC")] {
        assert_eq!(door.both(with(&right)).await, [200, 200], "{right}");
    }
    assert_eq!(door.ask(with(&basic("alice", "one"))(Request::get("/metrics"))).await.1, "Authenticated");
    for wrong in [
        basic("alice", "two"),
        basic("alice", ""),
        basic("carol", "one"),
        basic("", ""),
        "Basic".to_owned(),
        "Basic !".to_owned(),
        "Basic YQ==".to_owned(),
        bearer(TOKEN),
    ] {
        assert_eq!(door.both(with(&wrong)).await, [401, 401], "{wrong}");
    }
    // A certificate does not stand in for it, as it does not with exporter-toolkit.
    assert_eq!(door.both(|request| request.extension(HasCertificate(true))).await, [401, 401]);
}

#[tokio::test]
async fn the_token_stands_in_for_a_password_where_something_changes() {
    let door = Door::new(Some(&users(&[("alice", "one")])), Some(TOKEN));
    assert_eq!(door.both(with(&bearer(TOKEN))).await, [401, 200]);
    assert_eq!(door.both(with(&basic("alice", "one"))).await, [200, 200]);
    assert_eq!(door.both(with(&basic("alice", "two"))).await, [401, 401]);
    assert_eq!(door.both(|request| request).await, [401, 401]);
    assert_eq!(door.ask(Request::get("/-/reload")).await.2.as_deref(), Some("Bearer"));
}

#[tokio::test]
async fn pages_of_other_origins_change_nothing() {
    let door = Door::new(Some(&users(&[("alice", "one")])), None);
    let request = |origin: &str| {
        let request = with(&basic("alice", "one"))(Request::post("/-/reload")).header("host", "exporter:9473");
        request.header("origin", origin)
    };
    for (origin, status) in [
        ("https://exporter:9473", 200),
        ("https://evil.example", 403),
        ("https://exporter", 403),
        ("null", 403),
        ("", 403),
    ] {
        assert_eq!(door.ask(request(origin)).await.0, status, "{origin}");
    }
}

#[tokio::test]
async fn what_the_files_become_is_in_force_and_what_is_bad_is_not() {
    let door = Door::new(Some(&users(&[("alice", "one")])), Some(TOKEN));
    let look = || {
        door.access.0.web.as_ref().expect("is configured").look_now();
        door.access.0.token.as_ref().expect("is configured").look_now();
    };
    let web = door.directory.path().join("web.config.yml");
    for bad in ["", "basic_auth_users: {}\n", "basic_auth_users:\n  alice: no\n", "nonsense"] {
        fs::write(&web, bad).expect("is written");
        look();
        assert_eq!(door.both(with(&basic("alice", "one"))).await, [200, 200], "{bad}");
        assert_eq!(door.both(|request| request).await, [401, 401], "{bad}");
    }
    fs::remove_file(&web).expect("is there");
    look();
    assert_eq!(door.both(with(&basic("alice", "one"))).await, [200, 200]);
    fs::write(&web, users(&[("bob", "two")])).expect("is written");
    look();
    assert_eq!(door.both(with(&basic("alice", "one"))).await, [401, 401]);
    assert_eq!(door.both(with(&basic("bob", "two"))).await, [200, 200]);
    let news = door.access.news();
    assert!(door.access.news().is_empty(), "it is told once");
    let names: Vec<_> = news.iter().map(Happening::name).collect();
    let refused = names.iter().take_while(|name| **name == "tidewaiter.access.refused").count();
    assert!(refused >= 2 && names[refused..] == ["tidewaiter.access.changed"], "{names:?}");
    let told = format!("{news:?}");
    assert!(told.contains("web_config") && !told.contains("bob") && !told.contains("$2b$04"), "{told}");

    write_token(door.directory.path(), "short");
    look();
    assert_eq!(door.both(with(&bearer(TOKEN))).await, [401, 200]);
    assert_eq!(door.both(with(&bearer("short"))).await, [401, 401]);
    write_token(door.directory.path(), "fedcba9876543210");
    look();
    assert_eq!(door.both(with(&bearer(TOKEN))).await, [401, 401]);
    assert_eq!(door.both(with(&bearer("fedcba9876543210"))).await, [401, 200]);
    let told = format!("{:?}", door.access.news());
    assert!(told.contains("api_token_file") && !told.contains("fedcba"), "{told}");
}

#[tokio::test]
async fn headers_are_added_to_every_answer_and_requests_are_limited() {
    let headers =
        "http_server_config:\n  headers:\n    X-Frame-Options: deny\nrate_limit:\n  interval: 1h\n  burst: 4\n";
    let door = Door::new(Some(&(users(&[("alice", "one")]) + headers)), None);
    let mut found = Vec::new();
    for path in ["/metrics", "/-/reload", "/nothing", "/metrics", "/metrics", "/-/reload"] {
        let answer = door.answer(from(Request::get(path)).body(Body::empty()).expect("is valid")).await;
        assert_eq!(answer.headers()["x-frame-options"], "deny", "{path}");
        found.push(answer.status().as_u16());
    }
    assert_eq!(found, [401, 401, 401, 401, 429, 429]);
}

#[tokio::test]
async fn what_is_sent_for_a_change_is_bounded() {
    let door = Door::new(None, Some(TOKEN));
    for (size, status) in [(MAX_BODY, StatusCode::OK), (MAX_BODY + 1, StatusCode::PAYLOAD_TOO_LARGE)] {
        let request = from(with(&bearer(TOKEN))(Request::post("/-/reload")));
        let answer = door.answer(request.body("x".repeat(size).into()).expect("is valid")).await;
        assert_eq!(answer.status(), status);
    }
    let none: HeaderMap =
        door.answer(from(Request::post("/-/reload")).body("x".into()).expect("is valid")).await.headers().clone();
    assert_eq!(none["www-authenticate"], "Bearer");
}

#[test]
fn what_could_not_be_read_later_is_not_read_at_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let token = write_token(directory.path(), TOKEN);
    Access::by_files(None, Some(token.clone())).expect("is ours");
    chown(&token, Some(65_534), None).expect("the tests run as root");
    let error = Access::by_files(None, Some(token.clone())).expect_err("is another's").to_string();
    assert!(error.contains("Permission denied"), "{error}");
    assert!(fs::read(&token).is_ok(), "the capabilities are back");
}
