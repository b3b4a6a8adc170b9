//! The status page: one HTML document with its script and style.

use super::response::{Response, Status};

const HTML: &str = concat!(
    include_str!("page/head.html"),
    "<style>\n",
    include_str!("page/style.css"),
    "</style>\n",
    include_str!("page/body.html"),
    "<script>\n",
    include_str!("page/charts.js"),
    include_str!("page/workers.js"),
    include_str!("page/events.js"),
    include_str!("page/main.js"),
    "</script>\n</body>\n</html>\n",
);

/// Header lines that restrict the page to its own script and style, named by their SHA-256, and to requests
/// to its own server. If the page was changed, a test prints the new digests.
const HEADERS: &str = "\
    Content-Security-Policy: default-src 'none'; \
    script-src 'sha256-OE4SDk36ttHGUfMYFEQV3QvmIZb3PD3O3OmUfDWptv0='; \
    style-src 'sha256-LzNCgXIDjQEKH2pHA/1InhyCwkinkcy7c0CUYAtUXUo='; \
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
        for link in HTML.split("href=\"").skip(1) {
            let (target, _) = link.split_once('"').unwrap();
            assert!(["data:,", "stats", "metrics", "readyz"].contains(&target), "{target}");
        }
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
