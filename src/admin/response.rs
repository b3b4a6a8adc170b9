//! What is answered: never a word of the request is in it.

use std::borrow::Cow;
use std::io::Write;

/// A status line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Here it is.
    Ok,
    /// That was no request.
    BadRequest,
    /// There is nothing of that name.
    NotFound,
    /// One can only look, not touch.
    MethodNotAllowed,
    /// Nobody reads bodies here.
    ContentTooLarge,
    /// The request is for another host.
    Misdirected,
    /// The head is too long.
    HeadersTooLarge,
    /// Not now.
    Unavailable,
    /// HTTP/1.0 and 1.1 are spoken here.
    VersionNotSupported,
}

impl Status {
    /// As it stands in the first line.
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

/// Plain text.
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// A response before it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    /// The status.
    pub(super) status: Status,
    /// What the body is.
    pub(super) content_type: &'static str,
    /// Further header lines, each with its end.
    pub(super) headers: Cow<'static, str>,
    /// The body; of a HEAD request only its length is told.
    pub(super) body: Vec<u8>,
}

impl Response {
    /// A line of text.
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

    /// What the status itself says.
    pub(super) fn bare(status: Status) -> Self {
        Self::line(status, status.line())
    }

    /// Appends it to `out`. `connection` is what is to be said about the connection, if anything.
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
