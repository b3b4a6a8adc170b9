//! Log of a server: lines with their time of arrival.

use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::try_for;

/// Log line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// Time of arrival.
    pub(crate) at: Instant,
    /// The line without its newline.
    pub(crate) text: String,
}

impl Line {
    /// Returns `true` if the line contains `needle`.
    pub(crate) fn has(&self, needle: &str) -> bool {
        self.text.contains(needle)
    }

    /// Returns the time on the line, if the server was started with `--enable-log-timestamps`. Unlike
    /// `at` it does not depend on when the line is read.
    pub(crate) fn stamp(&self) -> Option<SystemTime> {
        let (date, time) = self.text.split_once('Z')?.0.split_once('T')?;
        let mut date = date.split('-').map(str::parse::<u64>);
        let [year, month, day] = [date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?];
        // Counted from March, so that the leap day is the last day of a year.
        let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
        let leap_days = year / 4 - year / 100 + year / 400;
        let days = year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1;
        let mut time = time.splitn(3, ':');
        let [hours, minutes] = [time.next()?.parse::<u64>().ok()?, time.next()?.parse().ok()?];
        let seconds = time.next()?.parse().ok()?;
        // January 1, 1970 is day 719 468.
        let whole = ((days - 719_468) * 24 + hours) * 3600 + minutes * 60;
        Some(UNIX_EPOCH + Duration::from_secs(whole) + Duration::from_secs_f64(seconds))
    }

    /// Returns the number after `key=` (text) or `"key":` (JSON).
    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        let behind = [format!(" {key}="), format!("\"{key}\":")];
        let found = behind.iter().find_map(|mark| self.text.split_once(mark.as_str()))?.1;
        let digits: String = found.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    }
}

/// Mode of the reader thread.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Mode {
    Read,
    Pause,
    HangUp,
}

/// Lines of one output of the server, collected by a thread.
pub(crate) struct Log {
    lines: Arc<Mutex<Vec<Line>>>,
    mode: Arc<AtomicU8>,
    reader: Option<JoinHandle<()>>,
}

impl Log {
    /// Starts to read `pipe` until its end.
    pub(crate) fn collect(pipe: impl Read + AsFd + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mode = Arc::new(AtomicU8::new(Mode::Read as u8));
        let (sink, state) = (Arc::clone(&lines), Arc::clone(&mode));
        let reader = Some(thread::spawn(move || read_lines(pipe, &state, &sink)));
        Self { lines, mode, reader }
    }

    /// Returns all lines so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the lines so far that contain `needle`.
    pub(crate) fn with(&self, needle: &str) -> Vec<Line> {
        self.lines().into_iter().filter(|line| line.has(needle)).collect()
    }

    /// Returns the number of lines so far that contain `needle`.
    pub(crate) fn count(&self, needle: &str) -> usize {
        self.with(needle).len()
    }

    /// Waits for a line that contains `needle`; earlier lines count.
    #[track_caller]
    pub(crate) fn wait_for(&self, limit: Duration, needle: &str) -> Line {
        self.wait_for_line(limit, needle, |line| line.has(needle))
    }

    /// Waits for a line that `fits`; `what` names it in the failure.
    #[track_caller]
    pub(crate) fn wait_for_line(
        &self,
        limit: Duration,
        what: &str,
        fits: impl Fn(&Line) -> bool,
    ) -> Line {
        match try_for(limit, || self.lines().into_iter().find(|line| fits(line))) {
            Some(line) => line,
            None => panic!("no log line within {limit:?}: {what}"),
        }
    }

    /// Stops reading, so that the pipe fills up.
    pub(crate) fn pause(&self) {
        self.set(Mode::Pause);
    }

    /// Continues to read after a [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        self.set(Mode::Read);
    }

    /// Closes the reading end of the pipe and waits until it is closed.
    pub(crate) fn hang_up(&mut self) {
        self.set(Mode::HangUp);
        self.join();
    }

    /// Waits for the end of the pipe: all processes that could write to it have exited.
    pub(crate) fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log reader does not panic");
        }
    }

    /// Prints all lines, for a failing test.
    pub(crate) fn print(&self, title: &str) {
        let lines = self.lines();
        let Some(first) = lines.first().map(|line| line.at) else { return };
        println!("--- {title} ({} lines)", lines.len());
        for line in lines {
            println!("{:9.3} {}", (line.at - first).as_secs_f64(), line.text);
        }
    }

    fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }
}

/// Body of the reader thread. It looks at the mode at least a hundred times a second.
fn read_lines(mut pipe: impl Read + AsFd, mode: &AtomicU8, lines: &Mutex<Vec<Line>>) {
    let mut chunk = vec![0; 64 * 1024];
    let mut partial: Vec<u8> = Vec::new();
    loop {
        let mode = mode.load(Ordering::SeqCst);
        if mode == Mode::HangUp as u8 {
            return;
        }
        if mode == Mode::Pause as u8 {
            thread::sleep(Duration::from_millis(5));
            continue;
        }
        let mut waiting = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::from(10u8)).unwrap_or(0) == 0 {
            continue;
        }
        let length = match pipe.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result.unwrap_or(0),
        };
        let at = Instant::now();
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        partial.extend_from_slice(&chunk[..length]);
        while let Some(end) = partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = partial.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line[..end]).into_owned();
            lines.push(Line { at, text });
        }
        if length == 0 {
            if !partial.is_empty() {
                let text = String::from_utf8_lossy(&partial).into_owned();
                lines.push(Line { at, text });
            }
            return;
        }
    }
}
