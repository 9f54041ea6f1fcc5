//! A FUSE filesystem that is mounted nowhere: whoever has the descriptor of its root reaches it, and with the last one it is gone.

use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::thread::UnshareFlags;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// A filesystem that is served through a descriptor.
#[derive(Debug)]
pub struct FuseMount {
    /// The connection to the kernel, on which its requests come.
    pub device: OwnedFd,
    /// Its root folder.
    pub root: OwnedFd,
}

/// Makes one. Without the right to mount it is made in a user namespace, which is left again.
///
/// # Errors
/// Where there is no `/dev/fuse`, or neither right nor user namespaces.
pub fn mount_fuse() -> io::Result<FuseMount> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    match attach(user.as_raw(), group.as_raw()) {
        Err(Errno::PERM) => {}
        mounted => return Ok(mounted?),
    }
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {} 1", user.as_raw())),
        ("/proc/self/gid_map", format!("0 {} 1", group.as_raw())),
    ];
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and the end only system calls are made, on what was allocated before; nothing is executed.
    unsafe {
        command.pre_exec(move || {
            // It leaves no process: it ends here, with this error.
            Err(attach_apart(&maps, theirs.as_fd()).err().unwrap_or(Errno::CANCELED).into())
        });
    }
    match command.spawn() {
        Err(e) if e.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => receive(ours.as_fd()),
        Err(e) => Err(e),
        Ok(mut child) => {
            child.kill()?;
            child.wait()?;
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

/// The same in namespaces of its own, in a process without threads; sends what it makes.
fn attach_apart(maps: &[(&str, String); 3], to: rustix::fd::BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the process has one thread, and ends soon.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)? };
    for (path, text) in maps {
        let file = open(*path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&file, text.as_bytes())?;
    }
    let mount = attach(0, 0)?;
    let fds = [mount.device.as_fd(), mount.root.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(to, &[IoSlice::new(b"m")], &mut control, SendFlags::empty())?;
    Ok(())
}

fn attach(user: u32, group: u32) -> Result<FuseMount, Errno> {
    let device = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let filesystem = fsopen(c"fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fd = device.as_raw_fd();
    for (key, value) in [
        (c"fd", Digits::new(fd.unsigned_abs())),
        (c"user_id", Digits::new(user)),
        (c"group_id", Digits::new(group)),
    ] {
        fsconfig_set_string(filesystem.as_fd(), key, value.as_bytes())?;
    }
    fsconfig_set_string(filesystem.as_fd(), c"rootmode", c"40000")?;
    fsconfig_create(filesystem.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let root = fsmount(filesystem.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    Ok(FuseMount { device, root })
}

fn receive(from: rustix::fd::BorrowedFd<'_>) -> io::Result<FuseMount> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(from, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    match (fds.next(), fds.next()) {
        (Some(device), Some(root)) => Ok(FuseMount { device, root }),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A number as text, without an allocation.
struct Digits {
    bytes: [u8; 10],
    begin: usize,
}

impl Digits {
    fn new(mut number: u32) -> Self {
        let mut digits = Self { bytes: [0; 10], begin: 10 };
        loop {
            digits.begin -= 1;
            digits.bytes[digits.begin] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return digits;
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }
}
