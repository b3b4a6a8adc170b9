//! One request of HTTP/1, from bytes that arrive in pieces. Pure; everything hostile ends here.

use httparse::{EMPTY_HEADER, Error, Header, Status};

/// The longest head of a request, in bytes; a longer one is refused.
pub(super) const LONGEST_HEAD: usize = 8 * 1024;

/// The most header lines; more are refused.
const MOST_HEADERS: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// The method, any token.
    pub(super) method: &'a str,
    /// The path without the query; `*` where the server itself is asked.
    pub(super) path: &'a str,
    /// The host that it is for, perhaps with a port: that of the target, or else of the `Host` line.
    pub(super) host: Option<&'a str>,
    /// What the client would like to have: all its `Accept` lines, as many as there are.
    pub(super) accept: [&'a str; MOST_ACCEPTS],
    /// Whether the client wants to go on with this connection.
    pub(super) keep_alive: bool,
    /// Whether the client is of HTTP/1.0 and must be told that it may go on.
    pub(super) old: bool,
    /// Whether a body follows, which nobody will read.
    pub(super) has_body: bool,
}

/// `Accept` lines that are looked at.
const MOST_ACCEPTS: usize = 4;

/// Why there is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no HTTP.
    Malformed,
    /// Its head is too long, or has too many lines.
    TooLong,
    /// It is of a version of HTTP that is not spoken here.
    Version,
}

/// Takes the first request from `bytes`: with the number of bytes that its head has; `None` when more
/// are needed.
///
/// # Errors
/// [`Refusal`]: whatever follows makes no sense either.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, Refusal> {
    let head = &bytes[..bytes.len().min(LONGEST_HEAD)];
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(head) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if bytes.len() >= LONGEST_HEAD => return Err(Refusal::TooLong),
        Ok(Status::Partial) => return Ok(None),
        Err(Error::TooManyHeaders) => return Err(Refusal::TooLong),
        Err(Error::Version) if names_other_version(head) => return Err(Refusal::Version),
        Err(_) => return Err(Refusal::Malformed),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Refusal::Malformed);
    };
    let old = version == 0;
    let path = path_of(target, method).ok_or(Refusal::Malformed)?;
    let host = host(parsed.headers, old)?;
    let host = authority_of(target).or(host);
    let (keep_alive, has_body) = (keep_alive(parsed.headers, old), has_body(parsed.headers)?);
    let mut accept = [""; MOST_ACCEPTS];
    accept.iter_mut().zip(values(parsed.headers, "accept")).for_each(|(place, it)| *place = it);
    Ok(Some((Request { method, path, host, accept, keep_alive, old, has_body }, length)))
}

/// Whether the third word of the first line is a version of HTTP, only not one of ours.
fn names_other_version(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    let version = line.split(|byte| *byte == b' ').nth(2).unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', digit, ..] if digit.is_ascii_digit())
}

/// The path in a target: of origin form, absolute form, or `*`.
fn path_of<'a>(target: &'a str, method: &str) -> Option<&'a str> {
    // "host:port": a path that nothing has, so that it is the method that is refused.
    if method == "CONNECT" {
        return Some("*");
    }
    let path = match split_absolute(target) {
        Some(("", _)) => return None,
        Some((_, rest)) if rest.starts_with('/') => rest,
        Some(_) => "/",
        None => target,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    (path.starts_with('/') || path == "*").then_some(path)
}

/// The host and port in a target of absolute form, which counts more than the `Host` line (RFC 9112,
/// 3.2.2).
fn authority_of(target: &str) -> Option<&str> {
    split_absolute(target).map(|(authority, _)| authority)
}

/// The host and port in a target of absolute form, and what follows.
fn split_absolute(target: &str) -> Option<(&str, &str)> {
    let schemes = ["http://", "https://"];
    let scheme = schemes.iter().find(|scheme| {
        target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    })?;
    let rest = &target[scheme.len()..];
    Some(rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())))
}

fn values<'a>(headers: &[Header<'a>], name: &str) -> impl Iterator<Item = &'a str> {
    let of_name = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    // A value that is no UTF-8 says nothing to anybody.
    of_name.map(|header| std::str::from_utf8(header.value).unwrap_or("\u{fffd}").trim())
}

fn has_token(headers: &[Header<'_>], name: &str, token: &str) -> bool {
    let mut tokens = values(headers, name).flat_map(|value| value.split(','));
    tokens.any(|found| found.trim().eq_ignore_ascii_case(token))
}

/// The `Host` line. RFC 9112, 3.2: exactly one; none is needed before HTTP/1.1.
fn host<'a>(headers: &[Header<'a>], old: bool) -> Result<Option<&'a str>, Refusal> {
    let mut hosts = values(headers, "host");
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Ok(Some(host)),
        (None, _) if old => Ok(None),
        _ => Err(Refusal::Malformed),
    }
}

fn keep_alive(headers: &[Header<'_>], old: bool) -> bool {
    let close = has_token(headers, "connection", "close");
    !close && (!old || has_token(headers, "connection", "keep-alive"))
}

/// Whether a body follows. Nothing that could be understood in two ways is accepted.
fn has_body(headers: &[Header<'_>]) -> Result<bool, Refusal> {
    if values(headers, "transfer-encoding").next().is_some() {
        return Err(Refusal::Malformed);
    }
    let mut length = None;
    for value in values(headers, "content-length") {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || length.is_some_and(|before| before != value) {
            return Err(Refusal::Malformed);
        }
        length = Some(value);
    }
    Ok(length.is_some_and(|length| length.bytes().any(|digit| digit != b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<Option<Request<'_>>, Refusal> {
        parse(text.as_bytes()).map(|found| found.map(|(request, _)| request))
    }

    fn request(text: &str) -> Request<'_> {
        parsed(text).expect("valid").expect("whole")
    }

    #[test]
    fn a_request_is_taken_apart() {
        let text = "GET /stats?x=1 HTTP/1.1\r\nhOst: a\r\nAccept: text/plain\r\n\r\nGET";
        let (request, length) = parse(text.as_bytes()).expect("valid").expect("whole");
        assert_eq!((request.method, request.path), ("GET", "/stats"));
        assert_eq!(request.accept[..2], ["text/plain", ""]);
        assert_eq!(&text[length..], "GET");
        assert!(request.keep_alive && !request.old && !request.has_body);
    }

    #[test]
    fn targets_have_three_forms() {
        let path = |target: &str| {
            let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            parsed(&text).map(|found| found.expect("whole").path.to_owned())
        };
        for (target, expected) in [
            ("/", "/"),
            ("//", "//"),
            ("/a/../b", "/a/../b"),
            ("/%2e", "/%2e"),
            ("/x?y#z", "/x"),
            ("http://h:1/x?y", "/x"),
            ("HTTPS://h", "/"),
            ("http://h?y", "/"),
            ("*", "*"),
        ] {
            assert_eq!(path(target).as_deref(), Ok(expected), "{target}");
        }
        for target in ["x", "http://", "http:///x", "h:1", "ftp://h/", "?", "**", "../x"] {
            assert_eq!(path(target), Err(Refusal::Malformed), "{target}");
        }
        assert_eq!(request("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n").path, "*");
    }

    #[test]
    fn the_host_is_that_of_the_target_or_of_the_host_line() {
        let host = |text: &str| request(text).host.map(str::to_owned);
        assert_eq!(host("GET / HTTP/1.1\r\nHost: a:1 \r\n\r\n").as_deref(), Some("a:1"));
        assert_eq!(host("GET http://b:2/x HTTP/1.1\r\nHost: a\r\n\r\n").as_deref(), Some("b:2"));
        assert_eq!(host("GET /http://b HTTP/1.1\r\nHost: a\r\n\r\n").as_deref(), Some("a"));
        assert_eq!(host("GET / HTTP/1.1\r\nHost:\r\n\r\n").as_deref(), Some(""));
        assert_eq!(host("GET / HTTP/1.0\r\n\r\n"), None);
    }

    #[test]
    fn who_goes_on_is_up_to_the_client_and_its_version() {
        let goes_on = |version: &str, connection: &str| {
            let text =
                format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n");
            request(&text).keep_alive
        };
        assert!(
            goes_on("1.1", "x") && goes_on("1.1", "keep-alive") && goes_on("1.0", "Keep-Alive")
        );
        assert!(!goes_on("1.0", "x") && !goes_on("1.1", "x, Close") && !goes_on("1.0", "close"));
        assert!(!goes_on("1.0", "keep-alive, close"));
        assert!(request("GET / HTTP/1.0\r\n\r\n").old);
    }

    #[test]
    fn nothing_can_be_understood_in_two_ways() {
        let with = |lines: &str| {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
            parsed(&text).map(|found| found.expect("whole").has_body)
        };
        assert_eq!(with("Content-Length: 0"), Ok(false));
        assert_eq!(with("Content-Length: 000\r\nContent-Length: 000"), Ok(false));
        assert_eq!(with("Content-Length: 10"), Ok(true));
        assert_eq!(with("Content-Length: 99999999999999999999999"), Ok(true));
        for lines in [
            "Host: b",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Content-Length: -1",
            "Content-Length:",
            "Content-Length: 1, 1",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length : 1",
            "X: a\r\n folded",
            " X: a",
            "X: \u{1}",
            "no colon",
        ] {
            assert_eq!(with(lines), Err(Refusal::Malformed), "{lines:?}");
        }
        assert_eq!(parsed("GET / HTTP/1.1\r\n\r\n"), Err(Refusal::Malformed), "no host");
    }

    #[test]
    fn what_is_no_http_is_refused_at_once() {
        for text in [
            "\u{16}\u{3}\u{1}",
            "\0",
            "GET\n",
            "GET /\r\n",
            "G@T / HTTP/1.1\r\n",
            "SSH-2.0-x\r\n",
            "GET /x HTTPx HTTP/2.0\r\n",
        ] {
            assert_eq!(parsed(text), Err(Refusal::Malformed), "{text:?}");
        }
        for text in ["GET / HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.2\r\n"]
        {
            assert_eq!(parsed(text), Err(Refusal::Version), "{text:?}");
        }
        for text in ["", "G", "GET / HTTP/1.1", "\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"] {
            assert_eq!(parsed(text), Ok(None), "{text:?}");
        }
    }

    #[test]
    fn a_head_has_an_end() {
        let long =
            |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length));
        assert!(parsed(&long(LONGEST_HEAD - 50)).expect("valid").is_some());
        assert_eq!(parsed(&long(LONGEST_HEAD)), Err(Refusal::TooLong));
        assert_eq!(parsed(&"\r\n".repeat(LONGEST_HEAD)), Err(Refusal::TooLong));
        let many = "X: y\r\n".repeat(MOST_HEADERS + 1);
        assert_eq!(parsed(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Err(Refusal::TooLong));
    }

    proptest! {
        #[test]
        fn anything_has_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some((_, length))) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }

        #[test]
        fn a_request_is_the_same_in_pieces(at in 0usize..80, tail in "[ -~\r\n]{0,40}") {
            let text = format!("GET /stats HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n{tail}");
            let whole = request(&text);
            let end = parse(text.as_bytes()).expect("valid").expect("whole").1;
            match parse(&text.as_bytes()[..at.min(text.len())]).expect("valid") {
                Some((part, length)) => prop_assert_eq!((part, length), (whole, end)),
                None => prop_assert!(at < end),
            }
        }
    }
}
