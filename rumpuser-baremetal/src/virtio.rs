//! virtio devices: finding them, on PCI or by themselves, bringing them up, leading their interrupts to whoever listens.
//!
//! `platform_virtio` knows neither PCI buses nor heaps nor vectors: here is what it is given of each. Every
//! device becomes a block device ([`crate::bio`]), a packet device ([`crate::net`]) or a source of randomness
//! ([`crate::entropy`]) of the host.

use crate::{aprint, bio, entropy, heap, net};
use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use platform_virtio::transport::pci::device_type;
use platform_virtio::{
    AttachError, DeviceType, Dma, Extent, Fault, Mmio, MmioTransport, PAGE_SIZE, PciFunction,
    PciTransport, RequestError, Segment,
};
use platform_x86_64::interrupt::{self, Handler};
use platform_x86_64::pci::{self, Function, MsixError};
use rumpuser::{Errno, IoVec, ThreadId};

pub(crate) mod mmio;
mod transport;

pub(crate) use transport::Transport;

/// The bus driver's function, as the virtio transport sees it.
pub(crate) struct Pci(Function);

impl PciFunction for Pci {
    type Bar = Mmio;

    fn read8(&self, register: u8) -> u8 {
        self.0.read8(register.into())
    }

    fn read16(&self, register: u8) -> u16 {
        self.0.read16(register.into())
    }

    fn read32(&self, register: u8) -> u32 {
        self.0.read32(register.into())
    }

    fn write16(&self, register: u8, value: u16) {
        self.0.write16(register.into(), value);
    }

    fn map_bar(&self, bar: u8) -> Option<Mmio> {
        let (base, len) = self.0.map_bar(bar).ok()?;
        // SAFETY: mapped for ever, uncached, outside of RAM, and page-aligned or aligned to the BAR's
        // size, which is 16 at least; what the device does with memory is what its queues tell it.
        Some(unsafe { Mmio::new(base, len) })
    }
}

/// The host's heap, which lies at its physical addresses, as devices reach it. So does all RAM.
struct HostDma;

fn pages_layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
}

// SAFETY: the heap's memory is page-aligned as the layout says, zeroed, and one allocation's alone. RAM
// is mapped at its own address, for ever, so `translate` is the identity.
unsafe impl Dma for HostDma {
    fn allocate(&self, pages: usize) -> Option<NonNull<u8>> {
        heap::allocate_zeroed(pages_layout(pages)?).ok()
    }

    unsafe fn free(&self, base: NonNull<u8>, pages: usize) {
        if let Some(layout) = pages_layout(pages) {
            // SAFETY: `allocate` made it with this layout, and the caller says that nobody uses it.
            unsafe { heap::free(base, layout) };
        }
    }

    fn translate(&self, address: NonNull<u8>, len: usize) -> Option<Extent> {
        let bus = address.as_ptr().expose_provenance() as u64;
        Some(Extent { bus, len })
    }
}

/// What the drivers' queues are made of.
pub(crate) static DMA: &dyn Dma = &HostDma;

/// Who waits for a device, and what interrupts have recorded for it.
pub(crate) struct Listener {
    /// The thread's number; 0: nobody.
    thread: AtomicU64,
    configuration: AtomicBool,
}

impl Listener {
    pub(crate) const fn new() -> Listener {
        Listener {
            thread: AtomicU64::new(0),
            configuration: AtomicBool::new(false),
        }
    }

    /// Makes `thread` the one that waits. What happened before counts, so it is woken.
    pub(crate) fn set(&self, thread: ThreadId) {
        self.thread.store(thread.get(), Ordering::Release);
        self.wake();
    }

    /// Wakes whoever waits. Interrupt handlers call it.
    pub(crate) fn wake(&self) {
        let number = core::num::NonZeroU64::new(self.thread.load(Ordering::Acquire));
        if let (Some(number), Some(host)) = (number, rumpuser::try_host()) {
            host.threads().unpark(ThreadId::new(number));
        }
    }

    /// Records that the configuration changed, and wakes.
    pub(crate) fn configuration_interrupt(&self) {
        self.configuration.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether the configuration changed since the last call.
    pub(crate) fn configuration_changed(&self) -> bool {
        self.configuration.load(Ordering::Relaxed)
            && self.configuration.swap(false, Ordering::AcqRel)
    }
}

/// Says once that a device was given up. Called without any lock, since the log may wait.
pub(crate) struct Obituary(AtomicBool);

impl Obituary {
    pub(crate) const fn new() -> Obituary {
        Obituary(AtomicBool::new(false))
    }

    pub(crate) fn check(&self, name: &str, fault: Option<Fault>) {
        let Some(fault) = fault else { return };
        if !self.0.swap(true, Ordering::Relaxed) {
            log::error!("{name}: {fault}; the device is given up");
        }
    }
}

/// Why a device of ours does not serve.
pub(crate) enum Failure {
    Attach(AttachError),
    Msix(MsixError),
    /// No interrupt vector, or no memory, of the host's is left.
    Exhausted(&'static str),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Attach(error) => error.fmt(f),
            Failure::Msix(error) => error.fmt(f),
            Failure::Exhausted(what) => write!(f, "no {what} left"),
        }
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Failure {
        Failure::Attach(error)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        Failure::Attach(fault.into())
    }
}

impl From<MsixError> for Failure {
    fn from(error: MsixError) -> Failure {
        Failure::Msix(error)
    }
}

/// A device that was found.
pub(crate) struct Found {
    /// Its name, `virtio0` and so on.
    pub(crate) name: &'static str,
    place: Place,
}

/// Where a device is.
enum Place {
    Pci(Function),
    Window(mmio::Window),
}

impl Found {
    /// Leads the device's interrupts to `handlers`, of which entry n is its vector n; the first is for changes of the
    /// configuration, the last for queues. They are called with `argument`.
    pub(crate) fn wire(&self, handlers: &[Handler], argument: usize) -> Result<(), Failure> {
        let function = match &self.place {
            Place::Pci(function) => function,
            Place::Window(window) => return window.wire(handlers, argument),
        };
        let mut table = function.enable_msix()?;
        for (&handler, entry) in handlers.iter().zip(0..) {
            let vector = interrupt::allocate(handler, argument)
                .ok_or(Failure::Exhausted("interrupt vector"))?;
            table.set(entry, vector.message())?;
        }
        Ok(())
    }

    /// Its registers.
    pub(crate) fn transport(&self) -> Result<Transport, Failure> {
        Ok(match &self.place {
            Place::Pci(function) => Transport::Pci(PciTransport::new(Pci(*function))?),
            Place::Window(window) => Transport::Window(MmioTransport::new(window.registers)?),
        })
    }

    /// A station address for a card that has none: locally administered, and no other card's on this machine.
    pub(crate) fn local_address(&self) -> [u8; 6] {
        match &self.place {
            Place::Pci(function) => {
                let at = function.address();
                [0x02, 0, 0, at.bus, at.device, at.function]
            }
            Place::Window(window) => [0x02, 0, 1, 0, 0, window.line],
        }
    }

    fn attach(&self, kind: DeviceType) -> Result<(), Failure> {
        match kind {
            DeviceType::BLOCK => bio::attach(self),
            DeviceType::NETWORK => net::attach(self),
            DeviceType::ENTROPY => entropy::attach(self),
            _ => Ok(()),
        }
    }
}

const NAMES: [&str; 16] = [
    "virtio0", "virtio1", "virtio2", "virtio3", "virtio4", "virtio5", "virtio6", "virtio7",
    "virtio8", "virtio9", "virtio10", "virtio11", "virtio12", "virtio13", "virtio14", "virtio15",
];

/// Finds the virtio devices of the machine, on PCI and where the command line says, and brings up those that this host has a
/// use for.
pub(crate) fn init(command_line: &[u8]) {
    let mut names = NAMES.iter();
    let mut attach = |at: &dyn fmt::Display, kind: DeviceType, place: Place| {
        let Some(&name) = names.next() else {
            aprint!(
                "{kind} at {at}: no more than {} virtio devices",
                NAMES.len()
            );
            return;
        };
        aprint!("{name} at {at}: {kind}");
        if let Err(failure) = (Found { name, place }).attach(kind) {
            aprint!("{name}: {failure}");
        }
    };
    for function in pci::functions() {
        if let Some(kind) = device_type(&Pci(function)) {
            attach(&function.address(), kind, Place::Pci(function));
        }
    }
    for window in mmio::windows(command_line) {
        if let Some(kind) = window.device_type() {
            attach(&window.address(), kind, Place::Window(window));
        }
    }
}

/// The kernel's piece of memory, as the drivers have it.
pub(crate) fn segment(piece: &IoVec) -> Segment {
    Segment {
        base: piece.base,
        len: piece.len,
    }
}

/// The number for a request that was not started; a broken device answers `broken`.
pub(crate) fn errno(error: RequestError, broken: Errno) -> Errno {
    match error {
        RequestError::Full => Errno::EAGAIN,
        RequestError::Invalid => Errno::EINVAL,
        RequestError::ReadOnly => Errno::EROFS,
        RequestError::Unsupported => Errno::EOPNOTSUPP,
        RequestError::Broken => broken,
    }
}
