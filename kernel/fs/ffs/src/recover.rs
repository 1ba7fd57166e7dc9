//! Putting a volume in order whose log was in use: replaying it, and freeing the files without a name that it lists.
//!
//! A volume mounted for reading only shows what the log says ([`Devvp::show`]): the disk stays as it is. One mounted for
//! writing gets it, and then says that its log does not count any more, before anything else is written. If the
//! power fails before, the same is replayed again.
//!
//! Source: NetBSD sys/ufs/ffs/ffs_wapbl.c (`ffs_wapbl_replay_finish`), ffs_vfsops.c (`ffs_mountfs`).

use alloc::sync::Arc;

use rumpkern::kmem;
use rumpuser::{Errno, SECTOR_SIZE};
use rumpvfs::bufcache::Devvp;
use rumpvfs::vnode::VnodeType;
use rumpvfs::wapbl::{Orphan, Replay};

use crate::corrupt::{Corrupt, Fault};
use crate::inode::Inode;
use crate::journal;
use crate::logging::cost;
use crate::superblock::{self, Clean, Flags, Superblock, Tolerance};
use crate::volume::Volume;

impl Volume {
    /// The volume on `device`, whose superblock `sb` says that its log was in use, as it is when that is replayed.
    pub(crate) fn replayed(
        sb: &Superblock,
        device: &Devvp,
        tolerance: Tolerance,
    ) -> Result<Volume, Fault> {
        let replay = journal::read(sb, &&**device.device(), device.sectors())?;
        let replay = kmem::try_arc(replay).map_err(Fault::Refused)?;
        device.show(Some(replay.clone()));
        let found = superblock::find(device, tolerance).inspect_err(|_| device.show(None))?;
        let sb = Superblock {
            flags: found.flags.difference(Flags::DOWAPBL),
            clean: Clean::IS_CLEAN,
            // What the log has of the superblock is older than what was asked for since (`tune.rs`).
            journal: sb.journal,
            ..found
        };
        let volume = Volume::new(sb, device.clone());
        *volume.replay.lock() = Some(replay);
        Ok(volume)
    }

    /// Whether the disk is not what it seems to be.
    pub(crate) fn is_replay_shown(&self) -> bool {
        self.replay.lock().is_some()
    }

    /// If the log was only shown so far, puts on the disk what it says.
    pub(crate) fn replay_on_disk(&self) -> Result<Option<Arc<Replay>>, Fault> {
        let Some(replay) = self.replay.lock().clone() else {
            return Ok(None);
        };
        let sectors = replay
            .write(self.device.device())
            .map_err(|errno| Fault::Device { at: 0, errno })?;
        self.device.show(None);
        *self.replay.lock() = None;
        log::info!(
            "ffs: {}: journal replayed, {} KiB, {} files to be freed",
            self.device.name(),
            sectors * SECTOR_SIZE as u64 / 1024,
            replay.orphans().len()
        );
        Ok(Some(replay))
    }

    /// Frees the files without a name. Of one that cannot be freed the console says so. A log keeps it, and it is tried again when the log
    /// ends; without one, a check finds it.
    pub(crate) fn free_orphans(&self, orphans: &[Orphan]) {
        for orphan in orphans {
            if let Err(fault) = self.free_orphan(orphan) {
                self.left_taken(orphan.ino, fault);
            }
        }
    }

    /// Inode `ino`, of a file without a name, could not be freed: the volume is to be checked.
    pub(crate) fn left_taken(&self, ino: u32, fault: Fault) {
        let name = self.device.name();
        let _: Errno = fault.on(name).into();
        log::warn!("ffs: {name}: inode {ino} stays taken until the volume is checked");
        self.leave_unclean();
    }

    /// Frees a file without a name that nobody uses.
    pub(crate) fn free_orphan(&self, orphan: &Orphan) -> Result<(), Fault> {
        let ino = orphan.ino;
        let is_directory = match Inode::load(&self.sb, &self.device, ino) {
            Ok(mut inode) => {
                if inode.nlink > 0 {
                    return Err(Corrupt::Inode {
                        ino,
                        field: "nlink",
                        value: u64::from(inode.nlink),
                    }
                    .into());
                }
                self.erase(&mut inode)?;
                inode.vtype == VnodeType::Dir
            }
            // It was taken, but never written.
            Err(Fault::Corrupt(Corrupt::InodeFree { .. })) => {
                VnodeType::from_mode(orphan.mode as u16) == Some(VnodeType::Dir)
            }
            Err(fault) => return Err(fault),
        };
        self.operate(cost::RELEASE, || self.free_inode(ino, is_directory))?;
        match self.log() {
            Some(_) => Ok(()),
            None => self.allocator()?.finish(),
        }
    }
}
