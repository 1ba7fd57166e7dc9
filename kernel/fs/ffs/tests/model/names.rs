//! What makes, moves and removes names, and changes attributes.

use crate::world::{Contents, Model, Node};
use rumpuser::Errno;
use rumpvfs::namei::Last;
use rumpvfs::syscalls::OpenFlags;
use rumpvfs::vnode::VnodeType;

const NEW: OpenFlags = OpenFlags::READ
    .union(OpenFlags::WRITE)
    .union(OpenFlags::CREAT)
    .union(OpenFlags::EXCL);

impl Model {
    /// What making the name `path` must answer.
    fn may_make(&self, path: &str) -> Result<(), Errno> {
        match (self.parent_exists(path), self.names.contains_key(path)) {
            (Ok(()), true) => Err(Errno::EEXIST),
            (parent, _) => parent,
        }
    }

    pub fn create(&mut self, path: &str) {
        let want = self.may_make(path);
        let mode = 0o600 | self.random.below(0o100) as u16;
        let rig = self.rig();
        let made = rig.vfs.open(&rig.proc, path.as_bytes(), NEW, mode);
        if self.done(made, want, &format!("create {path}")) {
            let number = self.next;
            self.next += 1;
            let umask = self.rig().proc.umask() as u16;
            let contents = Contents {
                mode: mode & !umask,
                ..Contents::default()
            };
            self.files.insert(number, contents);
            self.names.insert(path.to_owned(), Node::File(number));
        }
    }

    /// A FIFO or a device.
    pub fn node(&mut self, path: &str) {
        let want = self.may_make(path);
        let (vtype, rdev) = match self.random.below(3) {
            0 => (VnodeType::Fifo, 0),
            1 => (VnodeType::Chr, 0x0203),
            _ => (VnodeType::Blk, 0x1005),
        };
        let rig = self.rig();
        let made = rig
            .vfs
            .mknod(&rig.proc, path.as_bytes(), vtype, 0o600, rdev);
        if self.done(made, want, &format!("mknod {path}")) {
            self.names.insert(path.to_owned(), Node::Other(vtype, rdev));
        }
    }

    pub fn unlink(&mut self, path: &str) {
        let want = match (self.parent_exists(path), self.names.get(path)) {
            (Ok(()), None) => Err(Errno::ENOENT),
            (Ok(()), Some(Node::Directory)) => Err(Errno::EPERM),
            (parent, _) => parent,
        };
        let done = self.rig().vfs.unlink(&self.rig().proc, path.as_bytes());
        assert_eq!(
            done, want,
            "unlink {path}; step {} of {}",
            self.at, self.what
        );
        if let Some(Node::File(number)) = self.names.get(path).cloned() {
            self.names.remove(path);
            self.gone(number);
        } else if want.is_ok() {
            self.names.remove(path);
        }
    }

    pub fn link(&mut self, from: &str, to: &str) {
        let Some(number) = self.file_at(from) else {
            return;
        };
        let want = self.may_make(to);
        let rig = self.rig();
        let done = rig.vfs.link(&rig.proc, from.as_bytes(), to.as_bytes());
        if self.done(done, want, &format!("link {from} {to}")) {
            self.names.insert(to.to_owned(), Node::File(number));
        }
    }

    pub fn symlink(&mut self, path: &str) {
        let want = self.may_make(path);
        let most = if self.random.below(2) == 0 { 130 } else { 1000 };
        let len = 1 + self.random.below(most) as usize;
        let text: Vec<u8> = (0..len).map(|n| b'a' + (n % 26) as u8).collect();
        let rig = self.rig();
        let done = rig.vfs.symlink(&rig.proc, &text, path.as_bytes());
        if self.done(done, want, &format!("symlink {path}")) {
            self.names.insert(path.to_owned(), Node::Link(text));
        }
    }

    pub fn mkdir(&mut self, path: &str) {
        let want = self.may_make(path);
        let rig = self.rig();
        let done = rig.vfs.mkdir(&rig.proc, path.as_bytes(), 0o755);
        if self.done(done, want, &format!("mkdir {path}")) {
            self.names.insert(path.to_owned(), Node::Directory);
        }
    }

    fn is_empty(&self, path: &str) -> bool {
        let below = format!("{path}/");
        !self.names.keys().any(|name| name.starts_with(&below))
    }

    pub fn rmdir(&mut self, path: &str) {
        let want = match (self.parent_exists(path), self.names.get(path)) {
            (Err(errno), _) => Err(errno),
            (_, None) => Err(Errno::ENOENT),
            (_, Some(Node::Directory)) if self.is_empty(path) => Ok(()),
            (_, Some(Node::Directory)) => Err(Errno::ENOTEMPTY),
            (_, Some(_)) => Err(Errno::ENOTDIR),
        };
        let done = self.rig().vfs.rmdir(&self.rig().proc, path.as_bytes());
        assert_eq!(
            done, want,
            "rmdir {path}; step {} of {}",
            self.at, self.what
        );
        if want.is_ok() {
            self.names.remove(path);
        }
    }

    pub fn rename(&mut self, from: &str, to: &str) {
        let rig = self.rig();
        let done = rig.vfs.rename(&rig.proc, from.as_bytes(), to.as_bytes());
        let what = format!("rename {from} {to}; step {} of {}", self.at, self.what);
        let possible = self.parent_exists(from).is_ok() && self.parent_exists(to).is_ok();
        let (Some(node), true) = (self.names.get(from).cloned(), possible) else {
            assert!(done.is_err(), "{what}");
            return;
        };
        let inside = to.starts_with(&format!("{from}/"));
        let over = from.starts_with(&format!("{to}/"));
        let target = self.names.get(to).cloned();
        let fits = match (&node, &target) {
            (_, None) => true,
            (Node::Directory, Some(Node::Directory)) => from == to || self.is_empty(to),
            (Node::Directory, Some(_)) | (_, Some(Node::Directory)) => false,
            _ => true,
        };
        if inside || over || !fits {
            assert!(done.is_err(), "{what}");
            return;
        }
        if !self.done(done, Ok(()), &format!("rename {from} {to}")) {
            return;
        }
        let same = from == to || target.as_ref() == Some(&node) && matches!(node, Node::File(_));
        if same {
            return;
        }
        let below = format!("{from}/");
        let moving: Vec<String> = self
            .names
            .keys()
            .filter(|name| *name == from || name.starts_with(&below))
            .cloned()
            .collect();
        for name in moving {
            let node = self.names.remove(&name).expect("it was listed");
            self.names
                .insert(format!("{to}{}", &name[from.len()..]), node);
        }
        if let Some(Node::File(number)) = target {
            self.gone(number);
        }
    }

    /// Changes mode and owner.
    pub fn chmod(&mut self, path: &str) {
        let Some(number) = self.file_at(path) else {
            return;
        };
        let mode = 0o600 | self.random.below(0o200) as u16;
        let uid = self.random.below(3) as u32;
        let rig = self.rig();
        let (proc, path) = (&rig.proc, path.as_bytes());
        let owned = rig.vfs.chown(proc, path, Last::Follow, Some(uid), None);
        assert_eq!(owned, Ok(()), "{}", self.what);
        assert_eq!(rig.vfs.chmod(proc, path, mode), Ok(()), "{}", self.what);
        let contents = self.files.get_mut(&number).expect("it is there");
        (contents.mode, contents.uid) = (mode, uid);
    }

    /// To read-only and back. A file without a name that is open prevents it.
    pub fn remount(&mut self) {
        let nameless = self.open.iter().any(|open| self.links(open.number) == 0);
        let rig = self.rig();
        let mount = rig.vfs.mounts()[0].clone();
        if nameless {
            let refused = rig.vfs.remount(&mount, "ro");
            assert_eq!(refused, Err(Errno::EBUSY), "{}", self.what);
            return;
        }
        assert_eq!(rig.vfs.remount(&mount, "ro"), Ok(()), "{}", self.what);
        let refused = rig.vfs.mkdir(&rig.proc, b"/none", 0o755);
        assert_eq!(refused, Err(Errno::EROFS), "{}", self.what);
        for open in &self.open {
            let refused = open.file.write_at(0, b"x");
            assert_eq!(refused, Err(Errno::EROFS), "{}", self.what);
        }
        self.compare_all();
        let options = format!("rw,{}", self.mount);
        assert_eq!(rig.vfs.remount(&mount, &options), Ok(()), "{}", self.what);
    }
}
