//! The page: one file, whose own script and style are the only ones that a browser may run.

use super::digest::sha256_base64;
use super::response::{Response, Status};

const HTML: &str = include_str!("page.html");

/// The page with the header lines that go with it.
#[derive(Debug)]
pub(super) struct Page {
    headers: String,
}

impl Page {
    /// Works out what the browser is to allow: the page's script and style, by their digests, and
    /// questions to the server that it came from.
    pub(super) fn new() -> Self {
        let digest = |tag| sha256_base64(element(HTML, tag).as_bytes());
        let headers = format!(
            "Content-Security-Policy: default-src 'none'; script-src 'sha256-{}'; \
             style-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'\r\nReferrer-Policy: no-referrer\r\n",
            digest("script"),
            digest("style"),
        );
        Self { headers }
    }

    /// The page itself.
    pub(super) fn response(&self) -> Response {
        Response {
            status: Status::Ok,
            content_type: "text/html; charset=utf-8",
            headers: self.headers.clone().into(),
            body: HTML.into(),
        }
    }
}

impl Default for Page {
    fn default() -> Self {
        Self::new()
    }
}

/// What stands between the first `<tag>` and its end.
fn element<'a>(html: &'a str, tag: &str) -> &'a str {
    let inner = html.split_once(&format!("<{tag}>")).map_or("", |(_, rest)| rest);
    inner.split_once(&format!("</{tag}>")).map_or("", |(inner, _)| inner)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let headers = Page::new().response().headers;
        assert!(
            headers.starts_with("Content-Security-Policy: default-src 'none'; script-src 'sha256-")
        );
        assert!(!headers.contains("unsafe") && headers.ends_with("\r\n"));
    }
}
