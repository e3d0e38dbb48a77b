//! Real servers, from Debian's packages, each in a namespace and with all its files in a folder of its own.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    client::{find, redis_answer},
    command::{Process, output},
    corpus::say,
    namespace::Namespace,
    wait::{wait_for, wait_until},
};

/// Where servers are that users do not call by name.
const SYSTEM_PATHS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Whether all `programs` are installed. If not, that is said, where it is seen, and the test has nothing to do.
#[must_use]
pub fn are_installed(programs: &[&str]) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = std::env::split_paths(&paths).chain(SYSTEM_PATHS.map(PathBuf::from)).collect();
    let is_missing = |program: &&&str| match **program {
        "postgres" => postgresql().is_none(),
        program => !folders.iter().any(|folder| folder.join(program).is_file()),
    };
    let missing: Vec<_> = programs.iter().filter(is_missing).copied().collect();
    if missing.is_empty() {
        return true;
    }
    say(&format!("SKIP: not installed: {}", missing.join(", ")));
    false
}

/// The folder of the newest `PostgreSQL`'s programs: its server's are on nobody's path.
fn postgresql() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    let version = |folder: &PathBuf| folder.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    versions.filter(|folder| folder.join("postgres").is_file()).max_by_key(version)
}

/// A folder that every user may look into.
pub(crate) fn open_directory() -> TempDir {
    let directory = tempfile::tempdir_in("/tmp").expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("is ours");
    directory
}

/// Waits until somebody listens on `port` of `namespace`.
pub fn wait_until_heard(namespace: &Namespace, port: u16) {
    let end = format!(":{port} ");
    wait_until("a server to listen", || output(namespace.command("ss").arg("-Hlnt")).contains(&end));
}

/// nginx, on port 80, with TLS on port 443. It is ended when this is dropped.
///
/// Files are in `www`, and can be put there and deleted; `/slow/N` is answered after N milliseconds by a server behind it;
/// `/code/N` is answered with that status.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
    directory: TempDir,
}

impl Nginx {
    /// Starts it.
    #[must_use]
    pub fn start(namespace: &Namespace) -> Self {
        let directory = open_directory();
        let path = directory.path();
        fs::create_dir(path.join("www")).expect("is ours");
        let backend = UnixListener::bind(path.join("backend")).expect("is ours");
        thread::spawn(move || {
            for client in backend.incoming().map_while(Result::ok) {
                thread::spawn(|| late(client));
            }
        });
        let subject = ["-subj", "/CN=orders.example", "-days", "2"];
        let mut certificate = Command::new("openssl");
        certificate
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(subject);
        output(certificate.arg("-keyout").arg(path.join("key")).arg("-out").arg(path.join("certificate")));
        fs::write(path.join("nginx.conf"), Self::configuration(path)).expect("is ours");
        let mut command = namespace.command("nginx");
        command.arg("-p").arg(path).arg("-c").arg(path.join("nginx.conf"));
        let process = Process::start(&mut command);
        wait_until_heard(namespace, 80);
        Self { _process: process, directory }
    }

    fn configuration(path: &Path) -> String {
        let path = path.display();
        let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let folders: String = folders.map(|name| format!("{name}_temp_path {path}/{name};\n")).concat();
        let codes: String = [200, 204, 301, 400, 403, 404, 405, 413, 500]
            .map(|code| match code {
                301 => "location = /code/301 { return 301 /elsewhere; }\n".to_owned(),
                code => format!("location = /code/{code} {{ return {code}; }}\n"),
            })
            .concat();
        format!(
            "daemon off; user root; worker_processes 2; pid {path}/pid; error_log {path}/error crit;
             events {{ worker_connections 512; }}
             http {{
                 log_format plain '$request_method $status $connection'; access_log {path}/access plain;
                 {folders}
                 keepalive_requests 100000; client_max_body_size 20m;
                 server {{
                     listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;
                     ssl_certificate {path}/certificate; ssl_certificate_key {path}/key;
                     root {path}/www;
                     location / {{ dav_methods PUT DELETE; create_full_put_path on; }}
                     location /little {{ client_max_body_size 1k; }}
                     location /slow/ {{ proxy_pass http://unix:{path}/backend:/; }}
                     location /gone {{ proxy_pass http://unix:{path}/nobody:/; }}
                     location = /code/anything {{ if ($request_method = OPTIONS) {{ return 204; }} return 200 hello; }}
                     {codes}
                 }}
             }}"
        )
    }

    /// Where the files are that it serves.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.directory.path().join("www")
    }

    /// What it has logged: the method and the status of each request, and the number of its connection, in the order in which
    /// they ended. There must be `count` of them.
    #[must_use]
    pub fn log(&self, count: usize) -> Vec<[String; 3]> {
        wait_for("all requests to be logged", || {
            let log = fs::read_to_string(self.directory.path().join("access")).unwrap_or_default();
            let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>().try_into().ok();
            // The last line may be written to.
            let lines: Vec<_> = log.split_inclusive('\n').filter_map(|line| fields(line.strip_suffix('\n')?)).collect();
            assert!(lines.len() <= count, "{} requests were logged, {count} were made", lines.len());
            (lines.len() == count).then_some(lines)
        })
    }
}

/// Answers one request, after as many milliseconds as its path says.
fn late(mut client: UnixStream) {
    let mut request = Vec::new();
    let mut some = [0; 4096];
    while find(&request, b"\r\n\r\n").is_none() {
        match client.read(&mut some) {
            Ok(length @ 1..) => request.extend(&some[..length]),
            _ => return,
        }
    }
    let line = String::from_utf8_lossy(&request).into_owned();
    let path = line.split(' ').nth(1).unwrap_or_default();
    thread::sleep(Duration::from_millis(path.trim_start_matches('/').parse().unwrap_or_default()));
    // nginx may still be sending a body, which nobody wants.
    client.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nlate\n").ok();
    while matches!(client.read(&mut some), Ok(1..)) {}
}

/// Redis, on port 6379. It is ended when this is dropped.
#[derive(Debug)]
pub struct Redis {
    _process: Process,
    directory: TempDir,
}

impl Redis {
    /// Starts it.
    #[must_use]
    pub fn start(namespace: &Namespace) -> Self {
        let directory = open_directory();
        let path = directory.path();
        let mut command = namespace.command("redis-server");
        command.args(["--port", "6379", "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--loglevel"]);
        command.args(["warning", "--enable-debug-command", "yes", "--unixsocket"]).arg(path.join("socket"));
        command.arg("--dir").arg(path).stdout(Stdio::null());
        let process = Process::start(&mut command);
        wait_until("Redis to listen", || UnixStream::connect(path.join("socket")).is_ok());
        Self { _process: process, directory }
    }

    /// How many commands and connections there were, as it says itself; asked by a way that passes no interface.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let mut stream = UnixStream::connect(self.directory.path().join("socket")).expect("is heard");
        stream.write_all(b"INFO stats\r\n").expect("is heard");
        let (mut answer, mut some) = (Vec::new(), [0; 4096]);
        while redis_answer(&answer).is_none() {
            let length = stream.read(&mut some).expect("an answer");
            answer.extend(&some[..length]);
        }
        let text = String::from_utf8(answer).expect("is text");
        let count = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.strip_prefix(':')?.parse().ok()).expect("is there")
        };
        (count("total_commands_processed"), count("total_connections_received"))
    }
}

/// `PostgreSQL`, on port 5432, for the user "postgres" without a password. It is ended when this is dropped.
#[derive(Debug)]
pub struct Postgres {
    _process: Process,
    directory: TempDir,
}

impl Postgres {
    /// Starts it.
    ///
    /// # Panics
    /// If it is not installed.
    #[must_use]
    pub fn start(namespace: &Namespace) -> Self {
        let directory = open_directory();
        let (path, programs) = (directory.path(), postgresql().expect("is installed"));
        output(Command::new("chown").arg("postgres").arg(path));
        let data = path.join("data");
        // It refuses to run as root.
        let as_postgres = ["--reuid=postgres", "--regid=postgres", "--clear-groups"];
        let mut make = Command::new("setpriv");
        make.args(as_postgres).arg(programs.join("initdb")).args(["-A", "trust", "-U", "postgres", "-N"]);
        output(make.args(["--locale=C", "-E", "UTF8", "-D"]).arg(&data).current_dir(path));
        fs::write(data.join("pg_hba.conf"), "local all all trust\nhost all all all trust\n").expect("is root");
        let log = fs::File::create(path.join("log")).expect("is root");
        let mut command = namespace.command("setpriv");
        command.args(as_postgres).arg(programs.join("postgres")).arg("-D").arg(&data).arg("-k").arg(path);
        for setting in [
            "listen_addresses=*",
            "fsync=off",
            "autovacuum=off",
            "shared_buffers=16MB",
            "log_statement=all",
            "log_connections=on",
            "log_line_prefix=",
        ] {
            command.args(["-c", setting]);
        }
        let process = Process::start(command.current_dir(path).stderr(log));
        let postgres = Self { _process: process, directory };
        wait_until("PostgreSQL to listen", || postgres.says("ready to accept connections") > 0);
        postgres
    }

    /// How many lines of its log have `words`.
    #[must_use]
    pub fn says(&self, words: &str) -> usize {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(words)).count()
    }
}

/// OpenSSH's server, on port 22; nobody can log in. It is ended when this is dropped.
#[derive(Debug)]
pub struct Ssh {
    _process: Process,
    _directory: TempDir,
}

impl Ssh {
    /// Starts it.
    #[must_use]
    pub fn start(namespace: &Namespace) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let key = directory.path().join("key");
        output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
        let settings = format!("HostKey {}\nPidFile none\nUsePAM no\nMaxStartups 100\n", key.display());
        let file = directory.path().join("sshd_config");
        fs::write(&file, settings).expect("is ours");
        let mut command = namespace.command("unshare");
        // It wants a folder that only its service makes: /run is one of its own.
        let start = "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -D -f \"$0\"";
        let process = Process::start(command.args(["--mount", "sh", "-c", start]).arg(&file));
        wait_until_heard(namespace, 22);
        Self { _process: process, _directory: directory }
    }
}
