//! The page: one file, whose own script and style are the only ones that a browser may run.

use super::response::{Response, Status};

const HTML: &str = include_str!("page.html");

/// What the browser is to allow: the page's script and style, by their SHA-256, and questions to the
/// server that it came from. A test says what the digests are when the page has changed.
const HEADERS: &str = "\
    Content-Security-Policy: default-src 'none'; \
    script-src 'sha256-U5ur5/Gw1I1MfDaCoP5KbVFFlq/63rmGylyUjFTYN8A='; \
    style-src 'sha256-3WvOm2GeLpdwyl6P8AuZHGxGfwT13JtrMiyY57+Mbnk='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'\r\n\
    Referrer-Policy: no-referrer\r\n";

/// The page with the header lines that go with it.
pub(super) fn response() -> Response {
    Response {
        status: Status::Ok,
        content_type: "text/html; charset=utf-8",
        headers: HEADERS.into(),
        body: HTML.into(),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use sha2::{Digest, Sha256};

    use super::*;

    /// What stands between the first `<tag>` and its end.
    fn element<'a>(html: &'a str, tag: &str) -> &'a str {
        let inner = html.split_once(&format!("<{tag}>")).map_or("", |(_, rest)| rest);
        inner.split_once(&format!("</{tag}>")).map_or("", |(inner, _)| inner)
    }

    #[test]
    fn the_page_needs_nothing_else() {
        for tag in ["script", "style"] {
            assert!(element(HTML, tag).len() > 1000, "{tag}");
            assert_eq!(
                HTML.matches(&format!("<{tag}")).count(),
                1,
                "one {tag}, without attributes"
            );
        }
        for outside in
            ["http:", "https:", "src=", "url(", "@import", "style=", "onclick", "innerHTML"]
        {
            assert!(!HTML.contains(outside), "{outside}");
        }
        let named = HTML.matches("href=").count();
        assert_eq!(named, HTML.matches("href=\"data:,\"").count(), "links lead nowhere else");
    }

    #[test]
    fn the_browser_is_told_what_to_allow() {
        for tag in ["script", "style"] {
            let digest = BASE64_STANDARD.encode(Sha256::digest(element(HTML, tag)));
            let source = format!("{tag}-src 'sha256-{digest}';");
            assert!(HEADERS.contains(&source), "HEADERS must have: {source}");
        }
        assert!(HEADERS.starts_with("Content-Security-Policy: default-src 'none'; "));
        assert!(!HEADERS.contains("unsafe") && HEADERS.ends_with("\r\n"));
    }
}
