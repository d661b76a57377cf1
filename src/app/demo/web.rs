//! The demo's local server: it shows each visitor what it asked for. HTTP/1.1 (RFC 9112) as far as that
//! needs: one request per connection, GET and HEAD.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::reactor::world::thread;

/// Connections served at once; further ones are closed unread.
const CONNECTIONS_MAX: usize = 64;
/// Longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// How long a visitor may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request's body that are read and thrown away, so that closing does not destroy the answer.
const DRAIN_BYTES_MAX: u64 = 64 * 1024;
/// More stack than a page needs.
const STACK_BYTES: usize = 128 * 1024;

/// Starts the server on a free port of loopback; it ends with the process.
pub fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::start("local web server", STACK_BYTES, move || accept(&listener))?;
    Ok(address)
}

fn accept(listener: &TcpListener) {
    let place = Arc::new(());
    loop {
        let Ok((stream, peer)) = listener.accept() else {
            // Out of descriptors, most likely: others must leave first.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let taken = Arc::clone(&place);
        if Arc::strong_count(&taken) <= CONNECTIONS_MAX + 1 {
            let serve = move || {
                let _taken = taken;
                // A visitor that leaves early is not worth a report.
                let _ = serve(stream, peer);
            };
            let _ = thread::start("visitor", STACK_BYTES, serve);
        }
    }
}

fn serve(mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut head = Vec::with_capacity(1024);
    let mut piece = [0; 1024];
    while !is_whole(&head) && head.len() <= HEAD_BYTES_MAX {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => head.extend_from_slice(&piece[..count]),
        }
    }
    stream.write_all(respond(&head, peer).as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    io::copy(&mut stream.take(DRAIN_BYTES_MAX), &mut io::sink())?;
    Ok(())
}

fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|window| window == b"\r\n\r\n")
}

/// The whole response to a request's head, which may be malformed or too long.
fn respond(head: &[u8], peer: SocketAddr) -> String {
    let head = String::from_utf8_lossy(head);
    let Some((head, _)) = head.split_once("\r\n\r\n") else {
        return response("431 Request Header Fields Too Large", "", "too long\n", true);
    };
    let mut lines = head.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let fields = lines.filter_map(|line| line.split_once(':'));
    let host =
        fields.filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, value)| value.trim()).next();
    // RFC 9112, section 3.2: a request without Host is answered with 400.
    let (&[method, target, "HTTP/1.1" | "HTTP/1.0"], Some(host)) = (&*words, host) else {
        return response("400 Bad Request", "", "this is not an HTTP/1.1 request\n", true);
    };
    match method {
        "GET" | "HEAD" => response("200 OK", "", &page(target, host, peer), method == "GET"),
        _ => response("405 Method Not Allowed", "Allow: GET, HEAD\r\n", "GET or HEAD, please\n", true),
    }
}

fn response(status: &str, field: &str, body: &str, with_body: bool) -> String {
    let kind = if body.starts_with('<') { "html" } else { "plain" };
    let length = body.len();
    let body = if with_body { body } else { "" };
    format!(
        "HTTP/1.1 {status}\r\n{field}Content-Type: text/{kind}; charset=utf-8\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n{body}"
    )
}

fn page(target: &str, host: &str, peer: SocketAddr) -> String {
    let (target, host) = (escaped(target), escaped(host));
    format!(
        "<!doctype html><title>skyorg</title><p>Hello from the local server: you asked {host} for {target}\n\
         <p>You are a user, and see only the server's request port. The local server sees only the client's \
         proxy connection, from {peer}.\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(head: &str) -> String {
        respond(head.as_bytes(), ([127, 0, 0, 1], 5).into())
    }

    #[test]
    fn a_page_shows_what_was_asked_and_never_runs_it() {
        let whole = answer("GET /<script>&x HTTP/1.1\r\nhOST:  here:80 \r\n\r\nbody");
        let (head, body) = whole.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        assert!(
            body.contains("asked here:80 for /&lt;script&gt;&amp;x\n") && body.contains("127.0.0.1:5"),
            "{body}"
        );
    }

    #[test]
    fn a_head_request_has_the_same_head_and_no_body() {
        let page = answer("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let head = answer("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(head.ends_with("\r\n\r\n") && page.starts_with(&head));
    }

    #[test]
    fn what_is_no_good_request_has_its_status() {
        for (request, status) in [
            ("POST / HTTP/1.1\r\nHost: h\r\n\r\n", "405 "),
            ("GET / HTTP/1.1\r\n\r\n", "400 "),
            ("GET /\r\nHost: h\r\n\r\n", "400 "),
            ("GET / HTTP/2\r\nHost: h\r\n\r\n", "400 "),
            ("\r\n\r\n", "400 "),
            ("GET / HTTP/1.1\r\nHost: h", "431 "),
        ] {
            assert!(answer(request).starts_with(&format!("HTTP/1.1 {status}")), "{request:?}");
        }
    }
}
