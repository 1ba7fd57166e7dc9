//! Disks mounted in this process: the kernel's own VFS, page cache and buffer cache, on the host that is `rumpuser-hosted`.

use std::sync::Arc;

use rumpdev::disk::{Backend, Disk};
use rumpkern::Kernel;
use rumpkern::kauth::Cred;
use rumpkern::lwp::Attached;
use rumpkern::params::Config;
use rumpuser::Errno;
use rumpuser_hosted::Host;
use rumpvfs::Vfs;
use rumpvfs::mount::Mount;
use rumpvfs::namei::{Context, Last};
use rumpvfs::pagecache::ReadAhead;
use rumpvfs::vfs::MountRequest;
use rumpvfs::vnode::{DirEntry, VnodeRef, VnodeType};
use sha2::{Digest as _, Sha256};

use crate::tree::{Node, Tree, fingerprint_of};

/// Files above this length are left out of [`Mounted::tree`].
pub const LONGEST: u64 = 1 << 32;
/// Bytes read at once: neither a multiple nor a fraction of a page.
const AT_ONCE: usize = 61_001;

/// An FFS mounted in a kernel of its own.
pub struct Mounted {
    /// The kernel.
    pub kernel: Arc<Kernel>,
    /// Its file-system faction.
    pub vfs: Arc<Vfs>,
    /// The mount.
    pub mount: Arc<Mount>,
    /// This thread is one of the kernel's, which may wait for memory.
    _attached: Attached,
}

impl Mounted {
    /// Boots a kernel and mounts what `disk` holds with `options`, for reading unless they say `rw`.
    pub fn new(disk: Arc<dyn Backend>, options: &str) -> Result<Mounted, Errno> {
        Host::install_for_tests();
        let components = [&rumpvfs::COMPONENT, &rumpfs_ffs::COMPONENT];
        let kernel = Kernel::boot(Config::default(), &components)?;
        let attached = kernel.attach("test")?;
        let vfs = kernel.get::<Vfs>().ok_or(Errno::ENODEV)?;
        vfs.add_device(Disk::new(0, disk))?;
        let request = MountRequest {
            device: "ld0",
            path: "/",
            fstype: None,
            options: &format!("ro,{options}"),
        };
        let mount = vfs.mount(&Arc::new(Cred::root()), &request);
        if mount.is_err() {
            kernel.shutdown();
        }
        Ok(Mounted {
            mount: mount?,
            kernel,
            vfs,
            _attached: attached,
        })
    }

    /// Unmounts, and ends the kernel.
    pub fn end(self) -> Result<(), Errno> {
        let ended = self.vfs.unmount(&self.mount);
        self.kernel.shutdown();
        ended
    }

    /// The file at `path`, which is not followed if it is a link.
    pub fn file(&self, path: &str) -> Result<VnodeRef, Errno> {
        let root = self.vfs.root()?;
        let context = Context {
            cwd: root.clone(),
            root,
            cred: Arc::new(Cred::root()),
        };
        self.vfs
            .namei(&context, path.as_bytes(), Last::NoFollow)?
            .file()
    }

    /// The names in a directory, but for `.` and `..`.
    pub fn names(&self, directory: &VnodeRef) -> Result<Vec<Vec<u8>>, Errno> {
        let mut names = Vec::new();
        let _locked = directory.lock_shared();
        directory.ops().readdir(0, &mut |entry: &DirEntry<'_>| {
            if !matches!(entry.name, b"." | b"..") {
                names.push(entry.name.to_vec());
            }
            true
        })?;
        Ok(names)
    }

    /// `len` bytes of a file from `offset` on; fewer if it ends.
    pub fn read(&self, file: &VnodeRef, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        let mut reader = ReadAhead::new();
        while done < len {
            let at = offset + done as u64;
            let count = file.read(at, &mut bytes[done..], &mut reader)?;
            if count == 0 {
                break;
            }
            done += count;
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    /// What there is at a vnode; a file is read from its start to its end.
    pub fn node(&self, file: &VnodeRef) -> Result<Node, Errno> {
        Ok(match file.vtype() {
            VnodeType::Dir => Node::Directory,
            VnodeType::Reg => self.fingerprint(file)?,
            VnodeType::Lnk => {
                let mut text = vec![0; 2000];
                let _locked = file.lock_shared();
                let len = file.ops().readlink(&mut text)?;
                Node::Symlink(String::from_utf8_lossy(&text[..len]).into_owned())
            }
            _ => Node::Special,
        })
    }

    fn fingerprint(&self, file: &VnodeRef) -> Result<Node, Errno> {
        let mut sum = Sha256::new();
        let mut bytes = vec![0; AT_ONCE];
        let (mut at, mut reader) = (0, ReadAhead::new());
        loop {
            let count = file.read(at, &mut bytes, &mut reader)?;
            if count == 0 {
                return Ok(fingerprint_of(at, &sum.finalize()));
            }
            sum.update(&bytes[..count]);
            at += count as u64;
        }
    }

    /// Everything that is there, each file looked up by its path.
    pub fn tree(&self) -> Result<Tree, Errno> {
        let mut tree = Tree::default();
        self.add(&mut tree, "")?;
        Ok(tree)
    }

    fn add(&self, tree: &mut Tree, prefix: &str) -> Result<(), Errno> {
        let directory = self.file(&format!("/{prefix}"))?;
        for name in self.names(&directory)? {
            let path = format!("{prefix}{}", String::from_utf8_lossy(&name));
            let file = self.file(&format!("/{path}"))?;
            if file.size() > LONGEST {
                continue;
            }
            tree.nodes.insert(path.clone(), self.node(&file)?);
            if file.is_dir() {
                self.add(tree, &format!("{path}/"))?;
            }
        }
        Ok(())
    }
}
