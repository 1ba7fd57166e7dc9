//! A volume with a log whose disk or memory fails: what could not be freed when its last user went is freed later, and a mount
//! that fails leaves a volume as it found it.

mod rig;

use std::ops::Range;
use std::sync::Arc;

use rig::{Image, Rig, assert_consistent, attach, make, options};
use rumpfs_ffs::check::repair::repair;
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpkern::file::File;
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::syscalls::{self, OpenFlags};
use rumpvfs::vnode::Wait;

const MEMORY: usize = 1 << 20;
const NEW: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREAT);
/// Bytes of a file that has an indirect block.
const LONG: u64 = 200_000;

/// A volume with a log, and on it a file that is open and has no name any more; its indirect block, which is in no cache.
fn with_a_nameless_file() -> (Rig, Arc<File>, Range<u64>) {
    let bytes = make(options(Format::Ufs2, Order::Little, 4096, 8, 2048));
    let rig = Rig::with(bytes, "log").expect("there is room for a log");
    let file = rig.vfs.open(&rig.proc, b"/long", NEW, 0o644);
    let file = file.expect("it can be made");
    let bytes = vec![7; LONG as usize];
    assert_eq!(file.write_at(0, &bytes), Ok(bytes.len()));
    for number in 0..60 {
        let path = format!("/d{number}");
        let made = rig.vfs.mkdir(&rig.proc, path.as_bytes(), 0o755);
        made.expect("there is room");
    }
    let indirect = gap(&file);
    rig.vfs.unlink(&rig.proc, b"/long").expect("it is there");
    rig.vfs.sync(Wait::Stable).expect("stable");
    // Their blocks come into the cache, others go.
    for number in 0..60 {
        let path = format!("/d{number}/nothing");
        let found = rig.vfs.stat(&rig.proc, path.as_bytes());
        assert_eq!(found.err(), Some(Errno::ENOENT));
    }
    (rig, file, indirect)
}

/// What lies between the first blocks of a file and the next: its indirect block.
fn gap(file: &File) -> Range<u64> {
    let vnode = syscalls::file_vnode(file).expect("it is a file");
    let (mut at, mut end) = (0, None);
    while at < LONG {
        let run = vnode.ops().bmap(at, LONG - at).expect("it can be read");
        let sector = run.sector.expect("it has no holes");
        if let Some(end) = end.filter(|end| *end < sector) {
            return end..sector;
        }
        end = Some(sector + run.bytes / SECTOR_SIZE as u64);
        at += run.bytes;
    }
    panic!("an indirect block lies between");
}

#[test]
fn a_file_that_could_not_be_freed_when_its_last_user_went_is_freed_at_the_unmount() {
    let _lwp = attach(MEMORY);
    let (rig, file, indirect) = with_a_nameless_file();
    rig.disk.faults.lock().unwrap().reads = vec![indirect];
    drop(file);
    let faults = std::mem::take(&mut *rig.disk.faults.lock().unwrap());
    assert!(faults.failed > 0, "its blocks were in the cache");
    rig.finish("after the disk was mended");
}

#[test]
fn a_file_that_cannot_be_freed_is_left_to_a_check() {
    let _lwp = attach(MEMORY);
    let (rig, file, indirect) = with_a_nameless_file();
    rig.disk.faults.lock().unwrap().reads = vec![indirect];
    drop(file);
    rig.unmount();
    assert!(rig.disk.faults.lock().unwrap().failed > 1);
    let bytes = rig.disk.bytes();
    assert_eq!(
        Rig::with(bytes.clone(), "").err(),
        Some(Errno::EROFS),
        "it is to be checked before"
    );
    let mut image = Image(bytes);
    let repaired = repair(&mut image).expect("it can be repaired");
    assert!(!repaired.repaired.is_empty());
    assert_consistent(&repaired.left, "after the repair");
    Rig::new(image.0).finish("after the repair");
}

#[test]
fn a_volume_without_room_for_a_log_stays_clean() {
    let _lwp = attach(MEMORY);
    let rig = Rig::new(make(options(Format::Ufs2, Order::Little, 4096, 8, 256)));
    rig.unmount();
    assert_eq!(rig.mount("log"), Err(Errno::ENOSPC));
    assert_eq!(rig.mount(""), Ok(()));
    rig.vfs
        .mkdir(&rig.proc, b"/new", 0o755)
        .expect("it can be written");
    rig.finish("without a log");
}
