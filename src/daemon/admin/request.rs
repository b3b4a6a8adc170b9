//! Parsing of HTTP/1 requests, which may arrive in pieces. Pure.

use httparse::{EMPTY_HEADER, Error, Header, Status};

/// Maximum length of a request without its body, in bytes.
pub(super) const MAX_HEAD: usize = 8 * 1024;

/// Maximum number of header lines.
const MAX_HEADERS: usize = 64;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// Method, which may be any token.
    pub(super) method: &'a str,
    /// Path without the query; `*` for a request about the server.
    pub(super) path: &'a str,
    /// Host, with the port if there is one: that of the target, or else of the `Host` line.
    pub(super) host: Option<&'a str>,
    /// The first `Accept` lines; unused elements are empty.
    pub(super) accept: [&'a str; MAX_ACCEPTS],
    /// `true` if the client will reuse the connection.
    pub(super) keep_alive: bool,
    /// `true` for HTTP/1.0, where the response must say that the connection can be reused.
    pub(super) is_http10: bool,
    /// `true` if a body follows. It is not read.
    pub(super) has_body: bool,
}

/// Number of `Accept` lines that are considered.
const MAX_ACCEPTS: usize = 4;

/// Reasons to reject a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// Not HTTP, or ambiguous.
    Malformed,
    /// Longer than [`MAX_HEAD`], or too many header lines.
    TooLong,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
}

/// Parses the first request in `bytes`. Returns it with its length without the body, `None` if it is
/// incomplete.
///
/// # Errors
/// [`Rejection`]: the following bytes cannot be parsed either.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Request<'_>, usize)>, Rejection> {
    let head = &bytes[..bytes.len().min(MAX_HEAD)];
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(head) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if bytes.len() >= MAX_HEAD => return Err(Rejection::TooLong),
        Ok(Status::Partial) => return Ok(None),
        Err(Error::TooManyHeaders) => return Err(Rejection::TooLong),
        Err(Error::Version) if names_other_version(head) => return Err(Rejection::Version),
        Err(_) => return Err(Rejection::Malformed),
    };
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Rejection::Malformed);
    };
    let is_http10 = version == 0;
    let path = path_of(target, method).ok_or(Rejection::Malformed)?;
    let host = host(parsed.headers, is_http10)?;
    let host = authority_of(target).or(host);
    let (keep_alive, has_body) = (keep_alive(parsed.headers, is_http10), has_body(parsed.headers)?);
    let mut accept = [""; MAX_ACCEPTS];
    accept.iter_mut().zip(values(parsed.headers, "accept")).for_each(|(place, it)| *place = it);
    Ok(Some((Request { method, path, host, accept, keep_alive, is_http10, has_body }, length)))
}

/// Returns `true` if the third word of the first line is a version of HTTP.
fn names_other_version(head: &[u8]) -> bool {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    let version = line.split(|byte| *byte == b' ').nth(2).unwrap_or_default();
    matches!(version, [b'H', b'T', b'T', b'P', b'/', digit, ..] if digit.is_ascii_digit())
}

/// Returns the path of a target in origin form, absolute form, or asterisk form.
fn path_of<'a>(target: &'a str, method: &str) -> Option<&'a str> {
    // The target is "host:port". This path exists for no method, so the method is rejected.
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

/// Returns host and port of a target in absolute form, which precede the `Host` line (RFC 9112, 3.2.2).
fn authority_of(target: &str) -> Option<&str> {
    split_absolute(target).map(|(authority, _)| authority)
}

/// Splits a target in absolute form behind host and port.
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
    // A value that is not UTF-8 matches nothing.
    of_name.map(|header| std::str::from_utf8(header.value).unwrap_or("\u{fffd}").trim())
}

fn has_token(headers: &[Header<'_>], name: &str, token: &str) -> bool {
    let mut tokens = values(headers, name).flat_map(|value| value.split(','));
    tokens.any(|found| found.trim().eq_ignore_ascii_case(token))
}

/// Returns the `Host` line. There must be exactly one; HTTP/1.0 needs none (RFC 9112, 3.2).
fn host<'a>(headers: &[Header<'a>], is_http10: bool) -> Result<Option<&'a str>, Rejection> {
    let mut hosts = values(headers, "host");
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Ok(Some(host)),
        (None, _) if is_http10 => Ok(None),
        _ => Err(Rejection::Malformed),
    }
}

fn keep_alive(headers: &[Header<'_>], is_http10: bool) -> bool {
    let close = has_token(headers, "connection", "close");
    !close && (!is_http10 || has_token(headers, "connection", "keep-alive"))
}

/// Returns `true` if a body follows. Rejects what a proxy could understand differently.
fn has_body(headers: &[Header<'_>]) -> Result<bool, Rejection> {
    if values(headers, "transfer-encoding").next().is_some() {
        return Err(Rejection::Malformed);
    }
    let mut length = None;
    for value in values(headers, "content-length") {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || length.is_some_and(|before| before != value) {
            return Err(Rejection::Malformed);
        }
        length = Some(value);
    }
    Ok(length.is_some_and(|length| length.bytes().any(|digit| digit != b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Result<Option<Request<'_>>, Rejection> {
        parse(text.as_bytes()).map(|found| found.map(|(request, _)| request))
    }

    fn request(text: &str) -> Request<'_> {
        parsed(text).expect("valid").expect("whole")
    }

    #[test]
    fn request_is_parsed() {
        let text = "GET /stats?x=1 HTTP/1.1\r\nhOst: a\r\nAccept: text/plain\r\n\r\nGET";
        let (request, length) = parse(text.as_bytes()).expect("valid").expect("whole");
        assert_eq!((request.method, request.path), ("GET", "/stats"));
        assert_eq!(request.accept[..2], ["text/plain", ""]);
        assert_eq!(&text[length..], "GET");
        assert!(request.keep_alive && !request.is_http10 && !request.has_body);
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
            assert_eq!(path(target), Err(Rejection::Malformed), "{target}");
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
    fn keep_alive_depends_on_header_and_version() {
        let keep_alive = |version: &str, connection: &str| {
            let text =
                format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {connection}\r\n\r\n");
            request(&text).keep_alive
        };
        assert!(
            keep_alive("1.1", "x")
                && keep_alive("1.1", "keep-alive")
                && keep_alive("1.0", "Keep-Alive")
        );
        assert!(
            !keep_alive("1.0", "x")
                && !keep_alive("1.1", "x, Close")
                && !keep_alive("1.0", "close")
        );
        assert!(!keep_alive("1.0", "keep-alive, close"));
        assert!(request("GET / HTTP/1.0\r\n\r\n").is_http10);
    }

    #[test]
    fn ambiguous_requests_are_rejected() {
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
            assert_eq!(with(lines), Err(Rejection::Malformed), "{lines:?}");
        }
        assert_eq!(parsed("GET / HTTP/1.1\r\n\r\n"), Err(Rejection::Malformed), "no host");
    }

    #[test]
    fn other_protocols_are_rejected_at_once() {
        for text in [
            "\u{16}\u{3}\u{1}",
            "\0",
            "GET\n",
            "GET /\r\n",
            "G@T / HTTP/1.1\r\n",
            "SSH-2.0-x\r\n",
            "GET /x HTTPx HTTP/2.0\r\n",
        ] {
            assert_eq!(parsed(text), Err(Rejection::Malformed), "{text:?}");
        }
        for text in ["GET / HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/1.2\r\n"]
        {
            assert_eq!(parsed(text), Err(Rejection::Version), "{text:?}");
        }
        for text in ["", "G", "GET / HTTP/1.1", "\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"] {
            assert_eq!(parsed(text), Ok(None), "{text:?}");
        }
    }

    #[test]
    fn head_length_is_limited() {
        let long =
            |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(length));
        assert!(parsed(&long(MAX_HEAD - 50)).expect("valid").is_some());
        assert_eq!(parsed(&long(MAX_HEAD)), Err(Rejection::TooLong));
        assert_eq!(parsed(&"\r\n".repeat(MAX_HEAD)), Err(Rejection::TooLong));
        let many = "X: y\r\n".repeat(MAX_HEADERS + 1);
        assert_eq!(parsed(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Err(Rejection::TooLong));
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some((_, length))) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }

        #[test]
        fn request_in_pieces_is_the_same(at in 0usize..80, tail in "[ -~\r\n]{0,40}") {
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
