//! Entropy devices [virtio 1.2 §5.4].

use crate::dma::{Dma, Pages};
use crate::fault::{AttachError, RequestError};
use crate::queue::{LOOKS, Queue, Shape};
use crate::transport::{Device, Transport};
use core::sync::atomic::Ordering;

#[cfg(test)]
mod tests;

/// Bytes asked for at once: enough for a seed.
const BUFFER_BYTES: usize = 64;

/// An entropy source. One request is under way at most.
pub struct VirtioRng<T: Transport> {
    // First, so that the device is stopped before its memory goes.
    device: Device<T>,
    queue: Queue,
    buffer: Pages,
    /// Bytes of `buffer` that came and were not handed out: the first so many.
    left: usize,
}

impl<T: Transport> VirtioRng<T> {
    /// Brings the device up. `vector` is the MSI-X entry for both its interrupts.
    pub fn attach(
        transport: T,
        dma: &'static dyn Dma,
        vector: u16,
    ) -> Result<VirtioRng<T>, AttachError> {
        let mut device = Device::negotiate(transport, 0)?;
        device.set_configuration_vector(vector)?;
        let shape = Shape { size: 1, chain: 1 };
        let queue = device.queue(dma, 0, shape, vector)?;
        let buffer = Pages::allocate(dma, BUFFER_BYTES).ok_or(AttachError::NoMemory)?;
        device.start();
        Ok(VirtioRng {
            device,
            queue,
            buffer,
            left: 0,
        })
    }

    /// The device, as the transport sees it.
    pub fn device(&self) -> &Device<T> {
        &self.device
    }

    /// Puts random bytes into `out` and answers how many; 0, unless `out` is empty, if none are there yet: more
    /// were asked for, and an interrupt will tell, if the device is honest. No byte is handed out twice.
    ///
    /// # Errors
    /// [`RequestError::Broken`].
    pub fn fill(&mut self, out: &mut [u8]) -> Result<usize, RequestError> {
        if out.is_empty() {
            return Ok(0);
        }
        for _ in 0..LOOKS {
            if self.left > 0 {
                break;
            }
            self.device
                .check_status()
                .map_err(|_| RequestError::Broken)?;
            self.request()?;
            match self.queue.take() {
                // None at all, which must not be [virtio 1.2 §5.4.6.2]: it may be asked again later.
                Ok(Some(used)) if used.len == 0 => return Ok(0),
                Ok(Some(used)) => self.left = used.len as usize,
                Ok(None) if self.queue.want_interrupt(1) => return Ok(0),
                // Came meanwhile: take it.
                Ok(None) => {}
                Err(fault) => {
                    self.device.give_up(fault);
                    return Err(RequestError::Broken);
                }
            }
        }
        let count = self.left.min(out.len());
        for byte in &mut out[..count] {
            self.left -= 1;
            *byte = self.buffer.load8(self.left, Ordering::Relaxed);
            self.buffer.store8(self.left, 0, Ordering::Relaxed);
        }
        Ok(count)
    }

    /// Asks for bytes, unless that was done.
    fn request(&mut self) -> Result<(), RequestError> {
        if self.queue.outstanding() > 0 {
            return Ok(());
        }
        let mut chain = self.queue.begin().ok_or(RequestError::Full)?;
        chain.push(self.buffer.bus(0), BUFFER_BYTES as u32, true)?;
        chain.commit(0);
        self.device.kick(&mut self.queue);
        Ok(())
    }
}
