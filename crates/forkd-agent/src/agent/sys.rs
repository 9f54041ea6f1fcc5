//! What the agent asks its guest's kernel for: the system calls that neither std nor rustix wraps. The agent's only unsafe code; each
//! block says why it is sound. What the host asks its own kernel for is in crates/forkd-sys, so that a change there leaves the agent, and
//! with it what is frozen into snapshots, as it is.

use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes the child the leader of a session of its own (`setsid(2)`): no terminal's signals reach it.
pub(super) fn new_session(command: &mut Command) {
    // SAFETY: between fork and exec only setsid is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
}

/// Puts the child into the control group whose `cgroup.procs` this open file is.
pub(super) fn join_cgroup(command: &mut Command, procs: File) {
    // SAFETY: between fork and exec only write is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || rustix::io::write(&procs, b"0").map(drop).map_err(io::Error::from));
    }
}

/// Gives the child its standard input as its controlling terminal (`TIOCSCTTY`). It must lead a session already ([`new_session`]).
pub(super) fn take_terminal(command: &mut Command) {
    // SAFETY: between fork and exec only ioctl is called, which is async-signal-safe; descriptor 0 is open, std has put the child's
    // standard input there.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::ioctl_tiocsctty(BorrowedFd::borrow_raw(0))?));
    }
}

/// Gives this thread root's group as its only further one, and so those that it starts.
pub(super) fn take_roots_group() -> io::Result<()> {
    // SAFETY: the pointer is to one group.
    check(unsafe { libc::setgroups(1, [0].as_ptr()) })
}

/// Makes the child another user, with these groups. To be called last: what is asked for later is asked as that user.
pub(super) fn become_user(command: &mut Command, uid: u32, gid: u32, groups: Vec<u32>) {
    // SAFETY: between fork and exec only system calls are made, on a list that was allocated before.
    unsafe {
        command.pre_exec(move || {
            check(libc::setgroups(groups.len(), groups.as_ptr()))?;
            check(libc::setresgid(gid, gid, gid))?;
            check(libc::setresuid(uid, uid, uid))
        });
    }
}

/// Mixes bytes into the kernel's random generator as entropy that counts in full, and lets it draw new keys from them at once.
///
/// # Errors
/// As the ioctls `RNDADDENTROPY` and `RNDRESEEDCRNG` of `random(4)`.
pub(super) fn add_entropy(seed: &[u8; 32]) -> io::Result<()> {
    /// `struct rand_pool_info` with room for the seed.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        len: libc::c_int,
        bytes: [u8; 32],
    }
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    let device = File::options().write(true).open("/dev/urandom")?;
    let pool = Pool { bits: 256, len: 32, bytes: *seed };
    // SAFETY: the kernel reads `len` bytes behind the two numbers; they are there for as long as `pool` lives.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY as _, &raw const pool) })?;
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG as _, 0) })
}

/// What of a file is in the page cache, mapped: the kernel does not drop it for as long as this lives.
#[derive(Debug)]
pub(super) struct PageCachePin {
    at: *mut libc::c_void,
    len: usize,
}

impl PageCachePin {
    /// Maps what of a file is in memory, and reads nothing from the disk.
    ///
    /// # Errors
    /// As `mmap(2)` and `mincore(2)`; for an empty file too.
    pub(super) fn cached(file: &File) -> io::Result<Self> {
        let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        // SAFETY: a new mapping, of which nothing is known elsewhere; it is unmapped once, when this is dropped.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let pin = Self { at, len };
        let mut resident = vec![0u8; len.div_ceil(4096)];
        // SAFETY: the mapping is `len` bytes long, and the vector has a byte for each of its pages.
        check(unsafe { libc::mincore(at, len, resident.as_mut_ptr()) })?;
        for (page, _) in resident.iter().enumerate().filter(|(_, state)| **state & 1 == 1) {
            // SAFETY: the page lies in the mapping. It is in memory, and a file that is cut off meanwhile is the caller's to prevent.
            unsafe { at.cast::<u8>().add(page * 4096).read_volatile() };
        }
        Ok(pin)
    }
}

impl Drop for PageCachePin {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours, and nothing points into it any more.
        unsafe { libc::munmap(self.at, self.len) };
    }
}

/// Gives a network interface an address and its mask, if any are named, and sets it up.
///
/// # Errors
/// As the ioctls of `netdevice(7)`.
pub(super) fn interface_up(name: &str, address: Option<(Ipv4Addr, Ipv4Addr)>) -> io::Result<()> {
    let socket = any_socket()?;
    if let Some((address, mask)) = address {
        for (call, address) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
            let mut request = request_for(name)?;
            request.ifr_ifru.ifru_addr = socket_address(address);
            // SAFETY: the kernel reads one `ifreq`, whose address was set.
            check(unsafe { libc::ioctl(socket.as_raw_fd(), call as _, &raw const request) })?;
        }
    }
    let mut request = request_for(name)?;
    // SAFETY: the kernel writes one `ifreq`.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) })?;
    // SAFETY: the call above has set this field of the union, and every bit pattern is a number.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    // SAFETY: the kernel reads one `ifreq`, whose flags were set.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })
}

/// Sends everything that has no nearer route by way of a gateway. A route that is there already is fine.
///
/// # Errors
/// As the ioctl `SIOCADDRT`.
pub(super) fn default_route(gateway: Ipv4Addr) -> io::Result<()> {
    /// `struct rtentry` of linux/route.h.
    #[repr(C)]
    struct Route {
        pad1: libc::c_ulong,
        to: libc::sockaddr,
        gateway: libc::sockaddr,
        mask: libc::sockaddr,
        flags: libc::c_ushort,
        pad2: libc::c_short,
        pad3: libc::c_ulong,
        pad4: *const libc::c_void,
        metric: libc::c_short,
        device: *const libc::c_char,
        mtu: libc::c_ulong,
        window: libc::c_ulong,
        irtt: libc::c_ushort,
    }
    let everywhere = socket_address(Ipv4Addr::UNSPECIFIED);
    let route = Route {
        pad1: 0,
        to: everywhere,
        gateway: socket_address(gateway),
        mask: everywhere,
        flags: libc::RTF_UP | libc::RTF_GATEWAY,
        pad2: 0,
        pad3: 0,
        pad4: std::ptr::null(),
        metric: 0,
        device: std::ptr::null(),
        mtu: 0,
        window: 0,
        irtt: 0,
    };
    let socket = any_socket()?;
    // SAFETY: the kernel reads one `rtentry`; a device that is null is none.
    match check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) }) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Any IPv4 socket will do for asking about interfaces.
fn any_socket() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
}

fn request_for(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is made of numbers only, and all of them may be zero.
    let mut request: libc::ifreq = unsafe { zeroed() };
    // The last byte stays zero.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // Two bytes of port come first.
    for (to, from) in data[2..].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        assert!(interface_up("forkd-none0", None).is_err());
        assert_eq!(
            interface_up("a-name-that-is-too-long", None).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn addresses_lie_where_the_kernel_reads_them() {
        let address = socket_address(Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(address.sa_data[..7], [0, 0, 10, 0, 2, 15, 0]);
    }
}
