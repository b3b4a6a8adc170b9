//! Headless browser, controlled over a pipe (`--remote-debugging-pipe`) by JSON messages, each
//! terminated by a NUL byte.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{secs, wait_until};

/// Program names of browsers.
const NAMES: [&str; 5] = [
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// Browser with one page.
pub(crate) struct Browser {
    process: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    session: String,
    number: u64,
    errors: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser; `None` if none is installed.
    pub(crate) fn start() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        let mut folders = std::env::split_paths(&path);
        let program = folders.find_map(|folder| {
            NAMES.iter().map(|name| folder.join(name)).find(|file| file.is_file())
        })?;
        let profile = tempfile::tempdir().unwrap();
        let flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                     --disable-background-networking --hide-scrollbars --mute-audio";
        let line = format!(
            "exec \"$0\" {flags} --remote-debugging-pipe --user-data-dir=\"$1\" about:blank \
             3<&0 4>&1 0</dev/null 1>/dev/null 2>&1"
        );
        let mut process = Command::new("sh")
            .args(["-c", &line])
            .args([&program, profile.path()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let (sender, messages) = channel();
        thread::spawn(move || {
            for message in BufReader::new(output).split(0).map_while(Result::ok) {
                if let Ok(value) = serde_json::from_slice(&message) {
                    _ = sender.send(value);
                }
            }
        });
        let (session, number, errors) = (String::new(), 0, Vec::new());
        let mut browser =
            Self { process, input, messages, session, number, errors, _profile: profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Calls a method and returns its result.
    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        self.input.write_all(format!("{message}\0").as_bytes()).unwrap();
        let deadline = Instant::now() + secs(30);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.messages.recv_timeout(left);
            let answer = answer.unwrap_or_else(|_| panic!("the browser does not answer {method}"));
            if answer["id"] == self.number {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.listen(&answer);
        }
    }

    /// Records errors, warnings, and exceptions of the page.
    fn listen(&mut self, event: &Value) {
        let params = &event["params"];
        let complains = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => params["type"] != "log",
            Some("Log.entryAdded") => params["entry"]["level"] == "error",
            _ => false,
        };
        if complains {
            self.errors.push(params.to_string());
        }
    }

    /// Opens a page in a window of this size, light or dark.
    pub(crate) fn open(&mut self, url: &str, width: u32, height: u32, scheme: &str) {
        self.look(width, height, scheme);
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// Changes the size of the window and the color scheme.
    pub(crate) fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let feature = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", feature);
    }

    /// Returns the value of a JavaScript expression in the page.
    #[track_caller]
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Returns the visible text of the page.
    pub(crate) fn text(&mut self) -> String {
        self.value("document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Waits until `expression` is true in the page.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str, expression: &str) {
        wait_until(secs(15), what, || self.value(expression) == true);
    }

    /// Returns the errors, warnings, and exceptions of the page so far.
    pub(crate) fn errors(&mut self) -> Vec<String> {
        // Events that were sent before this answer have arrived with it.
        self.value("1");
        std::mem::take(&mut self.errors)
    }

    /// Saves a screenshot of the whole page if `TCP_ECHO_SCREENSHOTS` names a directory.
    pub(crate) fn screenshot(&mut self, name: &str) {
        let Some(directory) = std::env::var_os("TCP_ECHO_SCREENSHOTS") else { return };
        let params = json!({ "format": "png", "captureBeyondViewport": true });
        let result = self.call("Page.captureScreenshot", params);
        let bytes = from_base64(result["data"].as_str().unwrap());
        fs::write(Path::new(&directory).join(format!("{name}.png")), bytes).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser's helper processes are in its group.
        _ = killpg(Pid::from_raw(self.process.id() as i32), Signal::SIGKILL);
        _ = self.process.wait();
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte));
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_usize, 0);
    for digit in digits {
        (bits, count) = (bits << 6 | digit, count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}
