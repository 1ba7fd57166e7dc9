//! A mounted image.

use crate::dir::{ReadDir, Walk};
use crate::error::Error;
use crate::file::File;
use crate::metadata::Metadata;
use crate::source::{Attachment, Source};
use rumpfs_ffs::corrupt::{Corrupt, Fault};
use rumpfs_ffs::journal;
use rumpfs_ffs::superblock::{self, Flags, Tolerance};
use rumpkern::kauth::Cred;
use rumpkern::lwp::Attached;
use rumpkern::proc::Proc;
use rumpuser::Errno;
use rumpvfs::Vfs;
use rumpvfs::bufcache::Devvp;
use rumpvfs::mount::Mount;
use rumpvfs::vfs::MountRequest;
use rumpvfs::vfsops::StatVfs;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open an image.
#[derive(Clone, Debug, Default)]
pub struct Options {
    write: bool,
    log: bool,
    discard: bool,
    force: bool,
    fstype: Option<String>,
    pub(crate) memory_limit: Option<usize>,
}

impl Options {
    /// To read, whatever file system there is.
    pub fn new() -> Options {
        Options::default()
    }

    /// Also to write. `EROFS` from [`Image::open`] where the file system cannot be written.
    pub fn write(mut self, on: bool) -> Options {
        self.write = on;
        self
    }

    /// With a journal, where the file system has one (mount option `log`).
    pub fn log(mut self, on: bool) -> Options {
        self.log = on;
        self
    }

    /// The image's file gives up the room of what is freed, where the file system says what that is and the host's can have
    /// holes (mount option `discard`).
    pub fn discard(mut self, on: bool) -> Options {
        self.discard = on;
        self
    }

    /// To read in spite of flags that are not known, or of a journal that was not replayed.
    pub fn force(mut self, on: bool) -> Options {
        self.force = on;
        self
    }

    /// The kind of file system, such as `"ffs"`, instead of finding out.
    pub fn fstype(mut self, fstype: impl Into<String>) -> Options {
        self.fstype = Some(fstype.into());
        self
    }

    /// The most memory, in bytes, for what the kernels of this process cache and keep: pages of files, metadata, the table of
    /// pages. The program's own heap is not counted. What the first image opened in a process says (128 MiB, if nothing) is
    /// the most there can be; later ones may lower it, for all.
    pub fn memory_limit(mut self, bytes: usize) -> Options {
        self.memory_limit = Some(bytes);
        self
    }

    fn mount_options(&self) -> String {
        let words = [
            (!self.write, "ro"),
            (self.log, "log"),
            (self.discard, "discard"),
            (self.force, "force"),
        ];
        let words = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word);
        words.collect::<Vec<_>>().join(",")
    }
}

/// What images and their open files share.
pub(crate) struct Mounted {
    mount: Arc<Mount>,
    pub(crate) attachment: Attachment,
    source: Source,
    who: String,
}

impl Mounted {
    /// Does something as a thread of the image's kernel; an error is one with the file at `path`.
    pub(crate) fn act<T>(
        &self,
        path: &Path,
        act: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Error> {
        let entered = self.attachment.rump.enter();
        let done = entered.and_then(|_entered| act());
        done.map_err(|errno| Error::of_file(&self.who, path, errno))
    }

    /// The same, for what takes the file systems and the process.
    pub(crate) fn call<T>(
        &self,
        path: &Path,
        call: impl FnOnce(&Vfs, &Proc) -> Result<T, Errno>,
    ) -> Result<T, Error> {
        let attachment = &self.attachment;
        self.act(path, || call(&attachment.vfs, &attachment.rump.proc))
    }
}

/// A mounted image. Clones are the same image; it is unmounted with the last of them and of its open files.
#[derive(Clone)]
pub struct Image {
    mounted: Arc<Mounted>,
}

impl Image {
    /// Opens an image: finds the partition and the file system, and mounts it.
    ///
    /// # Errors
    /// What the host says of the file; `EBUSY` while another program writes it; `EFTYPE` if no known file system is found;
    /// `EINVAL` for one that is damaged, and `EFTYPE` for one whose journal is, so that it cannot be replayed (unless it is opened to read,
    /// by [`force`](Options::force)): the text says what is wrong.
    pub fn open(source: impl Into<Source>, options: Options) -> Result<Image, Error> {
        let source = source.into();
        let attachment = Attachment::open(&source, !options.write, options.memory_limit)?;
        let entered = attachment.enter()?;
        let device = attachment.device(&source)?;
        let request = MountRequest {
            device: device.name(),
            path: "/",
            fstype: options.fstype.as_deref(),
            options: &options.mount_options(),
        };
        let mount = attachment.vfs.mount(&Arc::new(Cred::root()), &request);
        let mount = mount.map_err(|errno| {
            let damage = damage(&attachment.vfs.devvp(&device), &options);
            cannot_mount(&source, &options, damage, errno)
        })?;
        if options.write {
            let started = attachment.vfs.start_syncer(&attachment.rump.kernel);
            started.map_err(|errno| attachment.error(errno))?;
        }
        drop(entered);
        let who = source.to_string();
        Ok(Image {
            mounted: Arc::new(Mounted {
                mount,
                attachment,
                source,
                who,
            }),
        })
    }

    /// Makes the calling thread one of the image's kernel until the guard is dropped, in the same thread. Calls need no such
    /// thing, but for a run of small ones it saves each of them doing so; and meanwhile `rump::sys` has the kernel's own calls.
    ///
    /// # Errors
    /// `ESRCH`: the kernel is gone.
    pub fn enter(&self) -> Result<Entered, Error> {
        let entered = self.mounted.attachment.enter()?;
        Ok(Entered { _attached: entered })
    }

    /// The kernel's file systems, for an adapter that goes below paths. Threads that use them have [entered](Image::enter).
    pub fn vfs(&self) -> &Arc<Vfs> {
        &self.mounted.attachment.vfs
    }

    /// The mount, likewise.
    pub fn mount(&self) -> &Arc<Mount> {
        &self.mounted.mount
    }

    pub(crate) fn mounted(&self) -> &Arc<Mounted> {
        &self.mounted
    }

    /// What was opened.
    pub fn source(&self) -> &Source {
        &self.mounted.source
    }

    /// The kind of file system.
    pub fn fstype(&self) -> &'static str {
        self.mounted.mount.fstype()
    }

    /// How full it is.
    ///
    /// # Errors
    /// What the file system says.
    pub fn statvfs(&self) -> Result<StatVfs, Error> {
        let mount = &self.mounted.mount;
        self.mounted.act(Path::new("/"), || mount.statvfs())
    }

    /// Where relative paths start from now on, for all who use the image; at first the root.
    ///
    /// # Errors
    /// As chdir(2).
    pub fn set_current_dir(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_bytes();
        self.mounted.call(path, |vfs, proc| vfs.chdir(proc, bytes))
    }

    /// Opens the file at `path` to read.
    ///
    /// # Errors
    /// As open(2).
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File, Error> {
        let path = path.as_ref();
        let file = self
            .mounted
            .act(path, || rump::fs::File::open(path.as_os_str().as_bytes()))?;
        Ok(File::new(&self.mounted, path, file))
    }

    /// Everything that the file at `path` holds.
    ///
    /// # Errors
    /// As open(2) and read(2); `ENOMEM` if it does not fit into memory.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        let path = path.as_ref();
        self.mounted
            .act(path, || rump::fs::read(path.as_os_str().as_bytes()))
    }

    /// The entries of the directory at `path`.
    ///
    /// # Errors
    /// As open(2); `ENOTDIR`.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<ReadDir, Error> {
        let path = path.as_ref();
        let entries = self
            .mounted
            .act(path, || rump::fs::read_dir(path.as_os_str().as_bytes()))?;
        Ok(ReadDir::new(&self.mounted, path, entries))
    }

    /// What is at `path`, and everything below it.
    pub fn walk(&self, path: impl AsRef<Path>) -> Walk {
        Walk::new(self, path.as_ref())
    }

    /// What is known of the file at `path`; symbolic links are followed, within the image.
    ///
    /// # Errors
    /// As stat(2).
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<Metadata, Error> {
        let path = path.as_ref();
        self.mounted
            .act(path, || rump::sys::stat(path.as_os_str().as_bytes()))
            .map(Metadata::new)
    }

    /// What is known of the file at `path`; a symbolic link is looked at itself.
    ///
    /// # Errors
    /// As lstat(2).
    pub fn symlink_metadata(&self, path: impl AsRef<Path>) -> Result<Metadata, Error> {
        let path = path.as_ref();
        self.mounted
            .act(path, || rump::sys::lstat(path.as_os_str().as_bytes()))
            .map(Metadata::new)
    }

    /// Where the symbolic link at `path` leads.
    ///
    /// # Errors
    /// As readlink(2).
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf, Error> {
        let path = path.as_ref();
        let target = self
            .mounted
            .act(path, || rump::sys::readlink(path.as_os_str().as_bytes()))?;
        Ok(PathBuf::from(OsString::from_vec(target)))
    }

    /// Unmounts it. Dropping does so, too, but cannot tell how it went.
    ///
    /// # Errors
    /// `EBUSY`: a clone or a file of it is still in use. `EIO`: not everything could be written.
    pub fn close(self) -> Result<(), Error> {
        let mut mounted = self.mounted;
        let root = Path::new("/");
        let busy = |who: &str| Error::of_file(who, root, Errno::EBUSY);
        let who = mounted.who.clone();
        let mounted = Arc::get_mut(&mut mounted).ok_or_else(|| busy(&who))?;
        mounted.call(root, |vfs, proc| {
            drop(proc.set_cwd(None));
            vfs.unmount(&mounted.mount)
        })
    }
}

/// The calling thread is one of an image's kernel; see [`Image::enter`].
pub struct Entered {
    /// `None` where it was one already.
    _attached: Option<Attached>,
}

/// What is wrong with the superblock or the log on a device that cannot be mounted; the kernel told its log only.
fn damage(devvp: &Devvp, options: &Options) -> Option<Corrupt> {
    let tolerance = Tolerance {
        force: options.force && !options.write,
    };
    let log = superblock::find(devvp, tolerance).and_then(|sb| {
        let in_use = sb.flags.contains(Flags::DOWAPBL);
        let read = in_use.then(|| journal::read(&sb, &&**devvp.device(), devvp.sectors()));
        read.transpose()
    });
    match log {
        Err(Fault::Corrupt(corrupt)) if corrupt != Corrupt::NoSuperblock => Some(corrupt),
        _ => None,
    }
}

fn cannot_mount(
    source: &Source,
    options: &Options,
    damage: Option<Corrupt>,
    errno: Errno,
) -> Error {
    let who = source.to_string();
    if let (Errno::EINVAL | Errno::EFTYPE, Some(damage)) = (errno, damage) {
        return Error::because(who, damage.to_string(), errno);
    }
    let why = match errno {
        Errno::EROFS if options.write => "it cannot be written: Read-only file system",
        Errno::ENODEV => {
            let kind = options.fstype.as_deref().unwrap_or_default();
            let why = format!("{kind}: there is no such kind of file system");
            return Error::because(who, why, errno);
        }
        Errno::EINVAL | Errno::EFTYPE => "it does not hold a sound file system of that kind",
        errno => return Error::new(who, errno),
    };
    Error::because(who, why, errno)
}
