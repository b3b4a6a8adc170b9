//! A client of the admin process that says anything, in ragged pieces.
//!
//! The first byte says how the rest is cut. However that is, the answers must be the same, whole, and
//! nothing of the input may be in their heads.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcp_echo::daemon::admin::converse;
use tcp_echo::daemon::stats::Statistics;

thread_local! {
    static STATISTICS: Statistics = Statistics::new().expect("memory");
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, bytes)) = input.split_first() else { return };
    let size = usize::from(first) + 1;
    STATISTICS.with(|statistics| {
        let ragged = converse(statistics, bytes.chunks(size));
        check(&ragged.0);
        let single = converse(statistics, bytes.chunks(1));
        check(&single.0);
        // More at once than may be at once ends the connection; apart from that pieces mean nothing.
        if size < 200 {
            assert_eq!(statuses(&ragged.0), statuses(&single.0));
            assert_eq!(ragged.1, single.1);
        }
    });
});

/// Every answer begins with a status line, and its head has only lines of ours.
fn check(said: &[u8]) {
    for line in heads(said).lines().filter(|line| !line.starts_with("HTTP/1.1 ")) {
        let known = [
            "Content-Type: ", "Content-Length: ", "Cache-Control: no-store", "X-Content-Type-Options: ",
            "Content-Security-Policy: ", "Referrer-Policy: ", "Vary: Accept", "Allow: GET, HEAD",
            "Retry-After: 1", "Connection: ",
        ];
        assert!(known.iter().any(|start| line.starts_with(start)), "{line:?}");
    }
}

fn statuses(said: &[u8]) -> Vec<String> {
    let heads = heads(said);
    heads.lines().filter(|line| line.starts_with("HTTP/1.1 ")).map(str::to_owned).collect()
}

/// The heads of all answers. An answer to HEAD has a length and no body: the next begins at once.
fn heads(said: &[u8]) -> String {
    let mut heads = String::new();
    let mut rest = said;
    while !rest.is_empty() {
        assert!(rest.starts_with(b"HTTP/1.1 "), "{:?}", String::from_utf8_lossy(rest));
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        let head = std::str::from_utf8(&rest[..end]).expect("text");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.expect("a length").parse().expect("a number");
        heads.push_str(head.trim_end());
        heads.push('\n');
        rest = &rest[end..];
        if !rest.is_empty() && !rest.starts_with(b"HTTP/1.1 ") {
            rest = &rest[length..];
        }
    }
    heads
}
