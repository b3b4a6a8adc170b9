//! The page of the admin process in a headless browser; skipped if no browser is installed.

use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::browser::Browser;
use super::support::http::admin_of;
use super::support::operations::reload;
use super::support::{Server, TestLock, lack, load, ms, proc, secs, try_for, with_background};

/// The number that a chart's heading shows.
fn chart(browser: &mut Browser, name: &str) -> f64 {
    let shown = browser.value(&format!("charts.{name}.values.at(-1)"));
    shown.as_f64().unwrap_or(f64::NAN)
}

#[test]
fn the_page_follows_events() {
    let lock = TestLock::exclusive();
    let Some(mut browser) = Browser::start() else {
        return lack("Chromium");
    };
    let args =
        ["--workers", "3", "--admin", "0", "--worker-timeout", "60", "--drain-timeout", "20s"];
    let server = lock.start(&args);
    let url = format!("http://{}/", admin_of(&server));
    browser.open(&url, 1200, 900, "light");
    browser.wait(
        "the page shows three workers",
        "document.querySelectorAll('#workers tr').length === 3",
    );
    assert!(browser.text().contains("3 of 3 workers"), "{}", browser.text());
    let address = server.address();
    let ((), _) = with_background(
        |over| load::stream_until(address, over),
        || {
            browser.wait("the numbers move", "charts.echoes.values.at(-1) > 100");
            browser.wait("and so do the bytes", "charts.bytes.values.at(-1) > 1e5");
            thread::sleep(ms(6000));
            assert_eq!(chart(&mut browser, "connections"), 1.0);
            browser.screenshot("light");
            browser.look(1200, 900, "dark");
            browser.screenshot("dark");
            let (row, stopped) = worker_without_connections(&server);
            kill(stopped, Signal::SIGSTOP).unwrap();
            let row = format!("document.querySelector('#workers tr:nth-child({row})')");
            browser.wait("a stopped worker hangs", &format!("{row}.innerText.includes('hung')"));
            assert!(browser.text().contains("2 of 3 workers are healthy"), "{}", browser.text());
            browser.screenshot("hung-dark");
            browser.look(360, 800, "light");
            let narrow = "document.documentElement.scrollWidth <= innerWidth";
            browser.wait("nothing is wider than a phone", narrow);
            browser.screenshot("hung-phone");
            kill(stopped, Signal::SIGCONT).unwrap();
            browser.wait("it goes on", "document.querySelectorAll('#workers .bad').length === 0");
            reload(&server);
            browser.wait("the reload is an event", "by('events').innerText.includes('reloaded')");
            browser.wait(
                "the old worker is beside the new",
                "by('workers').innerText.includes('retiring')",
            );
            browser.wait(
                "the values are updated",
                "failures === 0 && charts.connections.values.at(-1) !== null",
            );
            browser.look(1200, 900, "light");
            browser.screenshot("reloaded");
        },
    );
    assert_eq!(browser.value("charts.connections.values.includes(null)"), false, "never blank");
    assert_eq!(browser.errors(), Vec::<String>::new(), "nothing to complain about");
    server.stop();
    browser
        .wait("it says that the server is gone", "by('notice').innerText.includes('not answered')");
    assert_eq!(browser.value("document.querySelectorAll('#workers tr').length > 0"), true);
    browser.look(1200, 900, "dark");
    browser.screenshot("gone");
    let again =
        lock.start(&["--workers", "1", "--admin", url["http://".len()..].trim_end_matches('/')]);
    browser.wait("it comes back by itself", "by('about').innerText.includes('1 of 1')");
    browser.look(360, 800, "dark");
    browser.screenshot("phone-dark");
    again.stop();
}

/// Returns a worker that serves no connection, and its row of the page. To stop the worker of a stream
/// would also stop the stream.
fn worker_without_connections(server: &Server) -> (usize, Pid) {
    let connections: Vec<u64> = proc::sockets()
        .iter()
        .filter(|one| !one.listens && one.local.port() == server.port())
        .map(|one| one.inode)
        .collect();
    assert!(!connections.is_empty(), "the stream is open");
    let idle = |pid: i32| !proc::inodes_of(pid).iter().any(|inode| connections.contains(inode));
    let mut rows = (1..).zip(server.workers().into_values());
    let (row, pid) = rows.find(|&(_, pid)| idle(pid)).expect("there are more workers than streams");
    (row, Pid::from_raw(pid))
}

/// Lets a process go on for a moment only, now and then, until `holds`.
fn starve_until(pid: i32, what: &str, mut holds: impl FnMut() -> bool) {
    let pid = Pid::from_raw(pid);
    let seen = try_for(secs(20), || {
        // Not for as long as what counts as hung.
        kill(pid, Signal::SIGSTOP).unwrap();
        thread::sleep(ms(250));
        kill(pid, Signal::SIGCONT).unwrap();
        thread::sleep(ms(1));
        holds().then_some(())
    });
    seen.unwrap_or_else(|| panic!("{what}"));
}

#[test]
fn the_page_shows_full_overloaded_and_draining_workers() {
    let lock = TestLock::exclusive();
    let Some(mut browser) = Browser::start() else {
        return lack("Chromium");
    };
    let limits = ["--max-concurrent-connections", "3", "--graceful-timeout", "30s"];
    let mut server = lock.start(&[&["--workers", "1", "--admin", "0"][..], &limits].concat());
    browser.open(&format!("http://{}/", admin_of(&server)), 1200, 900, "light");
    let state = |state: &str| {
        format!("document.querySelector('#workers .badge')?.innerText.includes('{state}')")
    };
    browser.wait("it serves", &state("serving"));

    let clients = [(); 4].map(|()| server.connect());
    browser.wait("it is full", &state("full"));
    browser.wait("that is an event", "by('events').innerText.includes('limit hit')");
    browser.screenshot("full");
    drop(clients);
    browser.wait("it serves again", &state("serving"));

    let address = server.address();
    with_background(
        |over| load::stream_until(address, over),
        || {
            starve_until(server.worker(), "its loop iterations take long", || {
                browser.value(&state("overloaded: slow")) == true
            });
            browser.screenshot("overloaded");
        },
    );
    browser.wait("it is quick again", &state("serving"));

    let mut stalled = server.connect();
    stalled.send_until_stalled(ms(300), 64 << 20);
    server.signal(Signal::SIGTERM);
    browser.wait("it drains", &state("draining"));
    browser.wait("so does the daemon", "by('notice').innerText.includes('drains its connections')");
    browser.screenshot("draining");
    stalled.expect(stalled.outstanding());
    stalled.finish();
    assert_eq!(server.wait_exit(secs(10)), Some(0));
}
