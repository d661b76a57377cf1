//! The page that draws the status in a browser, whole in the binary. No byte of it comes from elsewhere.

use super::http::Answer;

const PAGE: &str = include_str!("page/page.html");
const SCRIPT: &str = include_str!("page/page.js");
const STYLE: &str = include_str!("page/page.css");

/// What the page may do (CSP Level 3): show itself, and ask where it comes from.
const POLICY: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors \
                      'none'\r\nReferrer-Policy: no-referrer\r\n";

/// The page.
pub fn page() -> Answer {
    Answer { fields: POLICY.to_owned(), ..Answer::good("text/html; charset=utf-8", PAGE.to_owned()) }
}

/// Its script.
pub fn script() -> Answer {
    Answer::good("text/javascript; charset=utf-8", SCRIPT.to_owned())
}

/// Its style.
pub fn style() -> Answer {
    Answer::good("text/css; charset=utf-8", STYLE.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_asks_nobody_else() {
        assert!(PAGE.len() + SCRIPT.len() + STYLE.len() <= 24 * 1024);
        for part in [PAGE, SCRIPT, STYLE] {
            let own = part.replace("http://www.w3.org/2000/svg", "");
            assert!(!["://", "url(", "@import"].iter().any(|wrong| own.contains(wrong)), "{part}");
        }
        for wrong in ["innerHTML", "style=", "onclick=", "eval(", "insertAdjacentHTML"] {
            assert!(!PAGE.contains(wrong) && !SCRIPT.contains(wrong), "{wrong}");
        }
    }
}
