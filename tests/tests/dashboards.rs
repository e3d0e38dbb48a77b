//! The dashboards: the files are what their source says, and every expression names metrics that there are, is understood by
//! Prometheus, and has data while real traffic passes the real exporter.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tidewaiter_tests::{
    bpf_file_system::BpfFileSystem,
    client::{Client, http_answer},
    collector::Collector,
    command::{Process, output},
    exporter::{Exporter, binary},
    network::{INTERFACE, Network, Offload},
    prometheus::{Prometheus, check},
    servers::{Nginx, are_installed},
    statistics::Statistics,
    wait::wait_until,
};

/// Their names, which are those of the files and, behind `tidewaiter-`, of their places in Grafana.
const NAMES: [&str; 4] = ["overview", "api", "security", "exporter"];
/// Kinds of panels that every Grafana has.
const KINDS: [&str; 7] = ["row", "timeseries", "stat", "table", "bargauge", "heatmap", "text"];
/// What Prometheus itself says of each target.
const OF_PROMETHEUS: [&str; 3] = ["up", "scrape_duration_seconds", "scrape_samples_scraped"];

/// What panels say instead of nothing, and is no data: here there is some.
const INSTEAD: [&str; 8] = [
    "no plain HTTP/1",
    "BPF statistics are off",
    "no rules",
    "no guard",
    "no blocks",
    "no OTLP",
    "no audit log",
    "nobody",
];

/// What Grafana fills in. Ranges are shorter than people's, because a test is.
const FILLED_IN: [(&str, &str); 8] = [
    ("$__rate_interval", "10s"),
    ("$__interval", "10s"),
    ("$__range", "60s"),
    ("[5m]", "[10s]"),
    ("[6h:5m]", "[10s:1s]"),
    ("=~\"$job\"", "=~\".*\""),
    ("=~\"$instance\"", "=~\".*\""),
    ("=~\"$api\"", "=~\".*\""),
];
/// The API that the dashboard of one is about.
const API: (&str, &str) = ("=\"$api\"", "=\"web\"");

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}

fn dashboard(name: &str) -> Value {
    let text = fs::read_to_string(folder().join(format!("{name}.json"))).expect("is there");
    serde_json::from_str(&text).expect("is JSON")
}

fn panels(dashboard: &Value) -> &Vec<Value> {
    dashboard["panels"].as_array().expect("has panels")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// An expression of a panel.
struct Expression {
    /// The dashboard's name.
    dashboard: &'static str,
    /// The panel's title, and which of its queries it is.
    place: String,
    /// With all that Grafana fills in.
    text: String,
    /// What its series are called.
    legend: String,
}

fn expressions() -> Vec<Expression> {
    let mut expressions = Vec::new();
    for dashboard in NAMES {
        let json = self::dashboard(dashboard);
        for panel in panels(&json).iter().filter(|panel| panel["type"] != "row") {
            for target in panel["targets"].as_array().expect("has queries") {
                let filled = FILLED_IN.into_iter().chain([API]);
                let filled = filled.fold(text(target, "expr").to_owned(), |text, (from, to)| text.replace(from, to));
                assert!(!filled.contains('$'), "{dashboard}: what is to be filled in? {filled}");
                let place = format!("{} {}", text(panel, "title"), text(target, "refId"));
                expressions.push(Expression {
                    dashboard,
                    place,
                    text: filled,
                    legend: text(target, "legendFormat").into(),
                });
            }
        }
    }
    assert!(expressions.len() > 100, "{}", expressions.len());
    expressions
}

fn generate(folder: &Path, arguments: &[&str]) -> Output {
    Command::new("python3").arg(folder.join("generate.py")).args(arguments).output().expect("runs")
}

#[test]
fn the_files_are_what_their_source_says() {
    let checked = generate(&folder(), &["--check"]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    // And one that is not is found.
    let copy = tempfile::tempdir().expect("a directory");
    output(Command::new("cp").arg("-r").arg(folder()).arg(copy.path()));
    let copy = copy.path().join("dashboards");
    let file = copy.join("security.json");
    let text = fs::read_to_string(&file).expect("is there");
    fs::write(&file, text.replacen("\"id\": 1,", "\"id\": 1001,", 1)).expect("is ours");
    fs::remove_file(copy.join("api.json")).expect("is ours");
    let checked = generate(&copy, &["--check"]);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(1), "{said}");
    assert!(said.contains("security.json") && said.contains("api.json") && !said.contains("overview.json"), "{said}");
    assert!(generate(&copy, &[]).status.success() && generate(&copy, &["--check"]).status.success());
    assert_eq!(fs::read_to_string(&file).expect("is there"), text);
}

#[test]
fn every_panel_says_what_it_is_and_has_a_place() {
    for name in NAMES {
        let dashboard = dashboard(name);
        assert_eq!(text(&dashboard, "uid"), format!("tidewaiter-{name}"));
        let (mut ids, mut taken, mut titles) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for panel in panels(&dashboard) {
            let (title, place) = (text(panel, "title"), &panel["gridPos"]);
            assert!(ids.insert(number(panel, "id")), "{name}: two panels have the number of {title}");
            assert!(KINDS.contains(&text(panel, "type")), "{name}: {title} needs a plugin");
            for x in 0..number(place, "w") {
                for y in 0..number(place, "h") {
                    let (x, y) = (number(place, "x") + x, number(place, "y") + y);
                    assert!(x < 24 && taken.insert((x, y)), "{name}: {title} has the place of another, or none");
                }
            }
            if panel["type"] == "row" {
                continue;
            }
            assert!(titles.insert(title), "{name}: two panels are called {title}");
            let description = text(panel, "description");
            assert!(description.len() > 20, "{name}: {title}: {description}");
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(!text(defaults, "unit").is_empty(), "{name}: {title}");
            if panel["type"] != "heatmap" {
                assert!(!defaults["thresholds"]["steps"].as_array().expect("has some").is_empty(), "{name}: {title}");
            }
            for query in panel["targets"].as_array().expect("has queries") {
                assert_eq!(query["datasource"]["uid"], "${datasource}", "{name}: {title}");
            }
        }
        // Where links lead to.
        let links = dashboard.to_string();
        for link in links.split("\"url\":\"/d/").skip(1) {
            let target = link.split('?').next().expect("there is a first");
            assert!(
                NAMES.iter().any(|name| target == format!("tidewaiter-{name}")),
                "{name}: {target} is no dashboard"
            );
        }
    }
}

/// Names that the golden `/metrics` has, of series as Prometheus has them, and those of native histograms.
fn known() -> BTreeSet<String> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/metrics.txt");
    let golden = fs::read_to_string(golden).expect("is there");
    let types = golden.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let mut known: BTreeSet<String> = OF_PROMETHEUS.map(str::to_owned).into();
    for (name, kind) in types {
        known.insert(name.to_owned());
        if kind == "histogram" {
            known.extend(["bucket", "sum", "count"].map(|suffix| format!("{name}_{suffix}")));
        }
    }
    known
}

/// The metrics that `expression` names: whatever word is left when texts, labels, ranges, functions and operators are gone.
fn metrics(expression: &str) -> BTreeSet<String> {
    const WORDS: [&str; 16] = [
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
        "and",
        "or",
        "unless",
        "bool",
        "offset",
        "NaN",
        "Inf",
        "sum",
        "max",
        "min",
    ];
    // Labels stand in parentheses behind one of these.
    const OF_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    let mut found = BTreeSet::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let is_word = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
        rest = match first {
            '"' => after_text(rest),
            '{' => after_braces(rest),
            '[' => &rest[rest.find(']').expect("a range ends") + 1..],
            letter if is_word(letter) => {
                let length = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
                let (word, behind) = rest.split_at(length);
                let next = behind.trim_start();
                if OF_LABELS.contains(&word) {
                    &next[next.find(')').expect("labels end") + 1..]
                } else {
                    let is_name = !letter.is_ascii_digit() && !WORDS.contains(&word) && !next.starts_with('(');
                    if is_name {
                        found.insert(word.to_owned());
                    }
                    behind
                }
            }
            letter => &rest[letter.len_utf8()..],
        };
    }
    found
}

/// What is behind the text that `rest` begins with.
fn after_text(rest: &str) -> &str {
    let mut letters = rest.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => {
                letters.next();
            }
            '"' => return &rest[at + 1..],
            _ => {}
        }
    }
    panic!("a text does not end: {rest}")
}

/// What is behind the braces that `rest` begins with.
fn after_braces(mut rest: &str) -> &str {
    rest = &rest[1..];
    loop {
        match rest.chars().next().expect("braces end") {
            '}' => return &rest[1..],
            '"' => rest = after_text(rest),
            letter => rest = &rest[letter.len_utf8()..],
        }
    }
}

#[test]
fn names_of_metrics_are_found_in_expressions() {
    let found = |expression: &str| metrics(expression).into_iter().collect::<Vec<_>>();
    assert_eq!(found("sum by (a, le) (rate(x_total{b=~\"y_total|}\\\"{\",c=\"$d\"}[5m]))"), ["x_total"]);
    assert_eq!(found("2 * up / on (job) group_left (z) info or vector(0)"), ["info", "up"]);
    assert_eq!(found("histogram_quantile(0.5, a:b[6h:5m]) > bool 1e3"), ["a:b"]);
    assert!(known().contains("tidewaiter_api_response_duration_seconds_bucket"));
    assert!(!known().contains("tidewaiter_api_packets"), "what a series is called ends in _total");
}

#[test]
fn every_expression_is_understood_and_names_metrics_that_there_are() {
    let (expressions, known) = (expressions(), known());
    for Expression { dashboard, place, text, .. } in &expressions {
        let named = metrics(text);
        assert!(!named.is_empty(), "{dashboard}: {place}: {text}");
        for name in named {
            assert!(known.contains(&name), "{dashboard}: {place}: no metric is called {name}");
        }
    }
    // Variables have values where somebody looks for them.
    for name in NAMES {
        let dashboard = dashboard(name);
        for variable in dashboard["templating"]["list"].as_array().expect("has variables") {
            let Some(query) = variable["query"]["query"].as_str() else { continue };
            let series = query
                .strip_prefix("label_values(")
                .and_then(|query| query.rsplit_once(", "))
                .expect("asks for values")
                .0;
            assert!(metrics(series).iter().all(|name| known.contains(name)), "{query}");
        }
    }
    if are_installed(&["promtool"]) {
        let texts: Vec<_> = expressions.iter().map(|expression| &*expression.text).collect();
        let said = check(&texts);
        assert!(said.contains(&format!("SUCCESS: {} rules found", texts.len())), "{said}");
    }
}

/// Has clients ask `network`'s server as real ones do, and some as they should not, until it is told to stop.
fn make_traffic(network: &Network, is_over: &AtomicBool) {
    let [web, nobody, payload] = [80, 81, 82].map(|port| (Network::SERVER4, port).into());
    network.client.run(|| {
        while !is_over.load(Ordering::Relaxed) {
            let mut client = Client::connect(web);
            // nginx closes the connection after an error of its own.
            for request in ["GET /code/200", "POST /code/204", "GET /slow/20", "GET /code/500"] {
                let request = format!("{request} HTTP/1.1\r\nHost: server\r\nContent-Length: 0\r\n\r\n");
                client.ask(request.as_bytes(), http_answer);
            }
            // Not what that API expects, and a port where nobody listens.
            Client::connect(payload).send(b"HELO server\r\n");
            TcpStream::connect::<std::net::SocketAddr>(nobody).expect_err("nobody listens there");
            thread::sleep(Duration::from_millis(50));
        }
    });
}

fn configuration(directory: &Path) -> String {
    format!(
        "interfaces = [\"{INTERFACE}\"]
         [otlp]
         endpoint = \"http://{server}:4318\"
         [otlp.metrics]
         interval = \"1s\"
         [audit]
         file = \"{audit}\"
         flows = true
         [[api]]
         name = \"web\"
         ports = [80]
         expect = [\"http1\"]
         [[api]]
         name = \"gone\"
         ports = [81]
         [[api]]
         name = \"strict\"
         ports = [82]
         expect = [\"tls\"]
         [guard]
         attach = \"tc\"
         [[rule]]
         name = \"connections\"
         api = \"*\"
         limit = {{ connections_per_second = 1, per = \"client\" }}
         action = \"reject\"
         ",
        server = Network::SERVER4,
        audit = directory.join("audit.jsonl").display(),
    )
}

/// Ends the traffic when it is dropped, also on a panic: else nobody would hear of that.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Labels that the legend of a series is made of, in `{{}}`.
fn labels(legend: &str) -> impl Iterator<Item = &str> {
    legend.split("{{").skip(1).map(|rest| rest.split("}}").next().expect("there is a first"))
}

#[test]
fn every_expression_has_data_and_says_who_is_in_trouble() {
    if !are_installed(&["nginx", "prometheus", "socat"]) {
        return;
    }
    let (network, directory) = (Network::new(Offload::Off), tempfile::tempdir().expect("a directory"));
    let _nginx = Nginx::start(&network.server);
    let mut listener = network.server.command("socat");
    let _listener = Process::start(listener.args(["TCP-LISTEN:82,fork,reuseaddr", "SYSTEM:cat"]));
    let _collector = Collector::new(&network.server);
    let socket = directory.path().join("control.sock");
    let exporter = Exporter::start_as(
        &Arc::new(BpfFileSystem::mount()),
        &network.server,
        &configuration(directory.path()),
        |command| {
            command.env("TIDEWAITER_GUARD__SOCKET", &socket);
        },
    );
    let statistics = Statistics::new();
    statistics.turn_on();
    let mut block = network.server.command(binary());
    // Somebody who is not there: what blocks have decided is said from then on.
    output(
        block.env("TIDEWAITER_GUARD__SOCKET", &socket).args(["block", "192.0.2.1", "--config"]).arg(exporter.file()),
    );

    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| make_traffic(&network, &is_over));
        let _end = End(&is_over);
        let prometheus = Prometheus::start(&network.server, &["metrics"], &[]);
        assert_eq!(look(&prometheus, expressions()), [""; 0]);
        // Who refuses all is in trouble, and so is who errs in one of four answers; who is asked nonsense is not to blame. A busy
        // machine may be slow for a moment.
        wait_until("the overview to say who is in trouble", || {
            let trouble = in_trouble(&prometheus);
            let is_off = |column: &str, api: &str| trouble[column].get(api).is_some_and(|signals| *signals > 0);
            let is_service = is_off("Service", "gone") && is_off("Service", "web") && !is_off("Service", "strict");
            let is_traffic = is_off("Traffic", "strict") && !is_off("Traffic", "gone") && !is_off("Traffic", "web");
            is_service && is_traffic && ["gone", "strict"].iter().all(|api| !is_off("Network", api))
        });
        // And where Prometheus keeps native histograms, it has no classic ones.
        drop(prometheus);
        let prometheus = Prometheus::start(&network.server, &["metrics"], &["--enable-feature=native-histograms"]);
        let of_histograms =
            expressions().into_iter().filter(|expression| expression.text.contains("_duration_seconds_bucket"));
        assert_eq!(look(&prometheus, of_histograms.collect()), [""; 0]);
        assert!(prometheus.series("tidewaiter_api_response_duration_seconds_bucket").is_empty());
    });
}

/// Asks for all of `missing` until it has data; answers with what has none after two minutes.
fn look(prometheus: &Prometheus<'_>, mut missing: Vec<Expression>) -> Vec<String> {
    let start = Instant::now();
    while !missing.is_empty() && start.elapsed() < Duration::from_mins(2) {
        missing.retain(|Expression { dashboard, place, text, legend }| {
            let series = prometheus.series(text);
            // A native histogram is drawn as it is.
            for one in series.iter().filter(|one| one["histogram"].is_null()) {
                for label in labels(legend) {
                    assert!(one["metric"][label].is_string(), "{dashboard}: {place}: no {label} in {one}");
                }
            }
            let is_instead = |one: &Value| {
                let labels = one["metric"].to_string();
                INSTEAD.iter().any(|text| labels.contains(&format!("\"{text}\"")))
                    || one["value"][1] == "-1"
                    || one["value"][1] == "NaN"
            };
            series.iter().all(is_instead)
        });
        thread::sleep(Duration::from_millis(200));
    }
    missing
        .into_iter()
        .map(|Expression { dashboard, place, text, .. }| format!("{dashboard}: {place}: {text}"))
        .collect()
}

/// What the overview says now: by column, how many signals of which API are off.
fn in_trouble(prometheus: &Prometheus<'_>) -> BTreeMap<&'static str, BTreeMap<String, u32>> {
    let columns = ["Service", "Network", "Traffic"].into_iter().zip(["A", "B", "C"]);
    let all = expressions();
    let signals = |query| {
        let place = format!("Which API is in trouble? {query}");
        let expression = all.iter().find(|expression| expression.place == place).expect("is there");
        let value = |one: &Value| one["value"][1].as_str().expect("a value").parse().expect("a number");
        prometheus
            .series(&expression.text)
            .iter()
            .map(|one| (text(&one["metric"], "api").to_owned(), value(one)))
            .collect()
    };
    columns.map(|(column, query)| (column, signals(query))).collect()
}
