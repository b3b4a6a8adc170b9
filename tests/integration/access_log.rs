//! The access log: fields, modes, reloads, and files that cannot be written.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use super::support::operations::{refused_reload, reload, wait_for_workers};
use super::support::{SOON, Server, TestLock, ms, stats, wait_for, wait_until};

/// A folder for the file, and its path.
fn temporary_log() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log").to_str().unwrap().to_owned();
    (folder, path)
}

fn read(path: &str) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[track_caller]
fn wait_for_lines(path: &str, count: usize) -> Vec<String> {
    wait_for(SOON, &format!("{count} lines in {path}"), || {
        let lines = read(path);
        (lines.len() >= count).then_some(lines)
    })
}

fn dropped(server: &Server) -> u64 {
    stats(server)["log_lines_dropped"].as_u64().unwrap()
}

const TROUBLE: &str = "access log write failed, ";
const AGAIN: &str = "access log recovered ";

#[test]
fn text_and_json_lines_have_all_fields() {
    let lock = TestLock::shared();
    let (_folder, path) = temporary_log();
    let args = ["--workers", "1", "--access-log", "all", "--access-log-file", &path];
    let server = lock.start(&args);
    let mut client = server.connect();
    let peer = client.stream().local_addr().unwrap();
    client.echo(100);
    client.finish();
    drop(server.connect());
    server.assert_echoes();
    let lines = wait_for_lines(&path, 2);
    let (local, worker) = (server.address(), server.worker());
    let mark =
        format!("INFO  worker-1[{worker}]: connection ended slot=1 peer={peer} local={local}");
    assert!(lines[0].contains(&mark), "{lines:?}");
    assert!(lines[0].ends_with(" received=100 sent=100 reason=client_fin"), "{lines:?}");
    assert!(lines[1].ends_with(" received=1000 sent=1000 reason=client_fin"), "no empty ones");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o027, 0, "at most 0640");
    server.stop();

    let args = ["--workers", "1", "--access-log", "all", "--log-format", "json", "--log-empty"];
    let server = lock.start(&args);
    drop(server.connect());
    server.assert_echoes();
    let line = server.log.wait_for(SOON, r#""received":1000"#);
    let line: Value = serde_json::from_str(&line.text).expect("JSON");
    assert_eq!((&line["role"], &line["slot"]), (&"worker-1".into(), &1.into()));
    assert_eq!((&line["sent"], &line["reason"]), (&1000.into(), &"client_fin".into()));
    assert_eq!(line["local"], server.address().to_string());
    assert!(line["duration_ms"].as_f64().is_some() && line["timestamp"].is_string(), "{line}");
    wait_until(SOON, "the empty one, too", || server.log.count(r#""received":0"#) == 1);
    server.stop();
}

#[test]
fn errors_mode_logs_failed_connections_only() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--access-log", "errors", "--idle-timeout", "1s"];
    let server = lock.launch(&args).arg("--write-timeout").arg("1s").start();
    (0..5).for_each(|_| server.assert_echoes());
    let (mut reset, mut idle, mut stalled) = (server.connect(), server.connect(), server.connect());
    reset.echo(7);
    reset.reset();
    idle.echo(8);
    stalled.send_until_stalled(ms(200), 64 << 20);
    idle.expect_fin();
    server.log.wait_for(SOON, "reason=write_timeout");
    let lines = server.log.with("connection ended");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].has(" received=7 sent=7 reason=reset"), "{lines:?}");
    server.stop();
}

#[test]
fn an_unwritable_file_is_rejected_at_startup_and_at_reload() {
    let lock = TestLock::shared();
    let (folder, path) = temporary_log();
    for bad in [folder.path().to_str().unwrap(), &format!("{path}/beyond")] {
        let args = ["--port", "0", "--access-log", "all", "--access-log-file", bad];
        lock.launch(&args).run().assert_one_line(1, &["--access-log-file", bad]);
    }
    let args = ["--workers", "1", "--access-log", "all", "--access-log-file", &path];
    let server = lock.start(&args);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let line = refused_reload(&server);
    assert!(line.has("--access-log-file") && line.has(&path), "{line:?}");
    server.assert_echoes();
    fs::remove_dir(&path).unwrap();
    reload(&server);
    server.assert_echoes();
    wait_for_lines(&path, 1);
    server.stop();
}

#[test]
fn draining_workers_write_to_the_new_file_after_a_reload() {
    let lock = TestLock::shared();
    let (folder, path) = temporary_log();
    let args = ["--workers", "2", "--access-log", "all", "--access-log-file", &path];
    let server = lock.start(&args);
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| _ = client.echo(100));
    server.assert_echoes();
    wait_for_lines(&path, 1);
    let rotated = folder.path().join("access.log.1");
    fs::rename(&path, &rotated).unwrap();
    reload(&server);
    clients.into_iter().for_each(super::support::Client::finish);
    wait_for_workers(&server, 2);
    assert_eq!(read(&path).len(), 10, "old workers");
    assert_eq!(read(rotated.to_str().unwrap()).len(), 1);
    server.assert_echoes();
    wait_for_lines(&path, 11);
    server.stop();
}

#[test]
fn a_full_disk_and_a_removed_directory_lose_only_lines() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--access-log", "all", "--access-log-file"];
    let server = lock.launch(&args).arg("/dev/full").start();
    (0..20).for_each(|_| server.assert_echoes());
    wait_until(SOON, "they are counted", || dropped(&server) == 20);
    assert_eq!(server.log.count(TROUBLE), 1, "said once");
    assert!(server.log.wait_for(SOON, TROUBLE).has("path=/dev/full"));
    server.stop();

    let (folder, _) = temporary_log();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("access.log").to_str().unwrap().to_owned();
    let server = lock.launch(&args).arg(&path).start();
    server.assert_echoes();
    wait_for_lines(&path, 1);
    fs::remove_dir_all(&inner).unwrap();
    (0..10).for_each(|_| server.assert_echoes());
    wait_until(SOON, "they are counted", || dropped(&server) == 10);
    fs::create_dir(&inner).unwrap();
    wait_until(SOON, "it goes on by itself", || {
        server.assert_echoes();
        server.log.count(AGAIN) == 1
    });
    assert!(server.log.wait_for(SOON, AGAIN).has("dropped=10"));
    assert_eq!(server.log.count(TROUBLE), 1, "said once");
    assert!(!read(&path).is_empty());
    server.stop();
}

#[test]
fn a_pipe_without_a_reader_is_tolerated() {
    let lock = TestLock::shared();
    let (_folder, path) = temporary_log();
    nix::unistd::mkfifo(Path::new(&path), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let args = ["--workers", "1", "--access-log", "all", "--access-log-file", &path];
    let server = lock.start(&args);
    (0..5).for_each(|_| server.assert_echoes());
    wait_until(SOON, "they are counted", || dropped(&server) == 5);
    let mut reader = fs::File::options().read(true).write(true).open(&path).unwrap();
    wait_until(SOON, "it works with a reader", || {
        server.assert_echoes();
        server.log.count(AGAIN) == 1
    });
    let mut start = [0; 100];
    reader.read_exact(&mut start).unwrap();
    assert!(String::from_utf8_lossy(&start).contains("connection ended"));
    // From now on the pipe is not read.
    wait_until(SOON, "the pipe is full", || {
        (0..20).for_each(|_| server.assert_echoes());
        server.log.count(TROUBLE) == 2
    });
    drop(reader);
    wait_until(SOON, "each of the last five lines is counted", || {
        // Lines of earlier connections may still be counted meanwhile.
        let before = dropped(&server);
        (0..5).for_each(|_| server.assert_echoes());
        thread::sleep(ms(20));
        dropped(&server) == before + 5
    });
    server.stop();
}

#[test]
fn a_file_size_limit_ends_no_process() {
    let lock = TestLock::shared();
    let (_folder, path) = temporary_log();
    let args = ["--workers", "1", "--access-log", "all", "--access-log-file", &path];
    let server = lock.start(&args);
    let worker = server.worker();
    let limit = std::process::Command::new("prlimit")
        .args(["--pid", &worker.to_string(), "--fsize=300"])
        .status();
    assert!(limit.expect("prlimit runs").success());
    (0..5).for_each(|_| server.assert_echoes());
    wait_until(SOON, "lines are dropped", || dropped(&server) > 0);
    assert_eq!((server.worker(), server.log.count(TROUBLE)), (worker, 1));
    server.stop();
}
