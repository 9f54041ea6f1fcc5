//! System calls of a child that are answered without being made.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `madvise(…, MADV_HUGEPAGE)` of a child succeeds and does nothing: of a mapped file it would make the kernel read a mebibyte where a page
/// is asked for.
pub fn no_huge_reads(command: &mut Command) {
    let program = huge_page_filter();
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe, on what was allocated before.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
            let done = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0;
            if done { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}

/// Offsets in `struct seccomp_data` (seccomp(2)).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const THIRD_ARGUMENT: u32 = 32;

/// `AUDIT_ARCH_X86_64` of linux/audit.h.
const X86_64: u32 = 0xC000_003E;

fn huge_page_filter() -> [libc::sock_filter; 8] {
    let load = |offset| libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset,
    };
    // Goes on where it is equal, else leads so many instructions further.
    let equal = |value, or_skip| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: or_skip,
        k: value,
    };
    let answer =
        |value| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: value };
    [
        load(ARCHITECTURE),
        equal(X86_64, 5),
        load(NUMBER),
        equal(libc::SYS_madvise as u32, 3),
        load(THIRD_ARGUMENT),
        equal(libc::MADV_HUGEPAGE as u32, 1),
        // An error of 0: success.
        answer(libc::SECCOMP_RET_ERRNO),
        answer(libc::SECCOMP_RET_ALLOW),
    ]
}
