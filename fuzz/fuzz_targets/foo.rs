//! A client of the foo service that sends anything, in pieces of any size.
//!
//! The first byte is the size of the pieces. Whatever that is, the answers are the same, one for each
//! line, and each is well-formed.
#![no_main]

mod support;

use libfuzzer_sys::fuzz_target;
use support::{converse, lines};
use tcp_echo::daemon::services::Foo;
use tcp_echo::daemon::services::foo::{MAX_LINE, Message};

fuzz_target!(|input: &[u8]| {
    let Some((&first, bytes)) = input.split_first() else { return };
    let mut service = Foo::new(4096);
    let pieces = converse(&mut service, bytes, usize::from(first) + 1);
    let single = converse(&mut service, bytes, 1);
    assert_eq!(pieces, single);
    let answers = std::str::from_utf8(&pieces.sent).expect("text");
    assert!(answers.is_empty() || answers.ends_with('\n'));
    let mut answers = answers.lines();
    for line in lines(bytes) {
        let answer = answers.next().expect("an answer");
        if line.len() > MAX_LINE {
            assert_eq!(answer, "NAK 0 ERRDECODE");
            break;
        }
        match Message::parse(line) {
            None => assert_eq!(answer, "NAK 0 ERRDECODE"),
            Some(message) => check(&message, answer),
        }
    }
    assert_eq!(answers.next(), None);
});

/// The answer has the sequence number, and the type that the digest decides.
fn check(message: &Message<'_>, answer: &str) {
    let fields: Vec<_> = answer.split(' ').collect();
    let [kind, seq, digest] = fields[..] else { panic!("{answer}") };
    assert_eq!(seq, message.seq.to_string());
    assert_eq!(kind, if digest.starts_with(['2', 'd']) { "NAK" } else { "ACK" });
    assert_eq!(digest.len(), 32);
    assert!(digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{digest}");
}
