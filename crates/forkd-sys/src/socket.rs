use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect as connect_to, socket_with,
};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Connects to a Unix socket without waiting for whoever listens there to accept.
///
/// # Errors
/// As `connect(2)`; [`io::ErrorKind::WouldBlock`] where others wait already, and no more may.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let short = with_short_path(path)?;
    let path = short.as_ref().map_or(path, |(_, short)| short);
    connect_to(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Listens at a path, however long it is.
///
/// # Errors
/// As `bind(2)`; [`io::ErrorKind::InvalidInput`] for a path without a name.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match with_short_path(path)? {
        None => UnixListener::bind(path),
        Some((_folder, short)) => UnixListener::bind(short),
    }
}

/// A socket's path has at most 107 bytes: a longer one is reached through its open folder.
fn with_short_path(path: &Path) -> io::Result<Option<(File, PathBuf)>> {
    if path.as_os_str().len() < 100 {
        return Ok(None);
    }
    let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
    let (folder, name) = path.parent().zip(path.file_name()).ok_or_else(wrong)?;
    let folder = File::open(folder)?;
    let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    Ok(Some((folder, short)))
}

/// Whether the other end of a connection is gone.
#[must_use]
pub fn is_hung_up(stream: &UnixStream) -> bool {
    let mut byte = [0];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    match rustix::net::recv(stream, &mut byte, flags) {
        Ok((_, read)) => read == 0,
        Err(error) => error != rustix::io::Errno::AGAIN,
    }
}
