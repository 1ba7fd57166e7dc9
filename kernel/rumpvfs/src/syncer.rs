//! Writing back what nobody waits for: sync(2), and the thread that does it every half minute.

use crate::mount::Mount;
use crate::vfs::Vfs;
use crate::vnode::{Vnode, Wait};
use alloc::sync::{Arc, Weak};
use core::time::Duration;
use rumpkern::kernel::Kernel;
use rumpkern::locks::{Condvar, Mutex};
use rumpuser::Errno;

/// How old unwritten data may become (`syncdelay`, 30 s in NetBSD).
const SYNC_DELAY: Duration = Duration::from_secs(30);

struct State {
    running: bool,
    stop: bool,
}

/// The syncer's reins.
pub(crate) struct Syncer {
    state: Mutex<State>,
    changed: Condvar,
}

impl Syncer {
    pub(crate) const fn new() -> Syncer {
        Syncer {
            state: Mutex::new(State {
                running: false,
                stop: false,
            }),
            changed: Condvar::new(),
        }
    }
}

impl Vfs {
    /// Writes everything that is dirty.
    ///
    /// # Errors
    /// The first error; the rest was written all the same.
    pub fn sync(&self, wait: Wait) -> Result<(), Errno> {
        let mut result = Ok(());
        let mut after = 0;
        while let Some(mount) = self.mount_after(after) {
            after = mount.id();
            result = result.and(self.sync_mount(&mount, wait));
        }
        result
    }

    /// Writes everything of `mount` that is dirty: file data, then metadata, then the device's cache.
    ///
    /// # Errors
    /// The first error; the rest was written all the same.
    pub fn sync_mount(&self, mount: &Arc<Mount>, wait: Wait) -> Result<(), Errno> {
        match mount.is_read_only() && mount.is_quiet() {
            true => Ok(()),
            false => self.write_back(mount, wait),
        }
    }

    /// The same, whether changes are refused already or not.
    pub(crate) fn write_back(&self, mount: &Arc<Mount>, wait: Wait) -> Result<(), Errno> {
        let mut result = Ok(());
        let is_dirty = |vnode: &Vnode| vnode.dirty_pages() > 0 || vnode.ops().is_changed();
        if wait == Wait::Stable {
            // All at once, so that none waits for another.
            self.vnodes.for_each(mount, is_dirty, |vnode| {
                result = result.and(vnode.flush_pages(Wait::Started));
            });
        }
        self.vnodes.for_each(mount, is_dirty, |vnode| {
            result = result.and(vnode.flush_pages(wait));
            if vnode.ops().is_changed() {
                let _locked = vnode.lock_exclusive();
                result = result.and(vnode.ops().update());
            }
        });
        result = result.and(mount.file_system().sync(wait));
        if let Some(device) = mount.device()
            && !mount.file_system().keeps_log()
        {
            result = result.and(self.devvp(device).flush(wait));
        }
        match wait {
            Wait::Stable => result.and(mount.take_loss()),
            Wait::Started => result,
        }
    }

    /// Starts the thread that syncs, unless it runs. For kernels in which something is mounted for writing.
    ///
    /// # Errors
    /// `EAGAIN`: the host has no thread left.
    pub fn start_syncer(self: &Arc<Self>, kernel: &Arc<Kernel>) -> Result<(), Errno> {
        let mut state = self.syncer.state.lock();
        if state.running {
            return Ok(());
        }
        let vfs = Arc::downgrade(self);
        kernel.spawn("syncer", move || run(&vfs))?;
        state.running = true;
        Ok(())
    }

    /// Ends that thread, and waits for it.
    pub fn stop_syncer(&self) {
        let mut state = self.syncer.state.lock();
        state.stop = true;
        self.syncer.changed.notify_all();
        while state.running {
            state = self.syncer.changed.wait(state);
        }
    }
}

fn run(vfs: &Weak<Vfs>) {
    while let Some(vfs) = vfs.upgrade() {
        let deadline = rumpuser::host().clock().now() + SYNC_DELAY;
        let mut state = vfs.syncer.state.lock();
        while !state.stop && rumpuser::host().clock().now() < deadline {
            state = vfs.syncer.changed.wait_until(state, Some(deadline)).0;
        }
        if state.stop {
            state.running = false;
            drop(state);
            vfs.syncer.changed.notify_all();
            return;
        }
        drop(state);
        if let Err(errno) = vfs.sync(Wait::Started) {
            log::error!("syncer: {errno}");
        }
    }
}
