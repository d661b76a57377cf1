//! TCP connections as users and local servers have them, and the bytes that cross them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::PATIENCE;

/// A TCP connection that never waits longer than [`PATIENCE`]. Connecting itself does not wait on loopback, and
/// `connect_timeout` would take the error of a reset that follows soon, which the reader must see.
pub fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(address).expect("a listener"))
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
    stream.set_nodelay(true).expect("an open socket");
    stream
}

/// A local server, with a thread per connection until the test's process ends.
pub fn serve(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    serve_at("127.0.0.1:0", handle)
}

pub fn serve_at(address: &str, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = listen_deep(address);
    let address = listener.local_addr().expect("it is bound");
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let handle = handle.clone();
            thread::spawn(move || handle(patient(stream)));
        }
    });
    address
}

/// A listener with room for every user of a test.
fn listen_deep(address: &str) -> TcpListener {
    let address: SocketAddr = address.parse().expect("a numeric address");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.bind(&address.into()).expect("a free port");
    socket.listen(4096).expect("a bound socket");
    socket.into()
}

/// A port that is bound and not listening, so that no other program can listen at it.
pub fn closed_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let address = socket.local_addr().expect("it is bound").as_socket().expect("IPv4");
    (socket, address)
}

/// A local server that answers with what it gets.
pub fn echo_server() -> SocketAddr {
    serve(echo)
}

pub fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// Says `text` and wants it back.
pub fn converse(stream: &mut TcpStream, text: &[u8]) {
    try_converse(stream, text).expect("an echo");
}

pub fn try_converse(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    assert!(answer == text, "the echo is another");
    Ok(())
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Clean,
    Reset,
}

/// Reads to the end: the bytes, and how they ended.
pub fn read_out(stream: &mut TcpStream) -> (Vec<u8>, Ending) {
    let mut bytes = Vec::new();
    let ending = match stream.read_to_end(&mut bytes) {
        Ok(_) => Ending::Clean,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ending::Reset,
        Err(error) => panic!("neither an end nor a reset after {} bytes: {error}", bytes.len()),
    };
    (bytes, ending)
}

/// Closes with RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an open socket");
}

pub fn finish_writing(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).expect("an open socket");
}

/// Bytes that tell their place in the stream and which stream it is.
pub struct Pattern {
    seed: u64,
    offset: u64,
}

impl Pattern {
    pub fn new(seed: u64) -> Pattern {
        Pattern { seed, offset: 0 }
    }

    /// The next bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            let word = (self.offset + self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            *byte = (word >> 56) as u8;
            self.offset += 1;
        }
    }

    /// Whether these are the next bytes.
    pub fn matches(&mut self, bytes: &[u8]) -> bool {
        let mut wanted = vec![0; bytes.len()];
        self.fill(&mut wanted);
        wanted == bytes
    }
}

/// Sizes of pieces that fit no buffer, one after the other.
pub const ODD_SIZES: [usize; 10] = [1, 7, 8_191, 16_385, 3, 65_537, 100, 250_007, 1_021, 16_383];

/// Writes `count` bytes of a pattern in odd pieces; the test goes on reading meanwhile.
pub fn write_pattern(stream: &mut TcpStream, seed: u64, count: u64) -> io::Result<()> {
    let (mut pattern, mut left) = (Pattern::new(seed), count);
    let mut piece = vec![0; 250_007];
    for size in ODD_SIZES.iter().cycle() {
        if left == 0 {
            break;
        }
        let size = left.min(*size as u64) as usize;
        pattern.fill(&mut piece[..size]);
        stream.write_all(&piece[..size])?;
        left -= size as u64;
    }
    Ok(())
}

/// Reads to a clean end, and wants exactly `count` bytes of a pattern.
pub fn read_pattern(stream: &mut TcpStream, seed: u64, count: u64) {
    let (mut pattern, mut read) = (Pattern::new(seed), 0);
    let mut piece = vec![0; 250_007];
    for size in ODD_SIZES.iter().cycle() {
        let got = stream.read(&mut piece[..*size]).expect("a whole stream");
        if got == 0 {
            break;
        }
        assert!(pattern.matches(&piece[..got]), "wrong bytes after {read}");
        read += got as u64;
    }
    assert_eq!(read, count, "the stream ended");
}
