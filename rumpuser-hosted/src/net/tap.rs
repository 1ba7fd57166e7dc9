//! A tap device of the host's.

use super::port::{Port, packet_device};
use crate::errno::{from_io, from_rustix};
use rumpuser::Errno;
use rustix::ioctl::{Setter, ioctl, opcode};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};

/// `struct ifreq` of netdevice(7): a name of at most 15 bytes, then flags; 40 bytes in all.
#[repr(C)]
#[derive(Clone, Copy)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// linux/if_tun.h: Ethernet frames, without a header of the driver's own.
const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
/// linux/if_tun.h: `_IOW('T', 202, int)`.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);

/// A tap device, attached by its name. It needs the right to do so (root, or the device's owner).
pub struct Tap {
    port: Port,
    file: File,
}

impl Tap {
    /// Attaches the tap device `name`, making it if need be, and starts to read it. The kernel's
    /// end has Ethernet address `mac`. It lives as long as the process.
    ///
    /// # Errors
    /// `EINVAL` for a name longer than 15 bytes; otherwise what the system says.
    pub fn open(name: &str, mac: [u8; 6]) -> Result<&'static Tap, Errno> {
        let mut request = InterfaceRequest {
            name: [0; 16],
            flags: IFF_TAP | IFF_NO_PI,
            rest: [0; 22],
        };
        if name.len() > 15 || name.contains('\0') {
            return Err(Errno::EINVAL);
        }
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .map_err(|error| from_io(&error))?;
        // SAFETY: TUNSETIFF reads a `struct ifreq` of 40 bytes, which is what it is given.
        let set = unsafe { Setter::<TUNSETIFF, InterfaceRequest>::new(request) };
        // SAFETY: the operation above matches the descriptor, which is tun(4)'s.
        unsafe { ioctl(&file, set) }.map_err(from_rustix)?;
        let reader = file.try_clone().map_err(|error| from_io(&error))?;
        let tap: &'static Tap = Box::leak(Box::new(Tap {
            port: Port::new("tap0", mac),
            file,
        }));
        std::thread::Builder::new()
            .name("tap".into())
            .spawn(move || tap.read_frames(reader))
            .map_err(|_| Errno::EAGAIN)?;
        Ok(tap)
    }

    fn read_frames(&self, mut file: File) {
        let mut frame = [0; 65536];
        loop {
            match file.read(&mut frame) {
                Ok(0) => return,
                Ok(length) => self.port.deliver(&frame[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // The interface is down (EIO) or gone: look again, until the process ends.
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
            }
        }
    }

    fn send(&self, frame: &[u8]) {
        // A frame that the interface does not take is lost, as on a wire.
        let _ = (&self.file).write(frame);
    }
}

packet_device!(Tap);
