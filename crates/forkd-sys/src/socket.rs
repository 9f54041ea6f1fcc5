use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with,
};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Connects to a Unix socket without waiting for whoever listens there to accept.
///
/// # Errors
/// As `connect(2)`; [`io::ErrorKind::WouldBlock`] where others wait already, and no more may.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect_to(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}
