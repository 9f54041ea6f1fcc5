//! Files that are shown by a real mount (`/dev/fuse`, and root or a user namespace).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use forkd_core::mount::{Mount, Mounter, PageReader, ReadAnswer, ReadRequest, ShownFile};
use forkd_mount::FuseMounter;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SIZE: u64 = (1 << 20) + 100;

/// Answers with bytes that tell where they stand; what begins at 64 KiB comes late, and what begins at 128 KiB never.
#[derive(Default)]
struct Counting {
    requests: Mutex<Vec<ReadRequest>>,
}

fn byte(file: usize, at: u64) -> u8 {
    (at / 4096) as u8 ^ (at % 251) as u8 ^ file as u8
}

impl PageReader for Counting {
    fn read(&self, request: ReadRequest, answer: ReadAnswer) {
        self.requests.lock().unwrap().push(request);
        let bytes: Vec<u8> =
            (request.offset..request.offset + request.len as u64).map(|at| byte(request.file, at)).collect();
        match request.offset >> 16 {
            1 => drop(std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                answer(Ok(&bytes));
            })),
            2 => answer(Err(std::io::Error::from_raw_os_error(5))),
            _ => answer(Ok(&bytes)),
        }
    }
}

fn mounted() -> Option<(Arc<Counting>, Box<dyn Mount>)> {
    if let Err(error) = FuseMounter::probe() {
        println!("not tried: {error}");
        return None;
    }
    let reader = Arc::new(Counting::default());
    let file = |name: &str, mapped| ShownFile { name: name.into(), size: SIZE, mapped };
    let files = vec![file("memory.bin", true), file("rootfs.ext4", false)];
    let mount = FuseMounter.mount(files, Arc::clone(&reader) as Arc<dyn PageReader>).unwrap();
    Some((reader, mount))
}

#[test]
fn files_have_their_sizes_and_bytes_and_end_where_they_end() {
    let Some((_, mount)) = mounted() else { return };
    let mut names: Vec<_> =
        std::fs::read_dir(mount.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["memory.bin", "rootfs.ext4"]);
    for (number, name) in ["memory.bin", "rootfs.ext4"].into_iter().enumerate() {
        let file = File::open(mount.dir().join(name)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), SIZE);
        let mut end = vec![0; 5000];
        let read = file.read_at(&mut end, SIZE - 4000).unwrap();
        assert_eq!(read, 4000);
        assert!((0..4000).all(|i| end[i] == byte(number, SIZE - 4000 + i as u64)));
        assert_eq!(file.read_at(&mut end, SIZE).unwrap(), 0);
    }
    assert!(File::open(mount.dir().join("other")).is_err());
    assert!(File::create(mount.dir().join("new")).is_err());
    assert!(!std::fs::read_to_string("/proc/mounts").unwrap().contains("fuse.forkd"));
}

#[test]
fn a_read_that_is_late_holds_up_no_other_and_one_that_fails_is_told() {
    let Some((_, mount)) = mounted() else { return };
    let path = mount.dir().join("rootfs.ext4");
    std::thread::scope(|scope| {
        let late = scope.spawn(|| {
            let mut page = [0; 4096];
            File::open(&path).unwrap().read_exact_at(&mut page, 64 << 10).unwrap();
            page
        });
        let file = File::open(&path).unwrap();
        let mut page = [0; 4096];
        while !late.is_finished() {
            file.read_exact_at(&mut page, 0).unwrap();
            assert_eq!(page[17], byte(1, 17));
        }
        assert_eq!(late.join().unwrap()[3], byte(1, (64 << 10) + 3));
        assert_eq!(file.read_exact_at(&mut page, 128 << 10).unwrap_err().raw_os_error(), Some(5));
    });
}

#[test]
fn a_mapped_file_is_asked_for_once_and_for_no_neighbours() {
    let Some((reader, mount)) = mounted() else { return };
    let file = File::open(mount.dir().join("memory.bin")).unwrap();
    for _ in 0..3 {
        let mut page = [0; 4096];
        File::open(mount.dir().join("memory.bin")).unwrap().read_exact_at(&mut page, 8 * 4096).unwrap();
        assert_eq!(page[5], byte(0, 8 * 4096 + 5));
    }
    let requests = reader.requests.lock().unwrap().clone();
    let asked: Vec<_> = requests.iter().map(|request| (request.file, request.offset, request.len)).collect();
    assert_eq!(asked, [(0, 8 * 4096, 4096)]);
    assert_eq!(forkd_sys::process_of(requests[0].pid), Some(std::process::id()), "who reads is told");
    drop(file);
}

#[test]
fn who_has_a_file_open_reads_on_without_the_mount_until_it_is_closed() {
    let Some((_, mount)) = mounted() else { return };
    let dir = mount.dir().to_owned();
    let mut file = File::open(dir.join("rootfs.ext4")).unwrap();
    drop(mount);
    assert!(File::open(dir.join("rootfs.ext4")).is_err(), "the folder is gone");
    let mut page = [0; 4096];
    let read = file.read(&mut page);
    // Whether the session still answers is the kernel's: it never hangs.
    assert!(read.is_err() || page[1] == byte(1, 1));
}
