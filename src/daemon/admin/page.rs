//! The status page: one HTML file with its script and style.

use super::response::{Response, Status};

const HTML: &str = include_str!("page.html");

/// Header lines that restrict the page to its own script and style, named by their SHA-256, and to requests
/// to its own server. If the page was changed, a test prints the new digests.
const HEADERS: &str = "\
    Content-Security-Policy: default-src 'none'; \
    script-src 'sha256-JAFxRT+gcosWM/RFsVagimJ2rKnjZPcxpJI4BTsXGCg='; \
    style-src 'sha256-3WvOm2GeLpdwyl6P8AuZHGxGfwT13JtrMiyY57+Mbnk='; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'\r\n\
    Referrer-Policy: no-referrer\r\n";

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

    /// Returns the content of the first element `tag`.
    fn element<'a>(html: &'a str, tag: &str) -> &'a str {
        let inner = html.split_once(&format!("<{tag}>")).map_or("", |(_, rest)| rest);
        inner.split_once(&format!("</{tag}>")).map_or("", |(inner, _)| inner)
    }

    #[test]
    fn page_has_no_external_resources() {
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
    fn policy_names_script_and_style() {
        for tag in ["script", "style"] {
            let digest = BASE64_STANDARD.encode(Sha256::digest(element(HTML, tag)));
            let source = format!("{tag}-src 'sha256-{digest}';");
            assert!(HEADERS.contains(&source), "HEADERS must have: {source}");
        }
        assert!(HEADERS.starts_with("Content-Security-Policy: default-src 'none'; "));
        assert!(!HEADERS.contains("unsafe") && HEADERS.ends_with("\r\n"));
    }
}
