//! TLS and authentication of all that is served over HTTP, with real clients.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test panics for a stack trace")]

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread,
};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tidewaiter_tests::{
    bpf_file_system::BpfFileSystem,
    collector::Certificates,
    command::{Process, output},
    exporter::Exporter,
    namespace::Namespace,
    network::{Network, Offload},
    wait::wait_until,
};

/// Where the server of a [`Network`] is heard by its client.
const REMOTE: &str = "10.77.0.1:9473";
/// Where it is heard by itself.
const LOCAL: &str = "127.0.0.1:9473";

/// What is served over HTTP, and what it takes to be let in.
struct Web {
    network: Network,
    certificates: Certificates,
    /// Nobody is told of these.
    strangers: Certificates,
    directory: TempDir,
}

/// What curl has to say.
#[derive(Debug)]
struct Answer {
    /// Its exit code.
    code: Option<i32>,
    status: u16,
    version: String,
    body: String,
}

impl Web {
    fn new() -> Self {
        let network = Network::new(Offload::Off);
        let directory = tempfile::tempdir().unwrap();
        Self { network, certificates: Certificates::new(), strangers: Certificates::new(), directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("web.config.yml")
    }

    /// Writes the file, in one step as configuration management does it.
    fn configure(&self, contents: &str) {
        let new = self.directory.path().join("new");
        fs::write(&new, contents).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    /// The section that serves TLS, with `more` in it.
    fn tls(&self, more: &str) -> String {
        let [certificate, key] = [self.certificates.certificate("server"), self.certificates.key("server")];
        let [certificate, key] = [certificate, key].map(|path| path.display().to_string());
        format!("tls_server_config:\n  cert_file: {certificate}\n  key_file: {key}\n{more}")
    }

    /// That clients' certificates are asked for as `kind` says.
    fn clients(&self, kind: &str) -> String {
        let authority = self.certificates.authority().display().to_string();
        self.tls(&format!("  client_ca_file: {authority}\n  client_auth_type: {kind}\n"))
    }

    fn start(&self) -> Exporter<'_> {
        let configuration = format!("interfaces = [\"wire\"]\nweb_config = \"{}\"\n", self.path().display());
        Exporter::start_closed(&Arc::new(BpfFileSystem::mount()), &self.network.server, &configuration, |command| {
            command.args(["--listen", "0.0.0.0:9473"]);
        })
    }

    /// Asks from the other host over HTTPS, trusting the server's authority.
    fn ask(&self, path: &str, arguments: &[&str]) -> Answer {
        let authority = self.certificates.authority();
        let trusted = [&["--cacert", authority.to_str().unwrap()], arguments].concat();
        curl(&self.network.client, &format!("https://{REMOTE}{path}"), &trusted)
    }

    /// As [`Web::ask`], showing the certificate called `name` of `certificates`.
    fn show(&self, certificates: &Certificates, name: &str, path: &str) -> Answer {
        let [certificate, key] = [certificates.certificate(name), certificates.key(name)];
        self.ask(path, &["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()])
    }
}

/// Asks for `url` from `namespace`.
fn curl(namespace: &Namespace, url: &str, arguments: &[&str]) -> Answer {
    let mut curl = namespace.command("curl");
    curl.args(["-s", "--max-time", "20", "-w", "\n%{http_code} %{http_version}"]).args(arguments).arg(url);
    let output = curl.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, last) = text.rsplit_once('\n').unwrap();
    let (status, version) = last.split_once(' ').unwrap();
    Answer {
        code: output.status.code(),
        status: status.parse().unwrap(),
        version: version.to_owned(),
        body: body.to_owned(),
    }
}

/// bcrypt of `password`, as people make it.
fn hash(password: &str, cost: u32) -> String {
    let line = output(Command::new("htpasswd").args(["-nbBC", &cost.to_string(), "", password]));
    line.trim().trim_start_matches(':').to_owned()
}

fn users(users: &[(&str, &str)]) -> String {
    let users: Vec<_> = users.iter().map(|(name, password)| format!("  {name}: '{}'\n", hash(password, 5))).collect();
    format!("basic_auth_users:\n{}", users.concat())
}

/// Connections of ten addresses, more of them than are accepted from all together.
fn connect_as_many_clients(namespace: &Namespace) -> Vec<TcpStream> {
    let connect = |number: u8| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 1, 0, number / 20), 0)).into()).unwrap();
        socket.connect(&LOCAL.parse::<SocketAddr>().unwrap().into()).unwrap();
        TcpStream::from(socket)
    };
    namespace.run(|| (0..200).map(connect).collect())
}

#[test]
fn tls_is_served_to_whoever_trusts_the_authority() {
    let web = Web::new();
    web.configure(&web.tls("http_server_config:\n  headers:\n    X-Frame-Options: deny\n"));
    let _exporter = web.start();
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        for more in [&[][..], &["--tlsv1.3"], &["--tls-max", "1.2"]] {
            let answer = web.ask("/metrics", &[&[flag], more].concat());
            assert_eq!((answer.status, &*answer.version), (200, version), "{flag} {more:?}");
            assert!(answer.body.contains("tidewaiter_interface_packets_total{"), "{}", answer.body);
        }
    }
    let answer = web.ask("/healthz", &["-i"]);
    assert!(answer.body.contains("x-frame-options: deny"), "{}", answer.body);

    let strangers = web.strangers.authority();
    let answer = web.ask("/metrics", &["--cacert", strangers.to_str().unwrap()]);
    assert_eq!((answer.code, answer.status), (Some(60), 0), "the client does not believe it");
    let answer = web.ask("/metrics", &["--tls-max", "1.1", "--ciphers", "DEFAULT:@SECLEVEL=0"]);
    assert_eq!((answer.code, answer.status), (Some(35), 0), "old versions are not spoken");
    let answer = curl(&web.network.client, &format!("http://{REMOTE}/metrics"), &[]);
    assert_eq!((answer.status, answer.body.contains("HTTPS")), (400, true), "{answer:?}");

    // Nobody has shown who he is: what names clients is told this host alone.
    assert_eq!(web.ask("/api/v1/apis", &[]).status, 403);
    for flag in ["--http1.1", "--http2"] {
        let authority = web.certificates.authority();
        let arguments = ["--cacert", authority.to_str().unwrap(), flag];
        let url = format!("https://{LOCAL}/api/v1/apis");
        assert_eq!(curl(&web.network.server, &url, &arguments).status, 200, "{flag}");
        let name = ["--resolve", "localhost.example:9473:127.0.0.1", "-k", flag];
        let url = "https://localhost.example:9473/api/v1/apis";
        assert_eq!(curl(&web.network.server, url, &name).status, 403, "{flag}");
    }
}

#[test]
fn versions_cipher_suites_and_protocols_are_those_that_are_wanted() {
    let web = Web::new();
    web.configure(&web.tls("  min_version: TLS13\nhttp_server_config:\n  http2: false\n"));
    let exporter = web.start();
    assert_eq!(web.ask("/metrics", &["--tls-max", "1.2"]).code, Some(35));
    let answer = web.ask("/metrics", &["--http2"]);
    assert_eq!((answer.status, &*answer.version), (200, "1.1"));

    let suite = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    web.configure(&web.tls(&format!("  max_version: TLS12\n  cipher_suites: [{suite}]\n")));
    wait_until("the older version to be spoken", || web.ask("/metrics", &["--tls-max", "1.2"]).status == 200);
    assert_eq!(web.ask("/metrics", &["--tlsv1.3"]).code, Some(35));
    let ciphers = |name| web.ask("/metrics", &["--tls-max", "1.2", "--ciphers", name]);
    assert_eq!(ciphers("ECDHE-ECDSA-AES128-GCM-SHA256").status, 200);
    assert_eq!(ciphers("ECDHE-ECDSA-AES256-GCM-SHA384").code, Some(35));
    assert!(exporter.log().contains("what the files say now is in force"));
}

#[test]
fn clients_are_let_in_by_their_certificates() {
    let web = Web::new();
    let names = ["DNS:scraper.example", "IP:10.9.8.7", "email:ops@example.org", "URI:spiffe://example.org/scraper"];
    for (number, name) in names.iter().enumerate() {
        let extensions =
            ["basicConstraints=CA:FALSE", "extendedKeyUsage=clientAuth", &format!("subjectAltName={name}")];
        web.certificates.make(&format!("named{number}"), &extensions);
    }
    web.configure(&web.clients("RequireAndVerifyClientCert"));
    let exporter = web.start();
    // In TLS 1.3 the server says so only when the client believes that all is well, and has sent its request.
    let is_refused = |answer: Answer| answer.status == 0 && answer.code.is_some_and(|code| code != 0 && code != 28);
    assert!(is_refused(web.ask("/metrics", &[])), "without a certificate");
    assert!(is_refused(web.show(&web.strangers, "client", "/metrics")), "by another authority");
    for path in ["/metrics", "/api/v1/apis", "/healthz"] {
        assert_eq!(web.show(&web.certificates, "client", path).status, 200, "{path}");
    }
    // Of all the handshakes that fail, the log tells little.
    assert_eq!(exporter.log().matches("the TLS handshake failed").count(), 1, "{}", exporter.log());
    drop(exporter);

    let allowed = "  client_allowed_sans: [other.example, scraper.example, 10.9.8.7, ops@example.org, \
                   'spiffe://example.org/scraper']\n";
    for kind in ["RequireAndVerifyClientCert", "RequireAnyClientCert"] {
        web.configure(&(web.clients(kind) + allowed));
        let exporter = web.start();
        assert!(is_refused(web.ask("/metrics", &[])), "without a certificate");
        assert!(is_refused(web.show(&web.certificates, "client", "/metrics")), "without any name");
        assert!(is_refused(web.show(&web.certificates, "server", "/metrics")), "with other names");
        for (number, name) in names.iter().enumerate() {
            let answer = web.show(&web.certificates, &format!("named{number}"), "/metrics");
            assert_eq!(answer.status, 200, "{name}");
        }
        drop(exporter);
    }

    web.configure(&web.clients("VerifyClientCertIfGiven"));
    let exporter = web.start();
    assert!(is_refused(web.show(&web.strangers, "client", "/metrics")));
    assert_eq!([web.ask("/metrics", &[]).status, web.ask("/api/v1/apis", &[]).status], [200, 403]);
    assert_eq!(web.show(&web.certificates, "client", "/api/v1/apis").status, 200);
    drop(exporter);

    // What nobody vouches for says nothing.
    for (kind, without) in [("RequestClientCert", 200), ("RequireAnyClientCert", 0)] {
        web.configure(&web.tls(&format!("  client_auth_type: {kind}\n")));
        let exporter = web.start();
        assert_eq!(web.ask("/metrics", &[]).status, without, "{kind}");
        assert_eq!(web.show(&web.strangers, "client", "/metrics").status, 200, "{kind}");
        assert_eq!(web.show(&web.certificates, "client", "/api/v1/apis").status, 403, "{kind}");
        drop(exporter);
    }
}

#[test]
fn users_are_let_in_by_their_passwords() {
    let web = Web::new();
    web.configure(&users(&[("alice", "secret"), ("bob", "")]));
    let exporter = web.start();
    let ask = |path: &str, arguments: &[&str]| curl(&web.network.client, &format!("http://{REMOTE}{path}"), arguments);
    for path in ["/", "/metrics", "/api/v1/apis", "/api/v1/flows", "/healthz", "/readyz", "/nothing"] {
        for arguments in
            [&[][..], &["-u", "alice:Secret"], &["-u", "carol:secret"], &["-H", "Authorization: Bearer secret"]]
        {
            let answer = ask(path, arguments);
            assert_eq!((answer.status, &*answer.body), (401, ""), "{path} {arguments:?}");
        }
        let status = if path == "/nothing" { 404 } else { 200 };
        assert_eq!(ask(path, &["-u", "alice:secret"]).status, status, "{path}");
        assert_eq!(ask(path, &["-u", "bob:"]).status, status, "{path}");
    }
    let answer = ask("/metrics", &["-i"]);
    assert!(answer.body.to_lowercase().contains("www-authenticate: basic"), "{}", answer.body);
    let log = exporter.log();
    assert_eq!(log.matches("a wrong password").count(), 1, "{log}");
    for secret in ["secret", "Secret", "alice", "carol"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn what_the_files_become_is_in_force_without_a_restart() {
    let web = Web::new();
    let [certificate, key] = ["live.pem", "live.key"].map(|name| web.directory.path().join(name));
    let install = |certificates: &Certificates| {
        fs::copy(certificates.certificate("server"), &certificate).unwrap();
        fs::copy(certificates.key("server"), &key).unwrap();
    };
    install(&web.certificates);
    let section = "tls_server_config:\n  cert_file: live.pem\n  key_file: live.key\n";
    web.configure(&(section.to_owned() + &users(&[("alice", "one")])));
    let exporter = web.start();
    let by = |certificates: &Certificates, user: &str| {
        let authority = certificates.authority();
        web.ask("/metrics", &["--cacert", authority.to_str().unwrap(), "-u", user])
    };
    assert_eq!(by(&web.certificates, "alice:one").status, 200);

    install(&web.strangers);
    wait_until("the new certificate to be shown", || by(&web.strangers, "alice:one").status == 200);
    assert_eq!(by(&web.certificates, "alice:one").code, Some(60));

    web.configure(&(section.to_owned() + &users(&[("bob", "two")])));
    wait_until("the new user to be let in", || by(&web.strangers, "bob:two").status == 200);
    assert_eq!(by(&web.strangers, "alice:one").status, 401);

    // Whatever they become, nobody is let in who was not before.
    fs::copy(web.certificates.key("server"), &key).unwrap();
    wait_until("the wrong key to be told", || {
        assert_eq!(by(&web.strangers, "bob:two").status, 200);
        exporter.log().contains("the key is not that of the certificate")
    });
    install(&web.strangers);
    for bad in ["", "tls_server_config: [", section] {
        web.configure(bad);
        let told = exporter.log().matches("what was in force stays").count();
        wait_until("it to be told", || {
            assert_eq!(by(&web.strangers, "bob:two").status, 200);
            assert_eq!(by(&web.strangers, "bob:one").status, 401);
            exporter.log().matches("what was in force stays").count() > told
        });
    }
    web.configure(&(section.to_owned() + &users(&[("carol", "three")])));
    wait_until("what is good again to be in force", || by(&web.strangers, "carol:three").status == 200);
    assert_eq!(by(&web.strangers, "bob:two").status, 401);
}

#[test]
fn who_holds_connections_keeps_nobody_else_out() {
    let web = Web::new();
    web.configure(&web.tls(""));
    let exporter = web.start();
    // One client has as many as it can get, and says nothing, or begins to and does not go on.
    let mut held: Vec<TcpStream> = web.network.client.run(|| {
        let address: SocketAddr = REMOTE.parse().unwrap();
        (0..200).map(|_| TcpStream::connect(address).unwrap()).collect()
    });
    for stream in held.iter_mut().step_by(2) {
        // Some were closed as too many.
        stream.write_all(&[22, 3, 1, 0, 200, 1, 0]).ok();
    }
    let local = || {
        let authority = web.certificates.authority();
        let arguments = ["--cacert", authority.to_str().unwrap()];
        curl(&web.network.server, &format!("https://{LOCAL}/metrics"), &arguments).status
    };
    assert_eq!(local(), 200, "others are served");
    wait_until("it to be told", || exporter.log().contains("too many connections of one client"));
    let log = exporter.log();
    assert_eq!(log.matches("too many connections of one client").count(), 1, "{log}");
    drop(held);
    wait_until("the client to be served again", || web.ask("/metrics", &[]).status == 200);

    // Many clients have all connections that there are.
    let mut held = connect_as_many_clients(&web.network.server);
    for stream in &mut held {
        stream.write_all(&[22, 3, 1, 0, 200, 1, 0]).ok();
    }
    for _ in 0..3 {
        assert_eq!(web.ask("/metrics", &[]).status, 200, "who asks for something goes first");
    }
}

#[test]
fn requests_that_never_end_keep_nobody_else_out() {
    let web = Web::new();
    web.configure(&users(&[("alice", "secret")]));
    let _exporter = web.start();
    let mut held = connect_as_many_clients(&web.network.server);
    for (number, stream) in held.iter_mut().enumerate() {
        // To have been refused is no better than to have asked for nothing.
        let whole = "GET /metrics HTTP/1.1\r\nHost: exporter\r\n\r\n";
        let request = if number % 2 == 0 { &whole[..30] } else { whole };
        stream.write_all(request.as_bytes()).ok();
    }
    for _ in 0..3 {
        let url = format!("http://{REMOTE}/metrics");
        assert_eq!(curl(&web.network.client, &url, &["-u", "alice:secret"]).status, 200);
    }
}

#[test]
fn who_tries_passwords_keeps_nobody_else_out() {
    let web = Web::new();
    web.configure(&format!("basic_auth_users:\n  alice: '{}'\n", hash("secret", 8)));
    let exporter = web.start();
    let ask = |namespace: &Namespace, address: &str, user: &str| {
        curl(namespace, &format!("http://{address}/metrics"), &["-u", user]).status
    };
    assert_eq!(ask(&web.network.server, LOCAL, "alice:secret"), 200);
    let tried: Vec<u16> = thread::scope(|scope| {
        let tries: Vec<_> = (0..12)
            .map(|number| {
                let ask = &ask;
                let web = &web;
                scope.spawn(move || ask(&web.network.client, REMOTE, &format!("alice:{number}")))
            })
            .collect();
        for _ in 0..5 {
            assert_eq!(ask(&web.network.server, LOCAL, "alice:secret"), 200, "who is known does not wait");
        }
        // Who is not waits for those before him alone.
        assert_eq!(ask(&web.network.server, LOCAL, "alice:wrong"), 401);
        tries.into_iter().map(|tried| tried.join().unwrap()).collect()
    });
    assert!(tried.iter().all(|status| [401, 503].contains(status)), "{tried:?}");
    assert!(tried.contains(&401), "{tried:?}");
    let log = exporter.log();
    assert_eq!(log.matches("a wrong password").count(), 1, "{log}");
}

#[test]
fn prometheus_scrapes_over_tls_with_a_password() {
    let web = Web::new();
    web.configure(&(web.tls("") + &users(&[("prometheus", "secret")])));
    let _exporter = web.start();
    let directory = web.directory.path();
    let authority = web.certificates.authority();
    let scrape = |password: &str| {
        format!(
            "{{ job_name: '{password}', scheme: https, tls_config: {{ ca_file: {} }}, basic_auth: {{ username: prometheus, \
             password: '{password}' }}, static_configs: [{{ targets: ['{REMOTE}'] }}] }}",
            authority.display()
        )
    };
    let configuration =
        format!("global: {{ scrape_interval: 1s }}\nscrape_configs: [{}, {}]\n", scrape("secret"), scrape("wrong"));
    fs::write(directory.join("prometheus.yml"), configuration).unwrap();
    let mut prometheus = web.network.client.command("prometheus");
    prometheus.arg(format!("--config.file={}", directory.join("prometheus.yml").display()));
    prometheus.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
    let _prometheus = Process::start(prometheus.args(["--web.listen-address=127.0.0.1:9090", "--log.level=warn"]));
    let up = |job: &str| {
        let query = format!("http://127.0.0.1:9090/api/v1/query?query=up%7Bjob%3D%22{job}%22%7D");
        let answer = curl(&web.network.client, &query, &[]);
        let answer: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str().map(str::to_owned)
    };
    wait_until("Prometheus to have scraped", || up("secret").as_deref() == Some("1"));
    wait_until("Prometheus to have been refused", || up("wrong").as_deref() == Some("0"));
}
