//! The page, as a browser without a window sees it. Skipped where none is installed.

use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::operator::reload;
use super::support::browser::Browser;
use super::support::http::admin_of;
use super::support::{Turn, alongside, load, ms, skip};

/// The number that a chart's heading shows.
fn chart(browser: &mut Browser, name: &str) -> f64 {
    let shown = browser.value(&format!("charts.{name}.values.at(-1)"));
    shown.as_f64().unwrap_or(f64::NAN)
}

#[test]
fn a_person_sees_what_happens() {
    let turn = Turn::alone();
    let Some(mut browser) = Browser::start() else {
        return skip("no Chromium is installed");
    };
    let args =
        ["--workers", "3", "--admin", "0", "--worker-timeout", "60", "--drain-timeout", "20s"];
    let server = turn.start(&args);
    let url = format!("http://{}/", admin_of(&server));
    browser.open(&url, 1200, 900, "light");
    browser.wait(
        "the page shows three workers",
        "document.querySelectorAll('#workers tr').length === 3",
    );
    assert!(browser.text().contains("3 of 3 workers"), "{}", browser.text());
    let address = server.address();
    let ((), _) = alongside(
        |over| load::stream_until(address, over),
        || {
            browser.wait("the numbers move", "charts.echoes.values.at(-1) > 100");
            browser.wait("and so do the bytes", "charts.bytes.values.at(-1) > 1e5");
            thread::sleep(ms(6000));
            assert_eq!(chart(&mut browser, "connections"), 1.0);
            browser.picture("light");
            browser.look(1200, 900, "dark");
            browser.picture("dark");
            let stopped = Pid::from_raw(*server.workers().values().nth(1).unwrap());
            kill(stopped, Signal::SIGSTOP).unwrap();
            browser.wait(
                "a stopped worker hangs",
                "document.querySelector('#workers tr:nth-child(2)').innerText.includes('hung')",
            );
            assert!(browser.text().contains("2 of 3 workers are healthy"), "{}", browser.text());
            browser.picture("hung-dark");
            browser.look(360, 800, "light");
            let narrow = "document.documentElement.scrollWidth <= innerWidth";
            browser.wait("nothing is wider than a phone", narrow);
            browser.picture("hung-phone");
            kill(stopped, Signal::SIGCONT).unwrap();
            browser.wait("it goes on", "document.querySelectorAll('#workers .bad').length === 0");
            reload(&server);
            browser.wait("the reload is an event", "by('events').innerText.includes('reloaded')");
            browser.wait(
                "the old worker is beside the new",
                "by('workers').innerText.includes('retiring')",
            );
            browser.wait(
                "the figures go on",
                "failures === 0 && charts.connections.values.at(-1) !== null",
            );
            browser.look(1200, 900, "light");
            browser.picture("reloaded");
        },
    );
    assert_eq!(browser.value("charts.connections.values.includes(null)"), false, "never blank");
    assert_eq!(browser.complaints(), Vec::<String>::new(), "nothing to complain about");
    server.stop();
    browser
        .wait("it says that the server is gone", "by('notice').innerText.includes('not answered')");
    assert_eq!(browser.value("document.querySelectorAll('#workers tr').length > 0"), true);
    browser.look(1200, 900, "dark");
    browser.picture("gone");
    let again =
        turn.start(&["--workers", "1", "--admin", url["http://".len()..].trim_end_matches('/')]);
    browser.wait("it comes back by itself", "by('about').innerText.includes('1 of 1')");
    browser.look(360, 800, "dark");
    browser.picture("phone-dark");
    again.stop();
}
