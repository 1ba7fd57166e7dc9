//! virtio 1.2 devices: transports, virtqueues, block, network, entropy.
#![no_std]
