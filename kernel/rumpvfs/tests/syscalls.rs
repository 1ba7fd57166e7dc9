//! The file system calls, for processes, on a file system that can be written and on one that cannot.

mod testfs;

use rumpkern::file::File;
use rumpkern::kauth::Cred;
use rumpkern::lwp::curproc;
use rumpkern::proc::Proc;
use rumpuser::Errno;
use rumpvfs::namei::{Access, Last};
use rumpvfs::pagecache::Patience;
use rumpvfs::syscalls::{self, OpenFlags, Whence};
use rumpvfs::vfs::Sizes;
use rumpvfs::vnode::{DirEntry, VnodeType, Wait};
use std::sync::Arc;
use testfs::{ROOT, Rig, TestDisk, Volume, attach, pattern};

const MEMORY: usize = 4 << 20;
const SIZES: Sizes = Sizes {
    vnodes: 32,
    names: 256,
    buffers: 8,
};
const RW: OpenFlags = OpenFlags::READ.union(OpenFlags::WRITE);

fn tree(volume: &mut Volume, disk: &TestDisk) {
    let dir = volume.dir(ROOT, "dir");
    volume.file(disk, dir, "file", &pattern(1, 10_000), false);
    volume.link(ROOT, "link", "dir/file");
}

fn rig() -> (Rig, Arc<Proc>) {
    (Rig::new(SIZES, 20_000, (4096, 0), tree), curproc().unwrap())
}

fn open(rig: &Rig, proc: &Proc, path: &str, flags: OpenFlags) -> Result<Arc<File>, Errno> {
    rig.vfs.open(proc, path.as_bytes(), flags, 0o666)
}

#[test]
fn an_open_file_is_read_sought_and_looked_at() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    let bytes = pattern(1, 10_000);
    let file = open(&rig, &proc, "/link", OpenFlags::READ).unwrap();
    let mut buf = vec![0; 6000];
    assert_eq!(file.read(&mut buf), Ok(6000));
    assert!(buf == bytes[..6000]);
    assert_eq!(file.read(&mut buf), Ok(4000));
    assert_eq!(file.read(&mut buf), Ok(0));
    assert_eq!(file.read_at(9_990, &mut buf), Ok(10));
    assert_eq!(syscalls::lseek(&file, -5, Whence::End), Ok(9_995));
    assert_eq!(syscalls::lseek(&file, -5, Whence::Current), Ok(9_990));
    assert_eq!(syscalls::lseek(&file, -1, Whence::Set), Err(Errno::EINVAL));
    assert_eq!(
        syscalls::lseek(&file, i64::MAX, Whence::Current),
        Err(Errno::EINVAL)
    );
    assert_eq!(file.read(&mut buf), Ok(10));
    let stat = syscalls::fstat(&file).unwrap();
    assert_eq!((stat.attr.size, stat.attr.vtype), (10_000, VnodeType::Reg));
    assert_eq!(rig.vfs.stat(&proc, b"link").unwrap(), stat);
    assert_eq!(
        rig.vfs.lstat(&proc, b"link").unwrap().attr.vtype,
        VnodeType::Lnk
    );
    assert_eq!(rig.vfs.readlink(&proc, b"link").unwrap(), b"dir/file");
    assert_eq!(rig.vfs.readlink(&proc, b"dir").err(), Some(Errno::EINVAL));
    assert_eq!(file.write(b"x"), Err(Errno::EBADF));
    let frames = syscalls::read_frames(&file, 5_000, 100, Patience::Wait).unwrap();
    assert!(frames[0].frame.as_bytes()[frames[0].offset..][..100] == bytes[5_000..5_100]);
}

#[test]
fn descriptors_are_given_used_and_closed() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    let fd = rig
        .vfs
        .sys_open(&proc, b"dir/file", OpenFlags::READ, 0)
        .unwrap();
    let file = proc.fds().get(fd).unwrap();
    assert_eq!(file.read(&mut [0; 10]), Ok(10));
    drop(file);
    proc.fds().close(fd).unwrap();
    assert_eq!(proc.fds().get(fd).err(), Some(Errno::EBADF));
    assert_eq!(rig.unmount(), Ok(()), "nothing is left open");
}

#[test]
fn directories_are_read_on_from_where_the_reader_stopped() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    let dir = open(&rig, &proc, "/", OpenFlags::READ | OpenFlags::DIRECTORY).unwrap();
    let mut names = Vec::new();
    loop {
        let before = names.len();
        syscalls::getdents(&dir, &mut |entry: &DirEntry<'_>| {
            if names.len() == before + 1 {
                return false;
            }
            names.push(String::from_utf8(entry.name.to_vec()).unwrap());
            true
        })
        .unwrap();
        if names.len() == before {
            break;
        }
    }
    assert_eq!(names, [".", "..", "dir", "link"]);
    assert_eq!(dir.read(&mut [0; 10]), Err(Errno::EISDIR));
    let file = open(&rig, &proc, "dir/file", OpenFlags::READ).unwrap();
    let read = syscalls::getdents(&file, &mut |_: &DirEntry<'_>| true);
    assert_eq!(read, Err(Errno::ENOTDIR));
}

#[test]
fn open_answers_what_open_2_says() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    for (path, flags, errno) in [
        ("dir", RW, Errno::EISDIR),
        (
            "dir/file",
            OpenFlags::READ | OpenFlags::DIRECTORY,
            Errno::ENOTDIR,
        ),
        ("link", OpenFlags::READ | OpenFlags::NOFOLLOW, Errno::ELOOP),
        ("nothing", RW, Errno::ENOENT),
        (
            "dir/file",
            RW | OpenFlags::CREAT | OpenFlags::EXCL,
            Errno::EEXIST,
        ),
        (
            "link",
            RW | OpenFlags::CREAT | OpenFlags::EXCL,
            Errno::EEXIST,
        ),
        ("new/", RW | OpenFlags::CREAT, Errno::EISDIR),
        ("nothing/new", RW | OpenFlags::CREAT, Errno::ENOENT),
        ("dir/file", OpenFlags::empty(), Errno::EINVAL),
    ] {
        assert_eq!(
            open(&rig, &proc, path, flags).err(),
            Some(errno),
            "{path} {flags:?}"
        );
    }
}

#[test]
fn files_are_made_written_appended_to_and_removed_while_open() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    assert_eq!(rig.vfs.stat(&proc, b"new").err(), Some(Errno::ENOENT));
    let file = open(&rig, &proc, "new", RW | OpenFlags::CREAT | OpenFlags::EXCL).unwrap();
    assert_eq!(
        rig.vfs.stat(&proc, b"new").unwrap().attr.size,
        0,
        "its absence is forgotten"
    );
    assert_eq!(file.write(b"hello"), Ok(5));
    assert_eq!(file.write(b", world"), Ok(7));
    let appended = open(&rig, &proc, "new", RW | OpenFlags::APPEND).unwrap();
    assert_eq!(appended.write(b"!"), Ok(1));
    let mut buf = [0; 20];
    assert_eq!(file.read_at(0, &mut buf), Ok(13));
    assert_eq!(&buf[..13], b"hello, world!");
    assert_eq!(rig.vfs.unlink(&proc, b"new"), Ok(()));
    assert_eq!(rig.vfs.stat(&proc, b"new").err(), Some(Errno::ENOENT));
    assert_eq!(
        file.read_at(0, &mut buf),
        Ok(13),
        "it lives while it is open"
    );
    let nodes = || rig.fs.volume.lock().unwrap().nodes.len();
    let before = nodes();
    drop((file, appended));
    assert_eq!(nodes(), before - 1, "and no longer");
}

#[test]
fn truncation_and_growth_show_zeroes() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    let file = open(&rig, &proc, "dir/file", RW).unwrap();
    assert_eq!(syscalls::ftruncate(&file, 5_000), Ok(()));
    assert_eq!(rig.vfs.truncate(&proc, b"dir/file", 12_000), Ok(()));
    let mut buf = vec![1; 12_000];
    assert_eq!(file.read(&mut buf), Ok(12_000));
    assert!(buf[..5_000] == pattern(1, 5_000) && buf[5_000..] == [0; 7_000]);
    assert_eq!(rig.vfs.truncate(&proc, b"dir", 0), Err(Errno::EISDIR));
    drop(open(&rig, &proc, "dir/file", RW | OpenFlags::TRUNC).unwrap());
    assert_eq!(file.read_at(0, &mut buf), Ok(0));
}

#[test]
fn sync_writes_every_dirty_file() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    // With those that are there, fewer than three quarters of the vnodes that are kept: nothing is written to make room.
    for number in 0..20 {
        let name = format!("f{number}");
        let file = open(&rig, &proc, &name, RW | OpenFlags::CREAT).unwrap();
        assert_eq!(file.write(&[number; 3000]), Ok(3000));
    }
    assert_eq!(rig.vfs.stats().pages.dirty, 20);
    assert_eq!(rig.vfs.sync(Wait::Stable), Ok(()));
    assert_eq!(rig.vfs.stats().pages.dirty, 0);
    let bytes = rig.disk.shared().bytes.lock().unwrap();
    for number in 0..20 {
        let there = bytes
            .windows(3000)
            .step_by(512)
            .any(|bytes| *bytes == [number; 3000]);
        assert!(there, "file {number} is not on the disk");
    }
}

#[test]
fn renames_follow_posix() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    let vfs = &rig.vfs;
    vfs.mkdir(&proc, b"dir/sub", 0o777).unwrap();
    vfs.mkdir(&proc, b"empty", 0o777).unwrap();
    for (from, to, errno) in [
        ("nothing", "x", Errno::ENOENT),
        ("dir", "dir/sub/x", Errno::EINVAL),
        ("dir", "dir/x", Errno::EINVAL),
        ("dir", "link", Errno::ENOTDIR),
        ("link", "empty", Errno::EISDIR),
        ("link/", "x", Errno::ENOTDIR),
        ("dir/sub", "dir", Errno::ENOTEMPTY),
        ("dir/.", "x", Errno::EINVAL),
    ] {
        let renamed = vfs.rename(&proc, from.as_bytes(), to.as_bytes());
        assert_eq!(renamed, Err(errno), "{from} to {to}");
    }
    let file = vfs.stat(&proc, b"dir/file").unwrap().attr.fileid;
    assert_eq!(vfs.rename(&proc, b"dir/file", b"empty/moved"), Ok(()));
    assert_eq!(vfs.stat(&proc, b"empty/moved").unwrap().attr.fileid, file);
    assert_eq!(vfs.stat(&proc, b"dir/file").err(), Some(Errno::ENOENT));
    assert_eq!(
        vfs.rename(&proc, b"empty/moved", b"link"),
        Ok(()),
        "over a link"
    );
    assert_eq!(vfs.lstat(&proc, b"link").unwrap().attr.fileid, file);
    assert_eq!(
        vfs.rename(&proc, b"dir/sub", b"empty"),
        Ok(()),
        "over an empty directory"
    );
    let up = vfs.stat(&proc, b"empty/..").unwrap().attr.fileid;
    assert_eq!(up, ROOT);
    assert_eq!(vfs.rename(&proc, b"link", b"link"), Ok(()));
}

#[test]
fn names_are_made_linked_and_removed_as_asked() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    let vfs = &rig.vfs;
    assert_eq!(vfs.mkdir(&proc, b"dir", 0o777), Err(Errno::EEXIST));
    assert_eq!(vfs.mkdir(&proc, b"/", 0o777), Err(Errno::EEXIST));
    assert_eq!(vfs.mkdir(&proc, b"made/", 0o777), Ok(()));
    assert_eq!(vfs.stat(&proc, b"made").unwrap().attr.mode, 0o755);
    assert_eq!(vfs.symlink(&proc, b"dir/file", b"made/l"), Ok(()));
    assert_eq!(
        vfs.stat(&proc, b"made/l").err(),
        Some(Errno::ENOENT),
        "relative to the link"
    );
    assert_eq!(vfs.symlink(&proc, b"", b"made/e"), Err(Errno::ENOENT));
    assert_eq!(vfs.link(&proc, b"dir/file", b"made/hard"), Ok(()));
    assert_eq!(vfs.stat(&proc, b"made/hard").unwrap().attr.nlink, 2);
    assert_eq!(vfs.link(&proc, b"dir", b"made/d"), Err(Errno::EPERM));
    assert_eq!(vfs.rmdir(&proc, b"made"), Err(Errno::ENOTEMPTY));
    assert_eq!(vfs.rmdir(&proc, b"made/hard"), Err(Errno::ENOTDIR));
    assert_eq!(vfs.unlink(&proc, b"made"), Err(Errno::EPERM));
    assert_eq!(vfs.unlink(&proc, b"made/hard"), Ok(()));
    assert_eq!(vfs.unlink(&proc, b"made/l"), Ok(()));
    assert_eq!(vfs.rmdir(&proc, b"made"), Ok(()));
    assert_eq!(vfs.rmdir(&proc, b"/"), Err(Errno::EBUSY));
    assert_eq!(vfs.mknod(&proc, b"fifo", VnodeType::Fifo, 0o644, 0), Ok(()));
    assert_eq!(open(&rig, &proc, "fifo", RW).err(), Some(Errno::EOPNOTSUPP));
}

#[test]
fn a_read_only_mount_answers_erofs_to_everything_that_writes() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    let mount = rig.vfs.mounts()[0].clone();
    rig.vfs.remount(&mount, "ro").unwrap();
    let vfs = &rig.vfs;
    let erofs = Err(Errno::EROFS);
    assert_eq!(open(&rig, &proc, "dir/file", RW).err(), Some(Errno::EROFS));
    assert_eq!(
        open(&rig, &proc, "new", RW | OpenFlags::CREAT).err(),
        Some(Errno::EROFS)
    );
    assert_eq!(vfs.mkdir(&proc, b"d", 0o777), erofs);
    assert_eq!(vfs.unlink(&proc, b"dir/file"), erofs);
    assert_eq!(vfs.rename(&proc, b"dir/file", b"x"), erofs);
    assert_eq!(vfs.symlink(&proc, b"t", b"x"), erofs);
    assert_eq!(vfs.link(&proc, b"dir/file", b"x"), erofs);
    assert_eq!(vfs.truncate(&proc, b"dir/file", 0), erofs);
    assert_eq!(vfs.chmod(&proc, b"dir/file", 0o600), erofs);
    assert_eq!(
        vfs.chown(&proc, b"dir/file", Last::Follow, Some(1), None),
        erofs
    );
    assert_eq!(vfs.utimens(&proc, b"dir/file", Last::Follow, None), erofs);
    assert_eq!(vfs.access(&proc, b"dir/file", Access::WRITE), erofs);
    assert_eq!(vfs.access(&proc, b"dir/file", Access::READ), Ok(()));
    assert!(vfs.statvfs(&proc, b"dir").unwrap().read_only);
    let file = open(&rig, &proc, "dir/file", OpenFlags::READ).unwrap();
    assert_eq!(file.read(&mut [0; 10]), Ok(10));
    assert_eq!(syscalls::fsync(&file), Ok(()));
}

#[test]
fn working_and_root_directories_are_where_paths_start() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    let vfs = &rig.vfs;
    assert_eq!(vfs.chdir(&proc, b"dir"), Ok(()));
    assert!(vfs.stat(&proc, b"file").is_ok());
    assert!(vfs.stat(&proc, b"/dir/file").is_ok());
    assert_eq!(vfs.chdir(&proc, b"file"), Err(Errno::ENOTDIR));
    assert_eq!(rig.unmount(), Err(Errno::EBUSY), "the directory is used");
    rig.restore();
    assert_eq!(vfs.chroot(&proc, b"/dir"), Ok(()));
    assert!(vfs.stat(&proc, b"/file").is_ok());
    assert!(vfs.stat(&proc, b"/../../file").is_ok());
    assert_eq!(vfs.stat(&proc, b"/dir").err(), Some(Errno::ENOENT));
    drop((proc.set_root(None), proc.set_cwd(None)));
    assert_eq!(rig.unmount(), Ok(()));
}

#[test]
fn somebody_else_may_do_what_the_modes_allow_him() {
    let _lwp = attach(MEMORY);
    let (rig, proc) = rig();
    proc.set_cred(Cred {
        uid: 1000,
        gid: 1000,
        groups: Vec::new(),
    });
    let vfs = &rig.vfs;
    assert!(open(&rig, &proc, "dir/file", OpenFlags::READ).is_ok());
    assert_eq!(open(&rig, &proc, "dir/file", RW).err(), Some(Errno::EACCES));
    assert_eq!(vfs.unlink(&proc, b"dir/file"), Err(Errno::EACCES));
    assert_eq!(vfs.mkdir(&proc, b"d", 0o777), Err(Errno::EACCES));
    assert_eq!(vfs.chmod(&proc, b"dir/file", 0o666), Err(Errno::EPERM));
    assert_eq!(vfs.chroot(&proc, b"dir"), Err(Errno::EPERM));
    assert_eq!(vfs.sys_unmount(&proc, b"/"), Err(Errno::EPERM));
    assert_eq!(
        vfs.access(&proc, b"dir/file", Access::EXEC),
        Err(Errno::EACCES)
    );
}
