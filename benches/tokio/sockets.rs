//! Sockets with the options of the product's.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};

use rustix::io::Errno;
use skyorg::reactor::world::options::{Options, Way};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

const BACKLOG: u32 = 4096;

/// Binds and listens. What is accepted inherits the listener's options (tcp(7)).
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuseaddr(true)?;
    Options::default().set(&SockRef::from(&socket), address, Way::Accepted)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Connects. Tokio's own connect fails if the peer has reset by now, though what the peer said before is still here.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    Options::default().set(&SockRef::from(&socket), address, Way::Dialled)?;
    match socket.connect(&address.into()) {
        // The connection is being made (connect(2)).
        Err(error) if Errno::from_io_error(&error) != Some(Errno::INPROGRESS) => return Err(error),
        _ => {}
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    if stream.peer_addr().is_err() && SockRef::from(&stream).peek(&mut [MaybeUninit::uninit()])? == 0 {
        return Err(io::ErrorKind::ConnectionReset.into());
    }
    Ok(stream)
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }
}

/// Closes so that what was sent still arrives, and then an end.
pub fn close_in_peace(stream: TcpStream) {
    let _ = SockRef::from(&stream).set_linger(None);
}

/// Ends the outgoing direction.
pub fn shut_down(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).shutdown(Shutdown::Write)
}
