//! Precision of the write timeout for clients that read nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::support::client::uninterrupted;
use super::support::load::{in_parallel, ping};
use super::support::network_namespace::in_network_namespace;
use super::support::{Server, TestLock, ms, proc, secs};

const TIMEOUT: Duration = secs(3);

/// How late the end may be on an idle machine: a sixteenth of the timeout, and two ticks of 0.1 s.
const LATE: Duration = ms(500);

/// Returns `true` if one of these events or an error happens within `limit`.
fn happens(stream: &TcpStream, events: PollFlags, limit: Duration) -> bool {
    let limit = PollTimeout::try_from(limit).unwrap();
    poll(&mut [PollFd::new(stream.as_fd(), events)], limit).expect("poll") > 0
}

/// A client, and what is known of when its system has last taken a byte of the echo.
struct Client {
    stream: TcpStream,
    /// Bytes that the client's kernel has received and the test has not read.
    unread: usize,
    /// The last byte came after the first and before the second moment.
    last: [Instant; 2],
    looked: Instant,
}

impl Client {
    /// Sends until nothing has moved in either direction fifteen times for 20 ms.
    fn stuck(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let now = Instant::now();
        let mut client = Self { stream, unread: 0, last: [now; 2], looked: now };
        let (chunk, mut quiet) = (vec![7; 64 * 1024], 0);
        while quiet < 15 {
            quiet += 1;
            while happens(&client.stream, PollFlags::POLLOUT, ms(20)) {
                quiet = 0;
                match uninterrupted(|| (&client.stream).write(&chunk)) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("cut off early: {error}"),
                }
            }
            let unread = client.unread;
            client.look();
            quiet *= u32::from(client.unread == unread);
        }
        client
    }

    /// Checks for received bytes.
    fn look(&mut self) {
        let local = self.stream.local_addr().unwrap();
        let (looked, mut all) = (Instant::now(), proc::sockets().into_iter());
        // Once it is reset it is gone.
        let own = all.find(|socket| socket.local == local && !socket.listens);
        if let Some(own) = own.filter(|own| own.queued != self.unread) {
            self.unread = own.queued;
            self.last = [self.looked, Instant::now()];
        }
        self.looked = looked;
    }

    /// Reads `count` bytes, however long it takes.
    fn read(&mut self, count: usize) {
        let (mut chunk, mut left) = (vec![0; 64 * 1024], count);
        self.looked = Instant::now();
        while left > 0 {
            assert!(happens(&self.stream, PollFlags::POLLIN, secs(5)), "the echo goes on");
            let most = left.min(chunk.len());
            let got = uninterrupted(|| (&self.stream).read(&mut chunk[..most]));
            left -=
                got.unwrap_or_else(|error| panic!("cut off with {left} bytes to read: {error}"));
        }
        self.look();
    }

    /// Waits until it is reset: how long after the last byte that is at least, and at most. The last one
    /// may come late: a kernel that has little room left waits before it takes a small piece.
    fn cut_off(mut self) -> [Duration; 2] {
        let begin = Instant::now();
        while !happens(&self.stream, PollFlags::empty(), ms(20)) {
            assert!(begin.elapsed() < secs(20), "it is cut off");
            self.look();
        }
        let error = self.stream.take_error().unwrap().expect("it is reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let [earliest, latest] = self.last;
        [latest.elapsed(), earliest.elapsed()]
    }
}

/// Both clients at once, and beside them one that tells how late everything is on this machine.
fn cut_off_two(lock: &TestLock) {
    let args = ["--workers", "1", "--write-timeout", "3s", "--idle-timeout", "60"];
    let server = lock.start(&args);
    let took = in_parallel(3, |kind| match kind {
        0 => Client::stuck(&server).cut_off(),
        1 => {
            let mut slow = Client::stuck(&server);
            thread::sleep((slow.last[0] + secs(2)).saturating_duration_since(Instant::now()));
            slow.read(1 << 20);
            slow.cut_off()
        }
        _ => [ping(&server, secs(6), ms(10)).worst; 2],
    });
    println!("at once {:?}, after a rest {:?}, worst ping {:?}", took[0], took[1], took[2]);
    for [least, most] in [took[0], took[1]] {
        assert!(most >= TIMEOUT, "not before its time is over: {most:?}");
        assert!(least <= TIMEOUT + LATE + 2 * took[2][0], "when its time is over: {least:?}");
    }
    server.stop();
}

#[test]
fn a_client_that_reads_nothing_is_reset_at_the_write_timeout() {
    let lock = TestLock::exclusive();
    // Where the table of sockets is short enough to be read every 20 ms.
    in_network_namespace(|| cut_off_two(&lock));
}

#[test]
fn a_client_that_reads_occasionally_is_not_reset() {
    let lock = TestLock::shared();
    let args = ["--workers", "1", "--write-timeout", "6s", "--idle-timeout", "60"];
    let server = lock.start(&args);
    let mut slow = server.connect();
    slow.send_until_stalled(ms(300), 64 << 20);
    for _ in 0..5 {
        thread::sleep(secs(2));
        slow.expect(1 << 20);
    }
    slow.finish();
    server.stop();
}
