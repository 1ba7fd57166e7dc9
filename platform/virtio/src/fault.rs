//! What can go wrong: the device broke the rules, it could not be attached, a request was refused.

use core::fmt;

/// A way in which a device broke the rules of virtio. After one the device is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The status register did not read 0 after a reset.
    ResetIgnored,
    /// FEATURES_OK did not stay set: the device takes no subset of what it offers.
    FeaturesRefused,
    /// It does not offer VERSION_1: a legacy device.
    NotModern,
    /// It asks to be reset (DEVICE_NEEDS_RESET).
    NeedsReset,
    /// It has no queue of this number, or did not accept its set-up.
    QueueMissing {
        /// The queue.
        queue: u16,
    },
    /// It did not take an interrupt vector.
    VectorRefused {
        /// The vector, an entry of the MSI-X table.
        vector: u16,
    },
    /// A capability that is needed is missing, or lies outside its BAR.
    Capability {
        /// What it would have described.
        kind: &'static str,
    },
    /// The notification address of a queue lies outside the notification window.
    NotifyAddress {
        /// The queue.
        queue: u16,
    },
    /// The configuration space is too short for a field that a feature promises, or the field's
    /// value makes no sense.
    Configuration {
        /// The field, in the standard's words.
        field: &'static str,
    },
    /// The configuration changed each time it was read.
    ConfigurationUnstable,
    /// The used index advanced by more than what is outstanding.
    UsedIndex {
        /// By how much it advanced.
        ahead: u16,
        /// How many chains are outstanding.
        outstanding: u16,
    },
    /// A used element names no chain that is outstanding.
    UsedId {
        /// What it names.
        id: u32,
    },
    /// A used element claims more bytes than the chain has writable ones.
    UsedLength {
        /// The claim.
        claimed: u32,
        /// What is there.
        writable: u32,
    },
    /// A block request came back with a status that does not exist.
    BlockStatus {
        /// The status byte; 0xff is what the driver had put there.
        status: u8,
    },
    /// A received packet is spread over no buffer, or over more than are used.
    BufferCount {
        /// The header's `num_buffers`.
        claimed: u16,
        /// How many used buffers there are.
        used: u16,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fault::ResetIgnored => write!(f, "device does not reset"),
            Fault::FeaturesRefused => write!(f, "device refuses the features that it offered"),
            Fault::NotModern => write!(f, "legacy device (no VERSION_1)"),
            Fault::NeedsReset => write!(f, "device asks for a reset"),
            Fault::QueueMissing { queue } => write!(f, "queue {queue} is missing"),
            Fault::VectorRefused { vector } => write!(f, "MSI-X vector {vector} was refused"),
            Fault::Capability { kind } => write!(f, "no usable {kind} capability"),
            Fault::NotifyAddress { queue } => {
                write!(f, "notification address of queue {queue} is out of range")
            }
            Fault::Configuration { field } => write!(f, "bad configuration field {field}"),
            Fault::ConfigurationUnstable => write!(f, "configuration never settles"),
            Fault::UsedIndex { ahead, outstanding } => write!(
                f,
                "used index advanced by {ahead} with {outstanding} outstanding"
            ),
            Fault::UsedId { id } => write!(f, "used element names chain {id}, not outstanding"),
            Fault::UsedLength { claimed, writable } => {
                write!(f, "used element claims {claimed} bytes of {writable}")
            }
            Fault::BlockStatus { status } => write!(f, "block request status {status:#04x}"),
            Fault::BufferCount { claimed, used } => {
                write!(f, "packet of {claimed} buffers with {used} used")
            }
        }
    }
}

/// Why a device could not be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The [`Dma`](crate::Dma) had no memory left.
    NoMemory,
    /// The device broke the rules.
    Fault(Fault),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::NoMemory => write!(f, "no memory for its queues"),
            AttachError::Fault(fault) => fault.fmt(f),
        }
    }
}

impl From<Fault> for AttachError {
    fn from(fault: Fault) -> AttachError {
        AttachError::Fault(fault)
    }
}

/// Why a request was not started; its memory is the caller's again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// As much as the queue holds is outstanding.
    Full,
    /// The request makes no sense for this device: range, alignment, size, number of segments.
    Invalid,
    /// The device can only be read.
    ReadOnly,
    /// The device has no such operation.
    Unsupported,
    /// The device was given up.
    Broken,
}
