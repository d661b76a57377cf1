//! A local server and users for what is asked beside bulk traffic.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::PATIENCE;

/// Bytes of a request and of its answer.
pub const MESSAGE_BYTES: usize = 64;
/// Bytes of one write of a bulk stream.
const BULK_BYTES: usize = 64 * 1024;
/// What a session is for, as its first byte says.
const ECHO: u8 = b'e';
const TWO_WRITES: u8 = b't';
const BULK: u8 = b'b';
/// Pause between the two writes of an answer.
pub const BETWEEN_WRITES: Duration = Duration::from_millis(2);

/// Starts a local server, and returns its address.
pub fn start_local_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A session that breaks concerns its user only.
            thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut purpose = [0];
    stream.read_exact(&mut purpose)?;
    if purpose[0] == BULK {
        let mut writer = stream.try_clone()?;
        thread::spawn(move || while writer.write_all(&[0; BULK_BYTES]).is_ok() {});
        return io::copy(&mut stream, &mut io::sink()).map(drop);
    }
    let mut message = [0; MESSAGE_BYTES];
    loop {
        stream.read_exact(&mut message)?;
        let (first, second) =
            message.split_at(if purpose[0] == ECHO { MESSAGE_BYTES } else { MESSAGE_BYTES / 2 });
        stream.write_all(first)?;
        if !second.is_empty() {
            thread::sleep(BETWEEN_WRITES); // paces: the answer comes in two writes
            stream.write_all(second)?;
        }
    }
}

/// A user that asks, and waits for the answer.
pub struct Interactive(TcpStream);

impl Interactive {
    /// Its answers come in one write.
    pub fn echo(to: SocketAddr) -> Interactive {
        Interactive::connect(to, ECHO)
    }

    /// Its answers come in two small writes.
    pub fn two_writes(to: SocketAddr) -> Interactive {
        Interactive::connect(to, TWO_WRITES)
    }

    fn connect(to: SocketAddr, purpose: u8) -> Interactive {
        let mut stream = TcpStream::connect(to).expect("it listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream.write_all(&[purpose]).expect("taken");
        Interactive(stream)
    }

    /// One request and its answer.
    pub fn ask(&mut self, number: u64) {
        let mut message = [0; MESSAGE_BYTES];
        message[..8].copy_from_slice(&number.to_le_bytes());
        self.0.write_all(&message).expect("taken");
        let mut answer = [0; MESSAGE_BYTES];
        self.0.read_exact(&mut answer).expect("the answer, in time");
        assert_eq!(answer, message);
    }
}

/// A user whose stream pours both ways until it is dropped.
pub struct Bulk {
    stream: TcpStream,
    ended: Arc<AtomicBool>,
    /// Bytes that it sent and received.
    moved: Arc<[AtomicU64; 2]>,
}

impl Bulk {
    pub fn start(to: SocketAddr) -> Bulk {
        let mut stream = TcpStream::connect(to).expect("it listens");
        stream.write_all(&[BULK]).expect("taken");
        let (ended, moved) = (Arc::new(AtomicBool::new(false)), Arc::new([const { AtomicU64::new(0) }; 2]));
        let clone = || (stream.try_clone().expect("a descriptor"), ended.clone(), moved.clone());
        let (mut writer, no_more, sent) = clone();
        thread::spawn(move || {
            while !no_more.load(Ordering::Relaxed) && writer.write_all(&[0; BULK_BYTES]).is_ok() {
                sent[0].fetch_add(BULK_BYTES as u64, Ordering::Relaxed);
            }
        });
        let (mut reader, no_more, received) = clone();
        thread::spawn(move || {
            let mut bytes = [0; BULK_BYTES];
            while let Ok(count @ 1..) = reader.read(&mut bytes)
                && !no_more.load(Ordering::Relaxed)
            {
                received[1].fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        Bulk { stream, ended, moved }
    }

    /// Bytes sent and received so far.
    pub fn moved(&self) -> [u64; 2] {
        self.moved.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}
