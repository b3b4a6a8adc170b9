//! The page of the admin process in a headless browser; skipped if no browser is installed.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::support::browser::Browser;
use super::support::http::{admin_of, get};
use super::support::operations::{reload, send_signal};
use super::support::{
    Client, Server, TestLock, lack, load, ms, proc, secs, try_for, with_background,
};

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
            browser.wait("the numbers move", "charts.messages.values.at(-1) > 100");
            browser.wait("bytes arrive", "charts.received.values.at(-1) > 1e5");
            browser.wait("bytes leave", "charts.sent.values.at(-1) > 1e5");
            thread::sleep(ms(6000));
            assert_eq!(chart(&mut browser, "connections"), 1.0);
            browser.screenshot("light");
            browser.look(1200, 900, "dark");
            browser.screenshot("dark");
            let (row, stopped) = worker_without_connections(&server);
            kill(stopped, Signal::SIGSTOP).unwrap();
            let row = format!("document.querySelector('#workers tr:nth-child({row})')");
            browser.wait(
                "a stopped worker is unresponsive",
                &format!("{row}.innerText.includes('unresponsive')"),
            );
            let silence = format!("/heartbeat \\d+\\.\\d s ago/.test({row}.innerText)");
            assert_eq!(browser.value(&silence), true, "{}", browser.text());
            let event = "by('events').innerText.includes('worker unresponsive, pid')";
            browser.wait("the log's word is the event's", event);
            assert!(browser.text().contains("2 of 3 workers are healthy"), "{}", browser.text());
            browser.screenshot("unresponsive-dark");
            browser.look(360, 800, "light");
            let narrow = "document.documentElement.scrollWidth <= innerWidth";
            browser.wait("nothing is wider than a phone", narrow);
            browser.screenshot("unresponsive-phone");
            kill(stopped, Signal::SIGCONT).unwrap();
            browser.wait("it goes on", "document.querySelectorAll('#workers .bad').length === 0");
            reload(&server);
            browser.wait("the reload is an event", "by('events').innerText.includes('reloaded')");
            browser.wait(
                "the old worker has a row with its connection",
                "[...by('workers').children].some((row) => row.innerText.includes('retiring') \
                 && row.children[0].innerText.includes('old') && row.children[3].innerText === '1')",
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
        .wait("it says that the server is gone", "by('notice').innerText.includes('No response')");
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
fn the_page_shows_paused_slow_and_draining_workers() {
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
    browser.wait("it is at its limit", &state("accept paused"));
    browser.wait("that is an event", "by('events').innerText.includes('at the connection limit')");
    browser.screenshot("paused");
    drop(clients);
    browser.wait("it serves again", &state("serving"));

    let address = server.address();
    with_background(
        |over| load::stream_until(address, over),
        || {
            starve_until(server.worker(), "its loop iterations take long", || {
                browser.value(&state("slow event loop")) == true
            });
            browser.screenshot("slow");
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

/// Sends `input` and a FIN, and returns how many bytes come back.
fn converse(address: SocketAddr, input: &[u8]) -> usize {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(input).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap()
}

/// JavaScript that is the number in a column of a row of the table.
fn cell(row: &str, column: usize) -> String {
    format!("Number({row}.children[{column}].innerText.replaceAll('\\u202f', ''))")
}

#[test]
fn the_page_shows_lost_connections_sums_and_planned_exits() {
    let lock = TestLock::exclusive();
    let Some(mut browser) = Browser::start() else {
        return lack("Chromium");
    };
    let args = ["--workers", "3", "--admin", "0", "--idle-timeout", "0"];
    let listeners = ["echo://127.0.0.1", "discard://127.0.0.2", "daytime://127.0.0.3"];
    let listeners = listeners.map(|listener| ["--listen", listener]).concat();
    let server = lock.start(&[&args[..], &listeners].concat());
    browser.open(&format!("http://{}/", admin_of(&server)), 1200, 900, "light");
    browser.wait("it is loaded", "document.querySelectorAll('#workers tr').length === 3");
    let [_, discard, daytime] = server.addresses()[..] else { panic!("three listeners") };
    assert_eq!(converse(discard, &[7; 1234]), 0);
    let injected = converse(daytime, b"");
    let total =
        |name: &str, value: &str| format!("by('totals').innerText.includes('{name}\\n{value}')");
    browser.wait("consumed bytes", &total("Consumed", "1234 B"));
    browser.wait("injected bytes", &total("Injected", &format!("{injected} B")));

    let clients: Vec<Client> = (0..20).map(|_| server.connect()).collect();
    browser.wait("all are open", "charts.connections.values.at(-1) === 20");
    let row = cell("row", 3);
    let sum = format!("[...by('workers').children].reduce((sum, row) => sum + {row}, 0)");
    let total = cell("by('total').children[0]", 3);
    assert_eq!(
        browser.value(&format!("[{sum}, {total}]")),
        json!([20, 20]),
        "the total is the sum"
    );
    let zero = "by('closed').lastChild.className === 'zero'";
    assert_eq!(browser.value(zero), true, "{}", browser.text());

    let victim = server.worker_of(&clients[0]);
    let lost = clients.iter().filter(|client| server.worker_of(client) == victim).count();
    send_signal(victim, Signal::SIGKILL);
    let died =
        format!("by('closed').lastChild.innerText.split('\\n').join() === 'worker died,{lost}'");
    browser.wait("lost connections", &died);
    browser.wait("they stand out", "document.querySelectorAll('#closed .bad').length === 1");
    let exit = format!("worker exited, pid {victim}: killed by a signal");
    let events = |text: &str| format!("by('events').textContent.includes('{text}')");
    browser.wait("the cause of the exit", &events(&exit));
    browser.wait("the cause of the restart", "by('workers').innerText.includes('1 signal')");
    browser.screenshot("killed");

    drop(clients);
    reload(&server);
    browser.wait("the reload", &events("reloaded (1 in total)"));
    let replaced = "by('events').textContent.split(': replaced').length - 1 === 3";
    browser.wait("three planned exits", replaced);
    let folded = "[...document.querySelectorAll('#events summary')].at(-1).innerText";
    assert_eq!(browser.value(folded), "3 workers ready", "the start is folded");
    let unplanned = "document.querySelectorAll('#events .bad, #events .warn').length";
    assert_eq!(browser.value(unplanned), 1, "only the kill: {}", browser.text());
    assert_eq!(browser.errors(), Vec::<String>::new());
    server.stop();
}

#[test]
fn the_page_folds_many_workers_and_keeps_failures_in_sight() {
    let lock = TestLock::exclusive();
    let Some(mut browser) = Browser::start() else {
        return lack("Chromium");
    };
    let server = lock.start(&["--workers", "14", "--admin", "0", "--worker-timeout", "60"]);
    browser.open(&format!("http://{}/", admin_of(&server)), 390, 844, "light");
    browser.wait("it is loaded", "document.querySelectorAll('#workers tr').length === 14");
    let rows = |count: usize| {
        let visible = "[...by('workers').children].filter((row) => row.offsetHeight).length";
        format!("{visible} === {count}")
    };
    browser.wait("twelve of them", &rows(12));
    let last = *server.workers().values().last().expect("fourteen workers");
    send_signal(last, Signal::SIGSTOP);
    browser.wait("and the one that does not respond", &rows(13));
    browser.screenshot("folded-phone");
    assert_eq!(browser.value("by('fold').innerText"), "Show all 14 workers");
    browser.value("by('fold').click()");
    assert_eq!(browser.value(&rows(14)), true);
    send_signal(last, Signal::SIGCONT);
    browser.wait("all serve", "document.querySelectorAll('#workers .bad').length === 0");
    assert_eq!(browser.value(&rows(14)), true);
    browser.value("by('fold').click()");
    assert_eq!(browser.value(&rows(12)), true);
    for link in ["stats", "metrics", "readyz"] {
        let named = format!("document.querySelector('nav [href={link}]').pathname");
        let path = browser.value(&named);
        assert_eq!(get(admin_of(&server), path.as_str().unwrap()).status, 200, "{link}");
    }
    server.stop();
}
