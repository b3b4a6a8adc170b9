//! Echo to nc(1).

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use super::support::{SOON, TestLock, lack, wait_for};

/// Starts the machine's `nc -N`, or says that there is none.
fn nc(args: &[&str]) -> Option<Child> {
    let help = Command::new("nc").arg("-h").output();
    let half_closes = |text: &[u8]| String::from_utf8_lossy(text).contains("-N");
    if !help.is_ok_and(|output| half_closes(&output.stderr) || half_closes(&output.stdout)) {
        lack("nc with -N");
        return None;
    }
    let mut command = Command::new("nc");
    command.arg("-N").args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    Some(command.spawn().expect("nc was found"))
}

#[track_caller]
fn assert_ends(mut nc: Child) {
    let status = wait_for(SOON, "nc ends", || nc.try_wait().expect("nc is ours"));
    assert!(status.success(), "nc is content: {status}");
}

#[test]
fn nc_gets_back_what_is_typed() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let port = server.port().to_string();
    let Some(mut nc) = nc(&["localhost", &port]) else { return };
    let mut keyboard = nc.stdin.take().unwrap();
    let mut screen = BufReader::new(nc.stdout.take().unwrap());
    for typed in ["hello\n", "\n", "how are you?\n"] {
        keyboard.write_all(typed.as_bytes()).unwrap();
        let mut shown = String::new();
        screen.read_line(&mut shown).unwrap();
        assert_eq!(shown, typed);
    }
    drop(keyboard);
    let mut rest = String::new();
    screen.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    assert_ends(nc);
    server.stop();
}

#[test]
fn nc_gets_back_a_piped_file() {
    let lock = TestLock::shared();
    let server = lock.start(&["--workers", "2"]);
    let port = server.port().to_string();
    let Some(mut nc) = nc(&["127.0.0.1", &port]) else { return };
    let file: Vec<u8> = (0..100_000_u32).flat_map(|number| number.to_le_bytes()).collect();
    let mut keyboard = nc.stdin.take().unwrap();
    let mut screen = nc.stdout.take().unwrap();
    let shown = std::thread::scope(|scope| {
        let file = &file;
        scope.spawn(move || keyboard.write_all(file).unwrap());
        let mut shown = Vec::new();
        screen.read_to_end(&mut shown).unwrap();
        shown
    });
    assert!(shown == file, "{} bytes came back of {}", shown.len(), file.len());
    assert_ends(nc);
    server.stop();
}
