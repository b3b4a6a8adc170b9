//! HTTP responses. They never contain a part of the request.

use std::borrow::Cow;
use std::io::Write;

/// A status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    /// The request has a body.
    ContentTooLarge,
    /// The host is not allowed.
    Misdirected,
    HeadersTooLarge,
    Unavailable,
    VersionNotSupported,
}

impl Status {
    /// Returns code and reason phrase.
    pub(super) const fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::ContentTooLarge => "413 Content Too Large",
            Self::Misdirected => "421 Misdirected Request",
            Self::HeadersTooLarge => "431 Request Header Fields Too Large",
            Self::Unavailable => "503 Service Unavailable",
            Self::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: Status,
    pub(super) content_type: &'static str,
    /// Further header lines, each with CRLF.
    pub(super) headers: Cow<'static, str>,
    /// Body; a response to HEAD contains only its length.
    pub(super) body: Vec<u8>,
}

impl Response {
    /// Creates a response with a line of text.
    pub(super) fn line(status: Status, line: &str) -> Self {
        let headers = match status {
            Status::MethodNotAllowed => "Allow: GET, HEAD\r\n",
            Status::Unavailable => "Retry-After: 1\r\n",
            _ => "",
        };
        Self {
            status,
            content_type: TEXT,
            headers: headers.into(),
            body: format!("{line}\n").into_bytes(),
        }
    }

    /// Creates a response with code and reason phrase as text.
    pub(super) fn bare(status: Status) -> Self {
        Self::line(status, status.line())
    }

    /// Appends the response to `out`. `connection` is the value of the `Connection` header line, if any.
    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        with_body: bool,
        connection: Option<&'static str>,
    ) {
        let Self { status, content_type, headers, body } = self;
        let (line, length) = (status.line(), body.len());
        // Writing to memory does not fail.
        let _ = write!(
            out,
            "HTTP/1.1 {line}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{headers}"
        );
        if let Some(connection) = connection {
            let _ = write!(out, "Connection: {connection}\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if with_body {
            out.extend_from_slice(body);
        }
    }
}
