//! A client of the lines service that sends anything, in pieces of any size.
//!
//! The first byte is the size of the pieces. Whatever that is, each line comes back behind the prefix, up
//! to the one that ends the connection.
#![no_main]

mod support;

use libfuzzer_sys::fuzz_target;
use support::{converse, lines};
use tcp_echo::config::template::Part;
use tcp_echo::daemon::services::expansion::Expansion;
use tcp_echo::daemon::services::{Identity, Lines};

/// Short, so that the fuzzer finds lines beyond it.
const MAX_LINE: usize = 20;

fuzz_target!(|input: &[u8]| {
    let Some((&first, bytes)) = input.split_first() else { return };
    let prefix = Expansion::new(&[Part::PeerIp, Part::Text("> ".into())], &Identity::of_worker(1));
    let mut service = Lines::new(prefix, true, MAX_LINE, 4096);
    let pieces = converse(&mut service, bytes, usize::from(first) + 1);
    let single = converse(&mut service, bytes, 1);
    let mut expected = Vec::new();
    for line in lines(bytes) {
        if line.len() > MAX_LINE || line == b"quit" {
            break;
        }
        expected.extend_from_slice(b"192.0.2.7> ");
        expected.extend_from_slice(line);
        expected.push(b'\n');
    }
    assert_eq!(pieces.sent, expected);
    assert_eq!(single.sent, expected);
    assert_eq!(pieces.finished, single.finished);
});
