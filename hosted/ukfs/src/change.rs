//! Changing what is on an image. Every call answers `EROFS` on one that was not opened to be written.

use crate::error::Error;
use crate::file::File;
use crate::image::Image;
use rump::fs as rump_fs;
use rumpuser::{Errno, WallTime};
use rumpvfs::namei::Last;
use rumpvfs::syscalls::Times;
use rumpvfs::vnode::Wait;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

impl Image {
    /// Makes the file at `path`, or cuts the one that is there to nothing; to be read and written.
    ///
    /// # Errors
    /// As open(2).
    pub fn create_file(&self, path: impl AsRef<Path>) -> Result<File, Error> {
        let path = path.as_ref();
        let options = rump_fs::OpenOptions::new().read(true).write(true);
        let options = options.create(true).truncate(true);
        let file = self.mounted().act(path, || options.open(bytes(path)))?;
        Ok(File::new(self.mounted(), path, file))
    }

    /// Makes a directory, mode 0755.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn create_dir(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        self.mounted()
            .act(path, || rump_fs::create_dir(bytes(path)))
    }

    /// Makes the symbolic link `path`, which leads to `target`.
    ///
    /// # Errors
    /// As symlink(2).
    pub fn symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<(), Error> {
        let (target, path) = (target.as_ref(), path.as_ref());
        self.mounted().call(path, |vfs, proc| {
            vfs.symlink(proc, bytes(target), bytes(path))
        })
    }

    /// Gives the file at `file` the further name `path`.
    ///
    /// # Errors
    /// As link(2).
    pub fn hard_link(&self, file: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<(), Error> {
        let (file, path) = (file.as_ref(), path.as_ref());
        self.mounted()
            .call(path, |vfs, proc| vfs.link(proc, bytes(file), bytes(path)))
    }

    /// Removes the name of what is no directory.
    ///
    /// # Errors
    /// As unlink(2).
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let removed = self
            .mounted()
            .act(path, || rump_fs::remove_file(bytes(path)));
        // What unlink(2) answers of a directory says nothing of why.
        let is_dir = || {
            self.symlink_metadata(path)
                .is_ok_and(|known| known.is_dir())
        };
        removed.map_err(|error| match error.errno() {
            Errno::EPERM if is_dir() => error.saying("Is a directory"),
            _ => error,
        })
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As rmdir(2).
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        self.mounted()
            .act(path, || rump_fs::remove_dir(bytes(path)))
    }

    /// Removes what is at `path`, and everything below it; links are not followed. Stops at the first that cannot be removed.
    ///
    /// # Errors
    /// As unlink(2) and rmdir(2); what stands in the way of listing it; `EBUSY` for the root, of which nothing is removed then.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        if self.symlink_metadata(path)?.ino() == self.symlink_metadata("/")?.ino() {
            let refused = self.mounted().act(path, || Err(Errno::EBUSY));
            return refused.map_err(|error| error.saying("the root of a volume cannot be removed"));
        }
        // A directory comes before what is in it, so that it goes after that.
        let found: Result<Vec<_>, Error> = self.walk(path).collect();
        for entry in found?.iter().rev() {
            match entry.metadata().is_dir() {
                true => self.remove_dir(entry.path())?,
                false => self.remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    /// Renames a file, replacing what has the new name.
    ///
    /// # Errors
    /// As rename(2).
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), Error> {
        let (from, to) = (from.as_ref(), to.as_ref());
        self.mounted()
            .act(from, || rump_fs::rename(bytes(from), bytes(to)))
    }

    /// Sets permission bits, with set-ID and sticky. Symbolic links are followed.
    ///
    /// # Errors
    /// As chmod(2).
    pub fn set_mode(&self, path: impl AsRef<Path>, mode: u32) -> Result<(), Error> {
        let path = path.as_ref();
        let mode = u16::try_from(mode & 0o7777).unwrap_or_default();
        self.mounted()
            .call(path, |vfs, proc| vfs.chmod(proc, bytes(path), mode))
    }

    /// Sets owner and group; `None` stays. A symbolic link is changed itself.
    ///
    /// # Errors
    /// As lchown(2).
    pub fn set_owner(
        &self,
        path: impl AsRef<Path>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), Error> {
        let path = path.as_ref();
        self.mounted().call(path, |vfs, proc| {
            vfs.chown(proc, bytes(path), Last::NoFollow, uid, gid)
        })
    }

    /// Sets the times of the last access and of the last change of the contents. A symbolic link is changed itself.
    ///
    /// # Errors
    /// As utimensat(2).
    pub fn set_times(
        &self,
        path: impl AsRef<Path>,
        atime: WallTime,
        mtime: WallTime,
    ) -> Result<(), Error> {
        let path = path.as_ref();
        let times = Times {
            atime: Some(atime),
            mtime: Some(mtime),
        };
        self.mounted().call(path, |vfs, proc| {
            vfs.utimens(proc, bytes(path), Last::NoFollow, Some(times))
        })
    }

    /// Cuts a file off, or extends it with a hole.
    ///
    /// # Errors
    /// As truncate(2).
    pub fn set_len(&self, path: impl AsRef<Path>, bytes_of_file: u64) -> Result<(), Error> {
        let path = path.as_ref();
        self.mounted().call(path, |vfs, proc| {
            vfs.truncate(proc, bytes(path), bytes_of_file)
        })
    }

    /// Makes everything that was written stable.
    ///
    /// # Errors
    /// `EIO` if something could not be written.
    pub fn sync(&self) -> Result<(), Error> {
        self.mounted()
            .call(Path::new("/"), |vfs, _| vfs.sync(Wait::Stable))
    }
}
