//! The transport of every virtio device here: PCI, or a window of registers.

use super::Pci;
use platform_virtio::queue::Areas;
use platform_virtio::transport::Doorbell;
use platform_virtio::{DeviceType, Fault, Mmio, MmioTransport, PciTransport, Status};

pub(crate) enum Transport {
    Pci(PciTransport<Pci>),
    Window(MmioTransport<Mmio>),
}

macro_rules! whichever {
    ($self:ident, $transport:ident => $call:expr) => {
        match $self {
            Transport::Pci($transport) => $call,
            Transport::Window($transport) => $call,
        }
    };
}

impl platform_virtio::Transport for Transport {
    fn device_type(&self) -> DeviceType {
        whichever!(self, transport => transport.device_type())
    }

    fn status(&self) -> Status {
        whichever!(self, transport => transport.status())
    }

    fn set_status(&mut self, status: Status) {
        whichever!(self, transport => transport.set_status(status));
    }

    fn device_features(&mut self) -> u64 {
        whichever!(self, transport => transport.device_features())
    }

    fn set_driver_features(&mut self, features: u64) {
        whichever!(self, transport => transport.set_driver_features(features));
    }

    fn queue_max(&mut self, queue: u16) -> u16 {
        whichever!(self, transport => transport.queue_max(queue))
    }

    fn set_up_queue(&mut self, queue: u16, areas: &Areas, vector: u16) -> Result<Doorbell, Fault> {
        whichever!(self, transport => transport.set_up_queue(queue, areas, vector))
    }

    fn set_configuration_vector(&mut self, vector: u16) -> Result<(), Fault> {
        whichever!(self, transport => transport.set_configuration_vector(vector))
    }

    fn notify(&self, doorbell: Doorbell, queue: u16) {
        whichever!(self, transport => transport.notify(doorbell, queue));
    }

    fn generation(&self) -> u32 {
        whichever!(self, transport => transport.generation())
    }

    fn configuration_len(&self) -> usize {
        whichever!(self, transport => transport.configuration_len())
    }

    fn configuration8(&self, offset: usize) -> u8 {
        whichever!(self, transport => transport.configuration8(offset))
    }

    fn configuration16(&self, offset: usize) -> u16 {
        whichever!(self, transport => transport.configuration16(offset))
    }

    fn configuration32(&self, offset: usize) -> u32 {
        whichever!(self, transport => transport.configuration32(offset))
    }

    fn cut_off(&mut self) {
        whichever!(self, transport => transport.cut_off());
    }
}
