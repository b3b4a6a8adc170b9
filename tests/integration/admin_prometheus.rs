//! The metrics as parsed by Prometheus and its tools; skipped if they are not installed.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::support::http::{Http, admin_of, get};
use super::support::operations::{free_port, reload, send_signal};
use super::support::{TestLock, lack, secs, try_for, wait_until};

/// Runs a program over `text`; nothing where it is not installed.
fn over(mut command: Command, text: &str) -> Option<(bool, String)> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().ok()?;
    process.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

/// The metrics of a daemon that has seen something, in both forms.
fn both_forms(lock: &TestLock) -> (String, String) {
    let server = lock.start(&["--workers", "2", "--admin", "0"]);
    for _ in 0..10 {
        server.assert_echoes();
    }
    send_signal(server.worker(), Signal::SIGKILL);
    reload(&server);
    let mut http = Http::connect(admin_of(&server));
    let classic = http.get("/metrics").body;
    let mut open = Http::connect(admin_of(&server));
    open.send(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text\r\n\r\n",
    );
    let open = open.reply(false).unwrap().body;
    server.stop();
    (classic, open)
}

#[test]
fn promtool_accepts_the_metrics() {
    let lock = TestLock::shared();
    let (classic, _) = both_forms(&lock);
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]);
    match over(promtool, &classic) {
        None => lack("promtool"),
        Some((good, said)) => assert!(good && said.trim().is_empty(), "{said}\n{classic}"),
    }
}

/// Returns the first Python that has the client: PATH may begin with another than the distribution's.
fn python_with_the_client() -> Option<&'static str> {
    ["python3", "/usr/bin/python3"].into_iter().find(|python| {
        let probe = Command::new(python).args(["-c", "import prometheus_client"]).output();
        probe.is_ok_and(|output| output.status.success())
    })
}

#[test]
fn the_python_client_parses_both_formats() {
    const READ: &str = "\
import sys
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics
parse = (openmetrics if sys.argv[1] == 'open' else parser).text_string_to_metric_families
families = list(parse(sys.stdin.read()))
assert len(families) > 30, len(families)
assert all(family.type != 'unknown' and family.documentation for family in families), families
print('read', sum(len(family.samples) for family in families))
";
    let Some(python) = python_with_the_client() else {
        return lack("the Python package prometheus_client");
    };
    let lock = TestLock::shared();
    let (classic, open) = both_forms(&lock);
    for (form, text) in [("classic", &classic), ("open", &open)] {
        let mut command = Command::new(python);
        command.args(["-c", READ, form]);
        let (good, said) = over(command, text).expect("it has just run");
        assert!(good && said.starts_with("read "), "{form}: {said}\n{text}");
    }
}

/// A Prometheus server that ends with the test.
struct Prometheus {
    process: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target` once a second; nothing where it is not installed.
    fn start(target: SocketAddr) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let (file, data) = (directory.path().join("prometheus.yml"), directory.path().join("data"));
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
             scrape_configs:\n- job_name: echo\n  static_configs:\n  - targets: ['{target}']\n"
        );
        fs::write(&file, text).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .ok()?;
        Some(Self { process, address, directory })
    }

    /// The first value that a query has now.
    fn value(&self, query: &str) -> Option<f64> {
        let mut http = std::net::TcpStream::connect(self.address).ok().map(Http::over)?;
        http.stream.set_read_timeout(Some(secs(10))).unwrap();
        let reply = http.get(&format!("/api/v1/query?query={query}"));
        let answer: Value = serde_json::from_str(&reply.body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }

    #[track_caller]
    fn wait(&self, query: &str, expected: f64) {
        let found = try_for(secs(30), || (self.value(query)? == expected).then_some(()));
        if found.is_none() {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            panic!("{query} is {:?}, not {expected}\n{log}", self.value(query));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

#[test]
fn prometheus_scrapes_the_metrics() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2", "--admin", "0"]);
    let Some(prometheus) = Prometheus::start(admin_of(&server)) else {
        return lack("prometheus");
    };
    prometheus.wait("up", 1.0);
    for _ in 0..10 {
        server.assert_echoes();
    }
    prometheus.wait("sum(tcp_echo_received_bytes_total)", 10_000.0);
    prometheus.wait("sum(tcp_echo_lost_bytes)", 0.0);
    send_signal(server.worker(), Signal::SIGKILL);
    prometheus.wait("sum(tcp_echo_worker_restarts_total)", 1.0);
    reload(&server);
    prometheus.wait("tcp_echo_reloads_total{result=\"done\"}", 1.0);
    prometheus.wait("sum(tcp_echo_received_bytes_total)", 10_000.0);
    prometheus.wait("min_over_time(up[1m])", 1.0);
    wait_until(secs(5), "it is still alive", || get(admin_of(&server), "/healthz").status == 200);
    server.stop();
    prometheus.wait("up", 0.0);
}
