//! A disk in memory (md(4)): what it holds is gone with it.

use crate::disk::Backend;
use alloc::sync::Arc;
use alloc::vec::Vec;
use rumpkern::locks::Mutex;
use rumpkern::uvm::dma::{Bio, BioOp};
use rumpuser::{BlockInfo, Errno, SECTOR_SIZE};

/// The memory.
pub struct MemoryDisk {
    info: BlockInfo,
    bytes: Mutex<Vec<u8>>,
}

impl MemoryDisk {
    /// A disk that holds `bytes`; what does not fill a sector is cut off.
    pub fn new(mut bytes: Vec<u8>) -> Arc<MemoryDisk> {
        let sectors = bytes.len() / SECTOR_SIZE;
        bytes.truncate(sectors * SECTOR_SIZE);
        Arc::new(MemoryDisk {
            info: BlockInfo {
                parent: "md0",
                sectors: sectors as u64,
                sector_size: SECTOR_SIZE as u32,
                read_only: false,
                volatile_cache: false,
                discard: false,
                max_segments: 64,
                max_bytes: 256 * 1024,
                queue_depth: 1,
            },
            bytes: Mutex::new(bytes),
        })
    }

    /// Looks at what it holds.
    pub fn with_bytes<R>(&self, look: impl FnOnce(&mut [u8]) -> R) -> R {
        look(&mut self.bytes.lock())
    }

    fn serve(&self, bio: &mut Bio) -> Result<(), Errno> {
        let mut bytes = self.bytes.lock();
        let mut at = usize::try_from(bio.sector)
            .ok()
            .and_then(|sector| sector.checked_mul(SECTOR_SIZE))
            .ok_or(Errno::EINVAL)?;
        for io in &mut bio.frames {
            let disk = at
                .checked_add(io.len)
                .and_then(|end| bytes.get_mut(at..end));
            let disk = disk.ok_or(Errno::EINVAL)?;
            let part = io.offset..io.offset + io.len;
            match bio.op {
                BioOp::Read => {
                    let memory = io.frame.get_mut().ok_or(Errno::EINVAL)?;
                    memory
                        .get_mut(part)
                        .ok_or(Errno::EINVAL)?
                        .copy_from_slice(disk);
                }
                BioOp::Write => {
                    let memory = io.frame.as_bytes();
                    disk.copy_from_slice(memory.get(part).ok_or(Errno::EINVAL)?);
                }
                BioOp::Flush | BioOp::Discard { .. } => {}
            }
            at += io.len;
        }
        Ok(())
    }
}

impl Backend for MemoryDisk {
    fn info(&self) -> &BlockInfo {
        &self.info
    }

    fn start(&self, mut bio: Bio) -> Result<(), (Errno, Bio)> {
        let result = self.serve(&mut bio);
        (bio.done)(bio.frames, result);
        Ok(())
    }
}
