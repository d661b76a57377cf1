//! What the kernel knows of a TCP connection (tcp(7), `TCP_INFO`).
#![allow(unsafe_code)]

use std::os::fd::AsFd;
use std::time::Duration;

/// What the kernel knows of a TCP connection at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// How long it waits for an acknowledgement before it sends again. It doubles with each time in a row.
    pub rto: Duration,
    /// How many segments it has sent again since it was made.
    pub sent_again: u32,
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Time since the last acknowledgement came.
    pub last_ack_recv: Duration,
    /// Segments that were sent and not acknowledged.
    pub unacked: u32,
    /// Bytes that were written and not sent.
    pub notsent_bytes: u32,
    /// Bytes that its peer has acknowledged since it was made.
    pub acknowledged_bytes: u64,
}

/// Words of the kernel's `tcp_info` (linux/tcp.h) up to the last one that is used. Kernels only add words at its end,
/// and write no more than there is room for.
#[cfg(target_os = "linux")]
const WORDS: usize = 37;

/// Asks the kernel; `None` where it does not say.
#[cfg(target_os = "linux")]
pub fn tcp_info(socket: impl AsFd) -> Option<TcpInfo> {
    use std::os::fd::AsRawFd;

    let fd = socket.as_fd().as_raw_fd();
    let mut words = [0u32; WORDS];
    let mut bytes = size_of_val(&words) as libc::socklen_t;
    // SAFETY: `fd` is open while it is borrowed. The kernel writes at most `bytes` bytes to `words`, which has so many
    // and for which every content is valid, and one number to `bytes`. Neither is kept after the call.
    let outcome = unsafe {
        let (info, length) = (words.as_mut_ptr().cast(), &raw mut bytes);
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info, length)
    };
    // An older kernel leaves the last words as they were.
    (outcome == 0).then(|| TcpInfo {
        rto: Duration::from_micros(words[2].into()),
        sent_again: words[25],
        rtt: Duration::from_micros(words[17].into()),
        last_ack_recv: Duration::from_millis(words[14].into()),
        unacked: words[6],
        notsent_bytes: words[36],
        acknowledged_bytes: join([words[30], words[31]]),
    })
}

/// A number of 64 bits from its words in memory.
#[cfg(target_os = "linux")]
fn join(words: [u32; 2]) -> u64 {
    let [low, high] = if cfg!(target_endian = "little") { words } else { [words[1], words[0]] };
    u64::from(high) << 32 | u64::from(low)
}

/// Other systems are not asked.
#[cfg(not(target_os = "linux"))]
pub fn tcp_info(_socket: impl AsFd) -> Option<TcpInfo> {
    None
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::Instant;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        (near, listener.accept().expect("it is there").0)
    }

    fn asked(socket: &TcpStream) -> TcpInfo {
        tcp_info(socket).expect("Linux says it")
    }

    /// Asks until it holds.
    fn becomes(socket: &TcpStream, holds: impl Fn(&TcpInfo) -> bool) -> TcpInfo {
        let until = Instant::now() + PATIENCE;
        loop {
            let info = asked(socket);
            if holds(&info) {
                return info;
            }
            assert!(Instant::now() < until, "{info:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_quiet_connection_has_nothing_on_its_way_and_times_that_fit() {
        let (mut near, mut far) = pair();
        near.write_all(b"x").expect("there is room");
        far.read_exact(&mut [0]).expect("it arrives");
        let info = becomes(&near, |info| info.unacked == 0);
        assert_eq!(info.notsent_bytes, 0, "{info:?}");
        // Its SYN counts.
        assert_eq!(info.acknowledged_bytes, 2, "{info:?}");
        assert!(info.rtt > Duration::ZERO && info.rtt < PATIENCE, "{info:?}");
        assert!(info.rto >= Duration::from_millis(5) && info.rto <= Duration::from_secs(120), "{info:?}");
        becomes(&near, |later| later.last_ack_recv >= info.last_ack_recv + Duration::from_millis(50));
    }

    #[test]
    fn what_a_peer_does_not_read_is_counted_as_not_sent() {
        let (mut near, _far) = pair();
        near.set_nonblocking(true).expect("settable");
        let mut written = 0;
        while let Ok(count) = near.write(&[0; 65_536]) {
            written += count;
        }
        let info = becomes(&near, |info| info.notsent_bytes > 0);
        assert!((info.notsent_bytes as usize) < written, "{info:?}, {written} written");
    }

    #[test]
    fn a_socket_of_another_kind_says_nothing() {
        assert_eq!(tcp_info(UdpSocket::bind("127.0.0.1:0").expect("a port")), None);
    }
}
