//! `web.config.yml`: what each mistake is told as, and that promtool of Prometheus takes what is taken here.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests panic for a stack trace")]

mod check;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    sync::OnceLock,
};

use tempfile::TempDir;
use tidewaiter::config::web::{WebConfig, clients::ClientAuth, files::Files};

use self::check::{NONE, check};

/// bcrypt of "secret", cost 4.
const HASH: &str = "$2y$04$r0Ok.QGEUP3MRcWiv7M5g.zgakLdrM4mf8XGVEevBQ6phPOrEghvG";

/// A folder with a certificate `cert.pem`, its key `key.pem`, and another key.
struct Folder(TempDir);

impl Folder {
    /// One that all tests share, because keys take time.
    fn shared() -> &'static Self {
        static FOLDER: OnceLock<Folder> = OnceLock::new();
        FOLDER.get_or_init(|| {
            let folder = Self(tempfile::tempdir().unwrap());
            for (certificate, key) in [("cert.pem", "key.pem"), ("other.pem", "other-key.pem")] {
                let mut openssl = Command::new("openssl");
                openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
                openssl.args(["-config", "/dev/null", "-subj", "/CN=test", "-days", "2"]);
                openssl.args(["-addext", "basicConstraints=CA:TRUE"]);
                openssl.arg("-out").arg(folder.path(certificate)).arg("-keyout").arg(folder.path(key));
                assert!(openssl.output().unwrap().status.success());
            }
            fs::write(folder.path("empty.pem"), "nothing\n").unwrap();
            folder
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Reads `contents` as a file in the folder, which is called FOLDER in what it answers with.
fn read(contents: &str) -> Result<WebConfig, String> {
    let folder = Folder::shared();
    let file = tempfile::Builder::new().suffix(".yml").tempfile_in(folder.0.path()).unwrap();
    fs::write(file.path(), contents).unwrap();
    WebConfig::read(file.path(), &mut Files::default()).map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        let problems = problems.join("\n").replace(&file.path().display().to_string(), "FILE");
        problems.replace(&folder.0.path().display().to_string(), "FOLDER")
    })
}

/// Whether `promtool check web-config` takes `contents`.
fn promtool(contents: &str) -> Result<(), String> {
    let file = tempfile::Builder::new().suffix(".yml").tempfile_in(Folder::shared().0.path()).unwrap();
    fs::write(file.path(), contents).unwrap();
    let Output { status, stderr, stdout } =
        Command::new("promtool").args(["check", "web-config"]).arg(file.path()).output().unwrap();
    let said = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    if status.success() { Ok(()) } else { Err(said) }
}

const TLS: &str = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";

/// A file with TLS, and `more` in its section.
fn tls(more: &str) -> String {
    format!("{TLS}  {more}\n")
}

#[test]
fn what_is_taken_is_what_promtool_takes() {
    let inline = |name: &str| fs::read_to_string(Folder::shared().path(name)).unwrap().replace('\n', "\n    ");
    let inline = format!(
        "tls_server_config:\n  cert: |\n    {}\n  key: |\n    {}\n  client_ca: |\n    {}\n  client_auth_type: \
         RequireAndVerifyClientCert\n",
        inline("cert.pem"),
        inline("key.pem"),
        inline("other.pem")
    );
    let authority = |kind: &str| tls(&format!("client_ca_file: other.pem\n  client_auth_type: {kind}"));
    let users = format!("basic_auth_users:\n  alice: {HASH}\n  \"bob smith\": '{HASH}'\n");
    for (contents, described) in [
        (String::new(), "without TLS, no passwords"),
        ("{}".to_owned(), "without TLS, no passwords"),
        ("tls_server_config: {}\nbasic_auth_users:\nhttp_server_config:\n".to_owned(), "without TLS, no passwords"),
        (TLS.to_owned(), "TLS 1.2 to 1.3, HTTP/2, NoClientCert, no passwords"),
        (tls("client_auth_type: NoClientCert"), "TLS 1.2 to 1.3, HTTP/2, NoClientCert, no passwords"),
        (tls("client_auth_type: RequestClientCert"), "TLS 1.2 to 1.3, HTTP/2, RequestClientCert, no passwords"),
        (tls("client_auth_type: RequireAnyClientCert"), "TLS 1.2 to 1.3, HTTP/2, RequireAnyClientCert, no passwords"),
        (tls("client_auth_type: RequireClientCert"), "TLS 1.2 to 1.3, HTTP/2, RequireAnyClientCert, no passwords"),
        (authority("VerifyClientCertIfGiven"), "TLS 1.2 to 1.3, HTTP/2, VerifyClientCertIfGiven, no passwords"),
        (inline, "TLS 1.2 to 1.3, HTTP/2, RequireAndVerifyClientCert, no passwords"),
        (
            authority("RequireAndVerifyClientCert\n  client_allowed_sans: [a.example, 10.0.0.1]"),
            "TLS 1.2 to 1.3, HTTP/2, RequireAndVerifyClientCert of certain names, no passwords",
        ),
        (tls("min_version: TLS13"), "TLS 1.3, HTTP/2, NoClientCert, no passwords"),
        (tls("min_version: TLS12\n  max_version: TLS12"), "TLS 1.2, HTTP/2, NoClientCert, no passwords"),
        (
            tls("cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]\n  \
                 prefer_server_cipher_suites: false\n  curve_preferences: [X25519, CurveP256, CurveP384]"),
            "TLS 1.2 to 1.3, HTTP/2, NoClientCert, no passwords",
        ),
        (format!("{TLS}http_server_config:\n  http2: false\n"), "TLS 1.2 to 1.3, NoClientCert, no passwords"),
        (users.clone(), "without TLS, 2 users"),
        (format!("{TLS}{users}"), "TLS 1.2 to 1.3, HTTP/2, NoClientCert, 2 users"),
        (
            "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-Content-Type-Options: nosniff\n    \
             Strict-Transport-Security: max-age=31536000\n"
                .to_owned(),
            "without TLS, no passwords, headers strict-transport-security, x-content-type-options, x-frame-options",
        ),
    ] {
        let mut config = read(&contents).unwrap_or_else(|problems| panic!("{contents}\n{problems}"));
        // That of Debian 12 does not know the newest keys yet, and says so by no other word.
        let taken = promtool(&contents);
        let is_newer = ["  cert: ", "client_allowed_sans"].iter().any(|key| contents.contains(key));
        let is_unknown = |said: &String| is_newer && said.contains("not found in type");
        assert!(taken.is_ok() || taken.as_ref().is_err_and(is_unknown), "{contents}\n{taken:?}");
        let headers = std::mem::take(&mut config.headers);
        let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
        names.sort_unstable();
        let names = if names.is_empty() { String::new() } else { format!(", headers {}", names.join(", ")) };
        assert_eq!(config.describe() + &names, described, "{contents}");
    }
    // Of what the promtool of Debian 12 does not know yet.
    let limited = read("rate_limit:\n  interval: 100ms\n  burst: 5\n").unwrap();
    assert_eq!(limited.describe(), "without TLS, no passwords, a request every 100ms, 5 at once");
    assert_eq!(read("rate_limit:\n  interval: 0\n").unwrap().rate_limit, None);
}

#[test]
fn what_cannot_be_kept_is_refused_by_name_and_line() {
    for (contents, expected) in [
        (
            "tls_server_confi: {}\n",
            "FILE:1: unknown key \"tls_server_confi\", expected one of tls_server_config, http_server_config, basic_auth_users, rate_limit",
        ),
        ("\nhttp_server_config:\n  http3: true\n", "FILE:3: unknown key \"http3\", expected one of http2, headers"),
        (
            "http_server_config:\n  headers:\n    Server: mine\n",
            "FILE:3: http_server_config.headers.Server: this header cannot be set, expected one of Content-Security-Policy, Strict-Transport-Security, X-Content-Type-Options, X-Frame-Options, X-XSS-Protection",
        ),
        (
            "http_server_config:\n  headers:\n    X-Frame-Options: allow\n",
            "FILE:3: http_server_config.headers.X-Frame-Options: found \"allow\", expected deny or sameorigin",
        ),
        (
            "basic_auth_users:\n  alice: secret\n",
            "FILE:2: basic_auth_users.alice: found no bcrypt hash, expected one such as htpasswd -nBC 10 \"\" prints: $2y$10$…",
        ),
        (
            "basic_auth_users:\n  alice: $2y$31$r0Ok.QGEUP3MRcWiv7M5g.zgakLdrM4mf8XGVEevBQ6phPOrEghvG\n",
            "FILE:2: basic_auth_users.alice: found a hash of cost 31, expected 4 to 16",
        ),
        (
            "basic_auth_users:\n  \"a:b\": $2y$04$r0Ok.QGEUP3MRcWiv7M5g.zgakLdrM4mf8XGVEevBQ6phPOrEghvG\n",
            "FILE:2: basic_auth_users.a:b: found a colon or a control character in the name, expected none (RFC 7617 section 2)",
        ),
        (
            "rate_limit:\n  interval: often\n",
            "FILE:2: rate_limit.interval: found \"often\", expected a time such as 100ms or 1s, or 0 for no limit",
        ),
        (
            "rate_limit:\n  interval: 1s\n  burst: 0\n",
            "FILE:3: rate_limit.burst: found 0, expected at least 1: no request would be answered",
        ),
        (
            "tls_server_config:\n  min_version: TLS12\n",
            "FILE:2: tls_server_config: found no cert_file, expected one: TLS needs a certificate and its key\nFILE:2: tls_server_config: found no key_file, expected one: TLS needs a certificate and its key",
        ),
        (
            "tls_server_config:\n  cert_file: nowhere.pem\n  key_file: key.pem\n",
            "FILE:2: tls_server_config.cert_file: cannot read FOLDER/nowhere.pem: No such file or directory (os error 2)",
        ),
        (
            "tls_server_config:\n  cert_file: empty.pem\n  key_file: empty.pem\n",
            "FILE:2: tls_server_config.cert_file: found no certificate in it, expected at least one, as PEM\nFILE:3: tls_server_config.key_file: found no private key in it, expected one as PEM, not encrypted",
        ),
        (
            "tls_server_config:\n  cert_file: cert.pem\n  cert: x\n  key_file: key.pem\n",
            "FILE:2: tls_server_config.cert_file: found cert too, expected one of them",
        ),
        (
            "tls_server_config:\n  cert_file: cert.pem\n  key_file: other-key.pem\n",
            "FILE:2: tls_server_config: the key is not that of the certificate",
        ),
    ] {
        assert_eq!(read(contents).err().as_deref(), Some(expected), "{contents}");
    }
}

#[test]
fn what_tls_cannot_be_is_refused_by_name_and_line() {
    for (more, expected) in [
        (
            "min_version: TLS10",
            "FILE:4: tls_server_config.min_version: found \"TLS10\", expected TLS12 or TLS13; older versions are not spoken, because they are not secure (RFC 8996)",
        ),
        (
            "max_version: TLS11",
            "FILE:4: tls_server_config.max_version: found \"TLS11\", expected TLS12 or TLS13; older versions are not spoken, because they are not secure (RFC 8996)",
        ),
        ("min_version: '1.2'", "FILE:4: tls_server_config.min_version: found \"1.2\", expected TLS12 or TLS13"),
        (
            "min_version: TLS13\n  max_version: TLS12",
            "FILE:4: tls_server_config.min_version: found TLS13, expected nothing above max_version",
        ),
        (
            "cipher_suites:\n  - TLS_AES_128_GCM_SHA256\n  - TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
            "FILE:6: tls_server_config.cipher_suites: found \"TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA\", expected some of TLS_AES_256_GCM_SHA384, TLS_AES_128_GCM_SHA256, TLS_CHACHA20_POLY1305_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        ),
        (
            "cipher_suites: [TLS_AES_128_GCM_SHA256]\n  max_version: TLS12",
            "FILE:4: tls_server_config.cipher_suites: found none of TLS 1.2, expected at least one, because max_version is TLS12",
        ),
        (
            "curve_preferences: [CurveP521]",
            "FILE:4: tls_server_config.curve_preferences: found \"CurveP521\", expected some of X25519, CurveP256, CurveP384",
        ),
        (
            "client_auth_type: Sometimes",
            "FILE:4: tls_server_config.client_auth_type: found \"Sometimes\", expected one of NoClientCert, RequestClientCert, RequireAnyClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert",
        ),
        (
            "client_auth_type: RequireAndVerifyClientCert",
            "FILE:4: tls_server_config.client_auth_type: found RequireAndVerifyClientCert without client_ca_file, expected one: it says whom to believe",
        ),
        (
            "client_ca_file: other.pem",
            "FILE:2: tls_server_config.client_auth_type: found an authority for clients, but none are asked for certificates: expected RequireAndVerifyClientCert, or no client_ca_file",
        ),
        (
            "client_ca_file: empty.pem\n  client_auth_type: RequireAndVerifyClientCert",
            "FILE:4: tls_server_config.client_ca_file: found no certificate in it, expected at least one, as PEM",
        ),
        (
            "client_allowed_sans: [a]\n  client_auth_type: RequestClientCert",
            "FILE:4: tls_server_config.client_allowed_sans: found names, but client_auth_type is RequestClientCert: expected RequireAndVerifyClientCert or RequireAnyClientCert, which let nobody in without a certificate",
        ),
        (
            "client_allowed_sans: []\n  client_auth_type: RequireAnyClientCert",
            "FILE:4: tls_server_config.client_allowed_sans: found an empty list, expected at least one name: nobody has none",
        ),
    ] {
        assert_eq!(read(&tls(more)).err().as_deref(), Some(expected), "{more}");
    }
}

#[test]
fn what_is_no_such_file_at_all_is_refused_without_showing_what_is_in_it() {
    for contents in
        ["basic_auth_users: [top-secret]\n", "basic_auth_users: top-secret\n", "x: [", "a: 1\na: 2\n", "top-secret"]
    {
        let problem = read(contents).unwrap_err();
        assert!(problem.starts_with("FILE") && !problem.contains("top-secret"), "{problem}");
    }
    let twice = format!("basic_auth_users:\n  alice: {HASH}\n  alice: {HASH}\n");
    assert_eq!(read(&twice).unwrap_err(), "FILE:3: the key \"alice\" is there twice");
    let shown = format!("{:?}", read(&format!("basic_auth_users:\n  alice: {HASH}\n")).unwrap());
    assert!(shown.contains("alice") && !shown.contains("$2y"), "{shown}");
}

#[test]
fn less_is_asked_for_by_a_restart_alone() {
    let authority = |kind: &str| read(&tls(&format!("client_ca_file: other.pem\n  client_auth_type: {kind}"))).unwrap();
    let verified = authority("RequireAndVerifyClientCert");
    let named = authority("RequireAndVerifyClientCert\n  client_allowed_sans: [a]");
    let users = read(&format!("basic_auth_users:\n  alice: {HASH}\n")).unwrap();
    let (encrypted, nothing) = (read(TLS).unwrap(), read("").unwrap());
    assert_eq!(verified.tls.as_ref().unwrap().clients, ClientAuth::RequireAndVerifyClientCert);
    for (before, now, expected) in [
        (&nothing, &users, Ok(())),
        (&users, &users, Ok(())),
        (&encrypted, &verified, Ok(())),
        (&verified, &named, Ok(())),
        (&users, &nothing, Err("to ask for no password any more takes a restart")),
        (&encrypted, &nothing, Err("TLS is turned on and off by a restart alone")),
        (&nothing, &encrypted, Err("TLS is turned on and off by a restart alone")),
        (&verified, &encrypted, Err("to ask less of clients' certificates takes a restart")),
        (&verified, &authority("VerifyClientCertIfGiven"), Err("to ask less of clients' certificates takes a restart")),
        (&named, &verified, Err("to let in clients of any name takes a restart")),
    ] {
        assert_eq!(now.replaces(before), expected, "{} after {}", now.describe(), before.describe());
    }
}

#[test]
fn check_looks_at_it_too() {
    let folder = Folder::shared();
    let path = folder.path("checked.yml");
    fs::write(&path, format!("{TLS}basic_auth_users:\n  alice: {HASH}\n")).unwrap();
    let token = folder.path("token");
    fs::write(&token, "0123456789abcdef").unwrap();
    let path = path.to_str().unwrap();
    let variables = [("PATH", "/usr/bin"), ("TIDEWAITER_API_TOKEN_FILE", token.to_str().unwrap())];
    for flag in ["--web.config.file", "--web-config"] {
        let checked = check("", &variables[..1], &[flag, path]);
        assert_eq!(checked.code, Some(0), "{}", checked.stderr);
        let expected = format!("http        TLS 1.2 to 1.3, HTTP/2, NoClientCert, 1 user ({path})\n");
        assert!(checked.stdout.contains(&expected), "{}", checked.stdout);
    }
    let checked = check("web_config = \"/nowhere.yml\"", &variables[..1], &[]);
    assert_eq!(checked.code, Some(78));
    assert_eq!(checked.stderr, "tidewaiter: /nowhere.yml: cannot read it: No such file or directory (os error 2)\n");
    let checked = check("web_config = \"\"", NONE, &[]);
    assert_eq!(
        (checked.code, &*checked.stderr),
        (Some(78), "tidewaiter: FILE:1: web_config: found \"\", expected the path of a file\n")
    );
    let checked = check("", &variables, &[]);
    assert_eq!(checked.code, Some(78), "everybody may read it");
    assert!(checked.stderr.contains("(mode 644): chmod 600 "), "{}", checked.stderr);
}
