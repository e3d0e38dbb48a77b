//! Blocking over HTTP.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};
use tidewaiter_tests::{
    exporter::{ADDRESS, Exporter},
    network::Network,
};

use crate::Host;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn start<'a>(host: &'a Host, guard: &str) -> Exporter<'a> {
    let file = host.folder.path().join("token");
    fs::write(&file, TOKEN).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let configuration =
        format!("interfaces = [\"wire\"]\napi_token_file = {:?}\n[guard]\n{guard}\n", file.to_str().unwrap());
    let configuration = format!("{configuration}[[api]]\nname = \"orders\"\nports = [8080]\n");
    Exporter::start_as(&host.bpf, &host.network.server, &configuration, |command| {
        command.env("TIDEWAITER_GUARD__SOCKET", host.socket()).env("TIDEWAITER_GUARD__STATE", host.state());
    })
}

/// What `method` of `path` with `body` is answered with, by whoever shows `token`.
fn ask(host: &Host, token: &str, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut curl = host.network.server.command("curl");
    curl.args(["-s", "--max-time", "20", "-w", "\n%{http_code}", "-X", method, "-H"]);
    curl.arg(format!("Authorization: Bearer {token}"));
    if !body.is_empty() {
        curl.args(["-H", "Content-Type: application/json", "--data-binary", body]);
    }
    let output = curl.arg(format!("http://{ADDRESS}{path}")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn whoever_has_the_token_blocks_and_unblocks() {
    let host = Host::new();
    let _exporter = start(&host, "");
    let wanted = json!({"address": "10.77.0.2", "for": "1h", "reason": "by a program"}).to_string();
    for (method, body) in [("POST", wanted.as_str()), ("GET", ""), ("DELETE", "")] {
        assert_eq!(ask(&host, "wrong", method, "/api/v1/blocks", body), (401, Value::Null), "{method}");
    }
    assert_eq!(ask(&host, "wrong", "DELETE", "/api/v1/blocks/10.77.0.2", "").0, 401);
    assert!(host.gets_through(Network::SERVER4));

    let (status, row) = ask(&host, TOKEN, "POST", "/api/v1/blocks", &wanted);
    assert_eq!((status, &row["network"], &row["by"]), (201, &json!("10.77.0.2/32"), &json!("http")));
    assert!(!host.gets_through(Network::SERVER4));
    let (status, list) = ask(&host, TOKEN, "GET", "/api/v1/blocks", "");
    assert_eq!((status, list), (200, json!({"blocks": [row]})));
    assert_eq!(ask(&host, TOKEN, "DELETE", "/api/v1/blocks/10.77.0.2", "").0, 200);
    assert!(host.gets_through(Network::SERVER4));
    assert_eq!(ask(&host, TOKEN, "DELETE", "/api/v1/blocks/10.77.0.2", "").0, 404);

    let prefix = json!({"address": "fd77::/64", "for": "1h"}).to_string();
    for path in ["/api/v1/blocks/fd77::/64", "/api/v1/blocks?address=fd77::/64"] {
        assert_eq!(ask(&host, TOKEN, "POST", "/api/v1/blocks", &prefix).0, 201);
        assert_eq!(ask(&host, TOKEN, "DELETE", path, "").0, 200, "{path}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let host = Host::new();
    let _exporter = start(&host, "max_blocks = 1");
    for (body, expected) in [
        ("{", 400),
        ("[]", 400),
        (r#"{"address": "192.0.2.1"}"#, 400),
        (r#"{"address": "192.0.2.1", "for": "1h", "more": 1}"#, 400),
        (r#"{"address": "somebody", "for": "1h"}"#, 422),
        (r#"{"address": "127.0.0.1", "for": "1h"}"#, 422),
        (r#"{"address": "192.0.2.1", "for": "1h"}"#, 201),
        (r#"{"address": "192.0.2.2", "for": "1h"}"#, 409),
    ] {
        let (status, answer) = ask(&host, TOKEN, "POST", "/api/v1/blocks", body);
        assert_eq!(status, expected, "{body}: {answer}");
        assert!(status == 201 || answer["error"].is_string(), "{body}: {answer}");
    }
    // More than a megabyte.
    let large = host.folder.path().join("large");
    fs::write(&large, vec![b' '; (1 << 20) + 1]).unwrap();
    assert_eq!(ask(&host, TOKEN, "POST", "/api/v1/blocks", &format!("@{}", large.display())).0, 413);
    assert_eq!(host.blocked(), ["192.0.2.1/32"]);
}

/// A notification as Alertmanager's documentation shows it (`webhook_config`).
fn notification(alerts: &Value) -> String {
    json!({
        "version": "4",
        "groupKey": "{}:{alertname=\"Loud\"}",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "tidewaiter",
        "groupLabels": {"alertname": "Loud"},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager",
        "alerts": alerts,
    })
    .to_string()
}

fn alert(status: &str, client: &str, annotations: &Value) -> Value {
    json!({
        "status": status,
        "labels": {"alertname": "Loud", "source": client},
        "annotations": annotations,
        "startsAt": "2026-01-01T00:00:00Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus",
        "fingerprint": "0",
    })
}

#[test]
fn an_alertmanager_blocks() {
    let host = Host::new();
    let _exporter = start(&host, "alert_label = \"source\"");
    let mut nobody = alert("firing", "", &json!({}));
    nobody["labels"].as_object_mut().unwrap().remove("source");
    let alerts = json!([
        alert("firing", "10.77.0.2", &json!({"summary": "too\nloud", "block_for": "1h"})),
        alert("firing", "somebody", &json!({})),
        alert("resolved", "192.0.2.1", &json!({})),
        nobody,
    ]);
    let (status, answer) = ask(&host, TOKEN, "POST", "/api/v1/blocks", &notification(&alerts));
    assert_eq!((status, &answer["ignored"]), (200, &json!(2)), "{answer}");
    assert_eq!(answer["blocked"][0]["reason"], "Loud: too loud", "{answer}");
    assert_eq!(answer["refused"][0]["address"], "somebody", "{answer}");
    assert!(!host.gets_through(Network::SERVER4));
    // That it is over does not let it in: it is over because it is blocked.
    let alerts = json!([alert("resolved", "10.77.0.2", &json!({}))]);
    assert_eq!(ask(&host, TOKEN, "POST", "/api/v1/blocks", &notification(&alerts)).0, 200);
    assert_eq!(host.blocked(), ["10.77.0.2/32"]);
}
