//! The device tree, and the lines that announce it (autoconf(9)).

use alloc::string::String;
use alloc::vec::Vec;
use rumpkern::aprint;
use rumpkern::locks::Mutex;
use rumpuser::Errno;

/// The most devices of a kernel.
pub const MAX_DEVICES: usize = 1024;

/// A device that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name and unit: `ld0`.
    pub name: String,
    /// What it is attached to: `virtio0`.
    pub parent: String,
    /// What it is, for people.
    pub description: String,
}

/// The devices of a kernel. It is in the kernel by its type: `kernel.get::<Autoconf>()`.
#[derive(Default)]
pub struct Autoconf {
    devices: Mutex<Vec<Device>>,
}

impl Autoconf {
    /// Notes that `name` is at `parent`, and says so: `ld0 at virtio0: 128 MB`.
    ///
    /// # Errors
    /// `EEXIST`: there is a device of that name. `ENOSPC`: there are too many.
    pub fn attach(&self, name: &str, parent: &str, description: &str) -> Result<(), Errno> {
        let device = Device {
            name: String::from(name),
            parent: String::from(parent),
            description: String::from(description),
        };
        let mut devices = self.devices.lock();
        if devices.iter().any(|known| known.name == name) {
            return Err(Errno::EEXIST);
        }
        if devices.len() >= MAX_DEVICES {
            return Err(Errno::ENOSPC);
        }
        devices.push(device);
        drop(devices);
        aprint!("{name} at {parent}: {description}");
        Ok(())
    }

    /// The devices, in the order in which they were found.
    pub fn devices(&self) -> Vec<Device> {
        self.devices.lock().clone()
    }
}
