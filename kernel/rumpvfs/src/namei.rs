//! From a path to a vnode.
//!
//! A path is walked name by name. A directory is locked (shared) while one of its names is looked up and the file
//! brought into use, and not longer: no two vnode locks are held at a time.
//!
//! Bounds: a path, also after symbolic links were put in, is shorter than [`PATH_MAX`]; a name at most
//! [`NAME_MAX`]; at most [`MAXSYMLINKS`] links are followed.
//!
//! Sources: namei(9), path_resolution in POSIX.1-2017 §4.13, symlink(7).

use crate::namecache::Known;
use crate::vfs::Vfs;
use crate::vnode::{Vattr, Vnode, VnodeRef, VnodeType};
use alloc::sync::Arc;
use alloc::vec::Vec;
use rumpkern::kauth::Cred;
use rumpkern::kmem;
use rumpuser::Errno;

/// The longest path with its terminating NUL, as NetBSD counts it (`sys/syslimits.h`).
pub const PATH_MAX: usize = 1024;
/// The longest name.
pub const NAME_MAX: usize = 255;
/// The most symbolic links in one look-up (`sys/param.h`).
pub const MAXSYMLINKS: usize = 32;

/// Whoever asks: where his paths start, and what he may.
#[derive(Clone)]
pub struct Context {
    /// What `/` is, and what `..` does not lead out of.
    pub root: VnodeRef,
    /// Where relative paths start.
    pub cwd: VnodeRef,
    /// Who he is.
    pub cred: Arc<Cred>,
}

/// What to do with the last name of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// It must exist; a symbolic link is followed.
    Follow,
    /// It must exist; a symbolic link is the answer.
    NoFollow,
    /// It is not looked up: the answer is its directory.
    Parent,
    /// It is looked up, and symbolic links are followed; if in the end there is no such name, the answer is
    /// the directory in which there is none (`O_CREAT`).
    Create,
}

/// Where a path leads.
#[derive(Debug)]
pub enum Reached {
    /// To this file.
    File(VnodeRef),
    /// To this name in this directory, which was not looked up or does not exist.
    Name {
        /// The directory.
        dir: VnodeRef,
        /// The name.
        name: Vec<u8>,
        /// A slash follows: only a directory can be meant.
        slash: bool,
    },
}

impl Reached {
    /// The file.
    ///
    /// # Errors
    /// `ENOENT` if it is only a name.
    pub fn file(self) -> Result<VnodeRef, Errno> {
        match self {
            Reached::File(vnode) => Ok(vnode),
            Reached::Name { .. } => Err(Errno::ENOENT),
        }
    }
}

/// A way to go: the path that is left, with the links that were put in.
struct Path {
    bytes: Vec<u8>,
    at: usize,
}

/// The next name of a path.
struct Component {
    start: usize,
    end: usize,
    last: bool,
    slash: bool,
}

impl Path {
    fn new(path: &[u8]) -> Result<Path, Errno> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if path.contains(&0) {
            return Err(Errno::EINVAL);
        }
        let mut bytes = kmem::try_vec(path.len())?;
        bytes.extend_from_slice(path);
        Ok(Path { bytes, at: 0 })
    }

    /// The next name, if there is one.
    fn next(&mut self) -> Result<Option<Component>, Errno> {
        let rest = &self.bytes[self.at..];
        let Some(skip) = rest.iter().position(|&byte| byte != b'/') else {
            return Ok(None);
        };
        let start = self.at + skip;
        let rest = &self.bytes[start..];
        let len = rest
            .iter()
            .position(|&byte| byte == b'/')
            .unwrap_or(rest.len());
        if len > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let end = start + len;
        let after = &self.bytes[end..];
        self.at = end;
        Ok(Some(Component {
            start,
            end,
            last: after.iter().all(|&byte| byte == b'/'),
            slash: !after.is_empty(),
        }))
    }

    /// Puts `target` in the place of everything up to `end`.
    fn replace(&mut self, target: &[u8], end: usize) -> Result<(), Errno> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.contains(&0) {
            return Err(Errno::EINVAL);
        }
        let rest = &self.bytes[end..];
        if target.len() + rest.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut bytes = kmem::try_vec(target.len() + rest.len())?;
        bytes.extend_from_slice(target);
        bytes.extend_from_slice(rest);
        *self = Path { bytes, at: 0 };
        Ok(())
    }
}

/// A name of its own; `ENOMEM` if there is no room for it.
fn copy_of(name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut copy = kmem::try_vec(name.len())?;
    copy.extend_from_slice(name);
    Ok(copy)
}

impl Vfs {
    /// The file that `path` leads to; symbolic links are followed.
    ///
    /// # Errors
    /// As [`Vfs::namei`].
    pub fn lookup(&self, context: &Context, path: &[u8]) -> Result<VnodeRef, Errno> {
        self.namei(context, path, Last::Follow)?.file()
    }

    /// Where `path` leads.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EACCES`, `ELOOP`, `ENAMETOOLONG`, `EINVAL` (a NUL in the path); what file systems say;
    /// for [`Last::Parent`] also `EBUSY` for the root and `EINVAL` for `.` and `..` as the last name.
    pub fn namei(&self, context: &Context, path: &[u8], last: Last) -> Result<Reached, Errno> {
        let mut path = Path::new(path)?;
        let mut links = 0;
        let mut dir = start(context, &path.bytes);
        let mut dots = false;
        while let Some(component) = path.next()? {
            if !dir.is_dir() {
                return Err(Errno::ENOTDIR);
            }
            let name = &path.bytes[component.start..component.end];
            if name == b"." || name == b".." {
                check_search(&dir, &context.cred)?;
                dots = true;
                if name == b".." {
                    dir = self.up(context, dir)?;
                }
                continue;
            }
            dots = false;
            if component.last && last == Last::Parent {
                return Ok(Reached::Name {
                    name: copy_of(name)?,
                    slash: component.slash,
                    dir,
                });
            }
            let found = match self.step(&dir, name, &context.cred) {
                Err(Errno::ENOENT) if component.last && last == Last::Create => {
                    return Ok(Reached::Name {
                        name: copy_of(name)?,
                        slash: component.slash,
                        dir,
                    });
                }
                found => found?,
            };
            let follow = !component.last || component.slash || last != Last::NoFollow;
            if found.vtype() == VnodeType::Lnk && follow {
                links += 1;
                if links > MAXSYMLINKS {
                    return Err(Errno::ELOOP);
                }
                let target = read_link(&found)?;
                path.replace(&target, component.end)?;
                if target.first() == Some(&b'/') {
                    dir = context.root.clone();
                }
                continue;
            }
            dir = down(found)?;
            if component.last {
                if component.slash && !dir.is_dir() {
                    return Err(Errno::ENOTDIR);
                }
                return Ok(Reached::File(dir));
            }
        }
        if last == Last::Parent {
            return Err(if dots { Errno::EINVAL } else { Errno::EBUSY });
        }
        Ok(Reached::File(dir))
    }

    /// The file that `name` names in `dir`.
    pub(crate) fn step(&self, dir: &VnodeRef, name: &[u8], cred: &Cred) -> Result<VnodeRef, Errno> {
        // Locked until the file is in use: it cannot be removed, and its number used again, before.
        let _locked = dir.lock_shared();
        dir.mount().check_there()?;
        search_allowed(dir, cred)?;
        match self.names.lookup(dir.id(), name) {
            Some(Known::File(ino)) => return dir.mount().vget(ino),
            Some(Known::Nothing) => return Err(Errno::ENOENT),
            None => {}
        }
        match dir.ops().lookup(name) {
            Ok(ino) => {
                self.names.enter(dir.id(), name, Known::File(ino));
                dir.mount().vget(ino)
            }
            Err(errno) => {
                if errno == Errno::ENOENT {
                    self.names.enter(dir.id(), name, Known::Nothing);
                }
                Err(errno)
            }
        }
    }

    /// The directory above `dir`: across mount points, but not out of the root.
    fn up(&self, context: &Context, mut dir: VnodeRef) -> Result<VnodeRef, Errno> {
        loop {
            if dir.same(&context.root) {
                return Ok(dir);
            }
            if !dir.is_mount_root() {
                break;
            }
            let Some(covered) = dir.mount().covered() else {
                return Ok(dir);
            };
            dir = covered;
        }
        self.step(&dir, b"..", &context.cred)
    }
}

fn start(context: &Context, path: &[u8]) -> VnodeRef {
    if path.first() == Some(&b'/') {
        context.root.clone()
    } else {
        context.cwd.clone()
    }
}

/// What is to be seen at `vnode`: the root of what is mounted on it.
fn down(mut vnode: VnodeRef) -> Result<VnodeRef, Errno> {
    while let Some(mount) = vnode.mounted_here() {
        vnode = mount.root()?;
    }
    Ok(vnode)
}

/// The target of a symbolic link.
pub(crate) fn read_link(link: &Vnode) -> Result<Vec<u8>, Errno> {
    let mut target = kmem::try_vec(PATH_MAX)?;
    target.resize(PATH_MAX, 0);
    let locked = link.lock_shared();
    let len = link.ops().readlink(&mut target)?;
    drop(locked);
    if len >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    target.truncate(len);
    Ok(target)
}

fn check_search(dir: &Vnode, cred: &Cred) -> Result<(), Errno> {
    let _locked = dir.lock_shared();
    search_allowed(dir, cred)
}

/// Whether names may be looked up in `dir`, which is locked.
fn search_allowed(dir: &Vnode, cred: &Cred) -> Result<(), Errno> {
    if cred.is_root() {
        return Ok(());
    }
    allowed(&dir.ops().getattr()?, cred, Access::EXEC)
}

bitflags::bitflags! {
    /// What somebody wants to do with a file; the bits of access(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u16 {
        /// Read it, or list it.
        const READ = 4;
        /// Change it, or the names in it.
        const WRITE = 2;
        /// Execute it, or look up names in it.
        const EXEC = 1;
    }
}

/// Whether `cred` may do all of `want` with a file (POSIX.1-2017 §4.5; `genfs_can_access`).
///
/// # Errors
/// `EACCES`.
pub fn allowed(attr: &Vattr, cred: &Cred, want: Access) -> Result<(), Errno> {
    if cred.is_root() {
        let nobody_executes = attr.vtype != VnodeType::Dir && attr.mode & 0o111 == 0;
        let refused = want.contains(Access::EXEC) && nobody_executes;
        return if refused { Err(Errno::EACCES) } else { Ok(()) };
    }
    let shift = if attr.uid == cred.uid {
        6
    } else if cred.is_member(attr.gid) {
        3
    } else {
        0
    };
    let granted = Access::from_bits_truncate(attr.mode >> shift);
    if granted.contains(want) {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}
