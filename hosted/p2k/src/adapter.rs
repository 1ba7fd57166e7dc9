//! FUSE's requests as calls of `rumpvfs`.

use crate::convert::{attributes, error, file_type, generation, ino, wall_time};
use crate::handles::Handles;
use crate::nodes::Nodes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags,
    PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rumpkern::file::{FileFlags, FileOps};
use rumpkern::kauth::Cred;
use rumpuser::Errno;
use rumpvfs::syscalls::{self, OpenFlags as Open};
use rumpvfs::vnode::{
    DirEntry, InodeNumber, NewFile, S_ISGID, SetAttr, Vattr, VnodeRef, VnodeType,
};
use rustix::fs::OFlags;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use ukfs::{Error, Image};

/// For how long Linux may rely on what it was told: nobody else changes the image.
const FOREVER: Duration = Duration::from_secs(24 * 3600);
/// The most bytes of one request to read or write.
const MAX_IO: u32 = 1 << 20;
/// Requests under way without anybody waiting for each.
const MAX_BACKGROUND: u16 = 64;
/// Entries that are read from a directory before the files they name are looked at.
const BATCH: usize = 32;
/// Further groups of a process that are looked at in /proc: no more than this of the file.
const STATUS_BYTES: u64 = 64 << 10;

/// An image that is being served.
pub(crate) struct Served {
    /// `None` once it has ended.
    image: RwLock<Option<Image>>,
    nodes: Nodes,
    handles: Handles,
    root: InodeNumber,
}

/// The adapter.
pub(crate) struct Adapter(pub(crate) Arc<Served>);

impl Served {
    pub(crate) fn new(image: Image) -> Arc<Served> {
        let root = image.mount().root_ino();
        Arc::new(Served {
            image: RwLock::new(Some(image)),
            nodes: Nodes::default(),
            handles: Handles::default(),
            root,
        })
    }

    /// Does something as a thread of the image's kernel.
    fn act<T>(&self, act: impl FnOnce(&Image) -> Result<T, Errno>) -> Result<T, fuser::Errno> {
        let image = self.image.read().unwrap_or_else(PoisonError::into_inner);
        let image = image.as_ref().ok_or(fuser::Errno::ENOTCONN)?;
        let entered = image.enter().map_err(|failed| error(failed.errno()))?;
        let done = act(image);
        drop(entered);
        done.map_err(error)
    }

    /// Ends it, once what is under way is done: closes what is open, writes everything, unmounts.
    pub(crate) fn end(&self) -> Result<(), Error> {
        let mut image = self.image.write().unwrap_or_else(PoisonError::into_inner);
        let Some(image) = image.take() else {
            return Ok(());
        };
        let entered = image.enter()?;
        drop((self.handles.take_all(), self.nodes.take_all()));
        drop(entered);
        image.close()
    }

    fn vnode(&self, image: &Image, node: INodeNo) -> Result<VnodeRef, Errno> {
        image.mount().vget(ino(node, self.root))
    }

    /// What Linux is told of a file that it may not know yet.
    fn tell(&self, vnode: &VnodeRef) -> Result<(FileAttr, Generation), Errno> {
        let attr = syscalls::stat_of(vnode)?.attr;
        // It would be taken for the root, or is it: only a damaged image has that below.
        if vnode.ino() == self.root || vnode.ino() == INodeNo::ROOT.0 {
            return Err(Errno::EIO);
        }
        self.nodes.told(vnode.ino());
        Ok((attributes(&attr), generation(&attr)))
    }

    /// A file that lost a name is kept if that was its last and Linux knows it.
    fn lost_a_name(&self, vnode: &VnodeRef) -> Result<(), Errno> {
        if syscalls::stat_of(vnode)?.attr.nlink == 0 {
            self.nodes.keep(vnode);
        }
        Ok(())
    }

    fn entry(
        &self,
        reply: ReplyEntry,
        act: impl FnOnce(&Image) -> Result<(FileAttr, Generation), Errno>,
    ) {
        match self.act(act) {
            Ok((attr, generation)) => reply.entry(&FOREVER, &attr, generation),
            Err(errno) => reply.error(errno),
        }
    }

    fn empty(&self, reply: ReplyEmpty, act: impl FnOnce(&Image) -> Result<(), Errno>) {
        match self.act(act) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }
}

/// Whether the caller is in `group`, as far as that can be found out.
fn is_member(request: &Request, group: u32) -> bool {
    use std::io::Read;
    if request.gid() == group {
        return true;
    }
    let mut status = String::new();
    let path = format!("/proc/{}/status", request.pid());
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(STATUS_BYTES).read_to_string(&mut status));
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    read.is_ok()
        && groups.is_some_and(|groups| {
            let mut groups = groups.split_ascii_whitespace();
            groups.any(|one| one.parse() == Ok(group))
        })
}

/// What a new file is to be: it belongs to the caller, and to the group of its directory, which gives set-group-ID only to its
/// members.
fn new_file(
    request: &Request,
    dir: &VnodeRef,
    (vtype, mode): (VnodeType, u32),
    rdev: u32,
) -> Result<NewFile, Errno> {
    let mut mode = (mode & 0o7777) as u16;
    if mode & S_ISGID != 0 && vtype != VnodeType::Dir && request.uid() != 0 {
        let group = syscalls::stat_of(dir)?.attr.gid;
        if !is_member(request, group) {
            mode &= !S_ISGID;
        }
    }
    Ok(NewFile {
        vtype,
        mode,
        uid: request.uid(),
        rdev: rdev.into(),
    })
}

fn open_flags(flags: i32) -> Open {
    match OpenFlags(flags).acc_mode() {
        OpenAccMode::O_RDONLY => Open::READ,
        // Linux reads what it needs of a page to write the rest of it.
        OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => Open::READ | Open::WRITE,
    }
}

/// An answer that Linux keeps in mind: there is no such name.
fn nothing() -> FileAttr {
    let attr = Vattr {
        vtype: VnodeType::Reg,
        mode: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        fileid: 0,
        size: 0,
        blocksize: 0,
        atime: Default::default(),
        mtime: Default::default(),
        ctime: Default::default(),
        birthtime: Default::default(),
        generation: 0,
        flags: 0,
        rdev: 0,
        bytes: 0,
    };
    attributes(&attr)
}

/// Some entries of a directory, as they were read.
#[derive(Default)]
struct Entries(Vec<(InodeNumber, Option<VnodeType>, Vec<u8>, u64)>);

impl Entries {
    fn read(served: &Served, handle: FileHandle, cookie: u64) -> Result<Entries, Errno> {
        let mut entries = Entries::default();
        let file = served.handles.get(handle)?;
        file.readdir(cookie, &mut |entry: &DirEntry<'_>| {
            let name = entry.name.to_vec();
            let found = (entry.fileid, entry.vtype, name, entry.next_cookie);
            entries.0.push(found);
            entries.0.len() < BATCH
        })?;
        Ok(entries)
    }
}

thread_local! {
    /// What was read, on its way.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Not FUSE_READDIRPLUS_AUTO, with which who reads all names before it looks at the files (du(1), rsync(1)) asks for each of
        // them; a listing of names alone costs less than that saves.
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA;
        let wanted = wanted & config.capabilities();
        let refused = |_| io::Error::from(io::ErrorKind::Unsupported);
        config.add_capabilities(wanted).map_err(refused)?;
        config
            .set_max_write(MAX_IO)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        config
            .set_max_background(MAX_BACKGROUND)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let served = &self.0;
        let found = served.act(|image| {
            let dir = served.vnode(image, parent)?;
            match image.vfs().lookup_at(&Cred::root(), &dir, name.as_bytes()) {
                Ok(vnode) => served.tell(&vnode),
                Err(Errno::ENOENT) => Ok((nothing(), Generation(0))),
                Err(errno) => Err(errno),
            }
        });
        match found {
            Ok((attr, generation)) => reply.entry(&FOREVER, &attr, generation),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _: &Request, node: INodeNo, count: u64) {
        if let Some(vnode) = self.0.nodes.forget(ino(node, self.0.root), count) {
            // If the image has ended, nothing is kept any more.
            let _ = self.0.act(|_| {
                drop(vnode);
                Ok(())
            });
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let served = &self.0;
        match served.act(|image| syscalls::stat_of(&served.vnode(image, node)?)) {
            Ok(stat) => reply.attr(&FOREVER, &attributes(&stat.attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let served = &self.0;
        let stat = served.act(|image| {
            let vnode = served.vnode(image, node)?;
            let change = SetAttr {
                mode: mode.map(|mode| (mode & 0o7777) as u16),
                uid,
                gid,
                size,
                atime: atime.map(wall_time),
                mtime: mtime.map(wall_time),
                ..SetAttr::default()
            };
            syscalls::setattr(&vnode, &change)?;
            syscalls::stat_of(&vnode)
        });
        match stat {
            Ok(stat) => reply.attr(&FOREVER, &attributes(&stat.attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, node: INodeNo, reply: ReplyData) {
        let served = &self.0;
        match served.act(|image| syscalls::readlink_of(&served.vnode(image, node)?)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let served = &self.0;
        served.entry(reply, |image| {
            let dir = served.vnode(image, parent)?;
            let vtype = VnodeType::from_mode(mode as u16).unwrap_or(VnodeType::Reg);
            let new = new_file(request, &dir, (vtype, mode), rdev)?;
            let made = image
                .vfs()
                .make_at(&Cred::root(), &dir, name.as_bytes(), &new)?;
            served.tell(&made)
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let served = &self.0;
        served.entry(reply, |image| {
            let dir = served.vnode(image, parent)?;
            let new = new_file(request, &dir, (VnodeType::Dir, mode), 0)?;
            let made = image
                .vfs()
                .make_at(&Cred::root(), &dir, name.as_bytes(), &new)?;
            served.tell(&made)
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (served, cred, name) = (&self.0, Cred::root(), name.as_bytes());
        served.empty(reply, |image| {
            let dir = served.vnode(image, parent)?;
            let file = image.vfs().lookup_at(&cred, &dir, name)?;
            image.vfs().unlink_at(&cred, &dir, name)?;
            served.lost_a_name(&file)
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (served, cred, name) = (&self.0, Cred::root(), name.as_bytes());
        served.empty(reply, |image| {
            let dir = served.vnode(image, parent)?;
            let file = image.vfs().lookup_at(&cred, &dir, name)?;
            image.vfs().rmdir_at(&cred, &dir, name)?;
            served.lost_a_name(&file)
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let served = &self.0;
        let target = target.as_os_str().as_bytes();
        served.entry(reply, |image| {
            let dir = served.vnode(image, parent)?;
            let new = new_file(request, &dir, (VnodeType::Lnk, 0o777), 0)?;
            let made =
                image
                    .vfs()
                    .symlink_at(&Cred::root(), &dir, name.as_bytes(), (&new, target))?;
            served.tell(&made)
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (served, cred) = (&self.0, Cred::root());
        let (name, new_name) = (name.as_bytes(), new_name.as_bytes());
        served.empty(reply, |image| {
            if flags.bits() & !RenameFlags::RENAME_NOREPLACE.bits() != 0 {
                return Err(Errno::EINVAL);
            }
            let from = served.vnode(image, parent)?;
            let to = served.vnode(image, new_parent)?;
            let replaced = match image.vfs().lookup_at(&cred, &to, new_name) {
                Ok(replaced) => Some(replaced),
                Err(Errno::ENOENT) => None,
                Err(errno) => return Err(errno),
            };
            let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
            let (from, to) = ((&from, name), (&to, new_name));
            image.vfs().rename_at(&cred, from, to, replace)?;
            replaced.map_or(Ok(()), |replaced| served.lost_a_name(&replaced))
        });
    }

    fn link(
        &self,
        _: &Request,
        node: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let served = &self.0;
        served.entry(reply, |image| {
            let file = served.vnode(image, node)?;
            let dir = served.vnode(image, new_parent)?;
            let (cred, name) = (Cred::root(), new_name.as_bytes());
            image.vfs().link_at(&cred, &file, &dir, name)?;
            served.tell(&file)
        });
    }

    fn open(&self, _: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let served = &self.0;
        let opened = served.act(|image| {
            let vnode = served.vnode(image, node)?;
            let file = syscalls::open_vnode(&Cred::root(), &vnode, open_flags(flags.0))?;
            Ok(served.handles.add(file))
        });
        match opened {
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let served = &self.0;
        let name = name.as_bytes();
        let created = served.act(|image| {
            let (vfs, cred) = (image.vfs(), Cred::root());
            let dir = served.vnode(image, parent)?;
            let new = new_file(request, &dir, (VnodeType::Reg, mode), 0)?;
            let exclusive = flags & OFlags::EXCL.bits() as i32 != 0;
            let (vnode, how) = match vfs.make_at(&cred, &dir, name, &new) {
                // Nobody but Linux makes files here, but two of its processes may have been about the same name.
                Err(Errno::EEXIST) if !exclusive => {
                    let mut how = open_flags(flags);
                    how.set(Open::TRUNC, flags & OFlags::TRUNC.bits() as i32 != 0);
                    (vfs.lookup_at(&cred, &dir, name)?, how)
                }
                made => (made?, open_flags(flags)),
            };
            let file = syscalls::open_vnode(&cred, &vnode, how)?;
            let (attr, generation) = served.tell(&vnode)?;
            Ok((attr, generation, served.handles.add(file)))
        });
        match created {
            Ok((attr, generation, handle)) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&FOREVER, &attr, generation, handle, flags);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let served = &self.0;
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(buffer.len().max(size as usize), 0);
            let wanted = &mut buffer[..size as usize];
            let read = served.act(|_| {
                let file = served.handles.get(handle)?;
                let (mut at, mut done) = (offset, 0);
                // Less than was asked for would be taken for the end of the file.
                while done < wanted.len() {
                    match file.read(&mut at, &mut wanted[done..], FileFlags::READ)? {
                        0 => break,
                        count => done += count,
                    }
                }
                Ok(done)
            });
            match read {
                Ok(count) => reply.data(&buffer[..count]),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let served = &self.0;
        let stable = (OFlags::SYNC | OFlags::DSYNC).bits() as i32;
        let mut how = FileFlags::WRITE;
        how.set(FileFlags::SYNC, flags.0 & stable != 0);
        let written = served.act(|_| {
            let mut at = offset;
            served.handles.get(handle)?.write(&mut at, data, how)
        });
        match written {
            // No more than was given, which is at most `MAX_IO`.
            Ok(count) => reply.written(count as u32),
            Err(errno) => reply.error(errno),
        }
    }

    /// There is nothing to do at close(2); Linux need not ask again.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let served = &self.0;
        served.empty(reply, |_| {
            drop(served.handles.remove(handle));
            Ok(())
        });
    }

    fn fsync(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let served = &self.0;
        served.empty(reply, |_| {
            let file = served.handles.get(handle)?;
            match file.vnode().mount().is_read_only() {
                true => Ok(()),
                false => file.vnode().fsync(),
            }
        });
    }

    fn opendir(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let served = &self.0;
        let opened = served.act(|image| {
            let dir = served.vnode(image, node)?;
            let file = syscalls::open_vnode(&Cred::root(), &dir, Open::READ | Open::DIRECTORY)?;
            Ok(served.handles.add(file))
        });
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        match opened {
            Ok(handle) => reply.opened(handle, flags),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        mut cookie: u64,
        mut reply: ReplyDirectory,
    ) {
        let served = &self.0;
        loop {
            let entries = match served.act(|_| Entries::read(served, handle, cookie)) {
                Ok(entries) => entries.0,
                Err(errno) => return reply.error(errno),
            };
            for (number, vtype, name, next) in &entries {
                let kind = file_type(vtype.unwrap_or(VnodeType::Reg));
                if reply.add(INodeNo(*number), *next, kind, OsStr::from_bytes(name)) {
                    return reply.ok();
                }
                cookie = *next;
            }
            if entries.len() < BATCH {
                return reply.ok();
            }
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        mut cookie: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let served = &self.0;
        loop {
            let entries = match served.act(|_| Entries::read(served, handle, cookie)) {
                Ok(entries) => entries.0,
                Err(errno) => return reply.error(errno),
            };
            for (number, vtype, name, next) in &entries {
                // With number 0 Linux is told of the name alone.
                let mut known = FileAttr {
                    kind: file_type(vtype.unwrap_or(VnodeType::Reg)),
                    ..nothing()
                };
                let mut own = Generation(0);
                let dots = matches!(&**name, b"." | b"..");
                if dots {
                    // These are not looked up.
                    known.ino = INodeNo(*number);
                } else if let Ok((attr, generation)) =
                    served.act(|image| served.tell(&image.mount().vget(*number)?))
                {
                    (known, own) = (attr, generation);
                }
                let name = OsStr::from_bytes(name);
                if reply.add(known.ino, *next, name, &FOREVER, &known, own) {
                    if !dots && known.ino.0 != 0 {
                        let forgotten = served.nodes.forget(known.ino.0, 1);
                        // If the image has ended, nothing is kept any more.
                        let _ = served.act(|_| {
                            drop(forgotten);
                            Ok(())
                        });
                    }
                    return reply.ok();
                }
                cookie = *next;
            }
            if entries.len() < BATCH {
                return reply.ok();
            }
        }
    }

    fn releasedir(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let served = &self.0;
        served.empty(reply, |_| {
            drop(served.handles.remove(handle));
            Ok(())
        });
    }

    fn fsyncdir(
        &self,
        request: &Request,
        node: INodeNo,
        handle: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.fsync(request, node, handle, datasync, reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.0.act(|image| image.mount().statvfs()) {
            Ok(stat) => reply.statfs(
                stat.blocks,
                stat.bfree,
                stat.bavail,
                stat.files,
                stat.ffree,
                u32::try_from(stat.bsize).unwrap_or(u32::MAX),
                stat.namemax,
                u32::try_from(stat.frsize).unwrap_or(u32::MAX),
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn lseek(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        /// `SEEK_DATA` and `SEEK_HOLE`, lseek(2); the others do not come here.
        const DATA: i32 = 3;
        const HOLE: i32 = 4;
        let served = &self.0;
        let found = served.act(|_| {
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            let file = served.handles.get(handle)?;
            match whence {
                DATA => syscalls::seek_data(file.vnode(), offset),
                HOLE => syscalls::seek_hole(file.vnode(), offset),
                _ => Err(Errno::EINVAL),
            }
        });
        match found {
            // No file is longer than an i64 counts.
            Ok(at) => reply.offset(at as i64),
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::EOPNOTSUPP);
    }

    // What follows there is not, and once it was told so Linux does not ask again: no extended attributes (EOPNOTSUPP to programs);
    // no ioctl(2) (ENOTTY); every file is always ready for poll(2); access(2) is judged by Linux; copies are its own.

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _offset_in: u64,
        _: INodeNo,
        _: FileHandle,
        _offset_out: u64,
        _length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }
}
