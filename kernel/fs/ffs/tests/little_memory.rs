//! What a volume goes without when memory is little, and what not.

mod rig;

use rig::{Rig, attach, make, options};
use rumpfs_ffs::order::Order;
use rumpfs_ffs::superblock::Format;
use rumpkern::uvm;
use rumpuser::Errno;
use rumpvfs::syscalls::{self, OpenFlags};
use rumpvfs::vnode::DirEntry;

const MEMORY: usize = 1 << 20;
const NAMES: u32 = 2000;
const LOOKUPS: u64 = 10;

#[test]
fn a_page_that_a_directory_hash_is_refused_is_taken_from_the_pages_of_files() {
    let _lwp = attach(MEMORY);
    let volume = options(Format::Ufs2, Order::Little, 8192, 2, 1024);
    let rig = Rig::new(make(volume));
    let new = OpenFlags::READ | OpenFlags::WRITE | OpenFlags::CREAT;
    let open = |path: &str, flags| rig.vfs.open(&rig.proc, path.as_bytes(), flags, 0o644);
    let large = open("/large", new).expect("made");
    let mut piece = vec![1; 64 << 10];
    for _ in 0..4 {
        assert_eq!(large.write(&piece), Ok(piece.len()));
    }
    drop(large);
    rig.vfs.mkdir(&rig.proc, b"/d", 0o755).expect("made");
    for n in 0..NAMES {
        let name = format!("/d/name-{n}");
        let linked = rig.vfs.link(&rig.proc, b"/large", name.as_bytes());
        linked.expect("linked");
    }
    for refused in 1..40 {
        rig.unmount();
        rig.mount("").expect("it can be mounted");
        // Pages that were used once, and are clean.
        let large = open("/large", OpenFlags::READ).expect("it is there");
        for _ in 0..4 {
            assert_eq!(large.read(&mut piece), Ok(piece.len()));
        }
        // And the whole directory is in the buffer cache, so that only the hash needs pages.
        let directory = open("/d", OpenFlags::READ).expect("it is there");
        syscalls::getdents(&directory, &mut |_: &DirEntry<'_>| true).expect("read");
        uvm::fail_after(refused);
        let found = open("/d/none", OpenFlags::READ).err();
        uvm::fail_after(0);
        // What is refused may be the look-up's own, before the directory is read at all.
        assert!(
            matches!(found, Some(Errno::ENOENT | Errno::ENOMEM)),
            "{found:?}"
        );
        let before = rig.vfs.bufs().stats();
        for n in 0..LOOKUPS {
            let found = open(&format!("/d/none-{n}"), OpenFlags::READ).err();
            assert_eq!(found, Some(Errno::ENOENT));
        }
        let after = rig.vfs.bufs().stats();
        let looks = after.hits + after.misses - before.hits - before.misses;
        // To read the directory takes one for each of its blocks at least, which are more than four.
        assert!(
            looks < LOOKUPS * 4,
            "{looks} looks, allocation {refused} refused"
        );
    }
    rig.finish("a large directory");
}
