//! Whole Ethernet frames, sent and received on a namespace's tap device.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use crate::namespace::Namespace;

/// The guest's hardware address, as `run-qemu.sh` sets it.
pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// A socket that sees and sends every frame of the tap device (packet(7)).
#[derive(Debug)]
pub struct FrameSocket {
    socket: OwnedFd,
}

impl FrameSocket {
    /// Opens one on the namespace's tap device.
    pub fn open(namespace: &Namespace) -> Result<Self> {
        namespace.enter(|| {
            let protocol = u16::try_from(libc::ETH_P_ALL)
                .expect("an EtherType")
                .to_be();
            // SAFETY: socket takes no pointers.
            let raw = unsafe {
                libc::socket(
                    libc::AF_PACKET,
                    libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                    i32::from(protocol),
                )
            };
            if raw < 0 {
                return Err(Error::last_os_error());
            }
            // SAFETY: the descriptor is fresh and nobody else's.
            let socket = unsafe { OwnedFd::from_raw_fd(raw) };
            // SAFETY: all zeroes is a valid sockaddr_ll.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = u16::try_from(libc::AF_PACKET).expect("a family");
            address.sll_protocol = protocol;
            address.sll_ifindex = Namespace::tap_index();
            let length = u32::try_from(size_of::<libc::sockaddr_ll>()).expect("small");
            // SAFETY: `address` is a sockaddr_ll of that length and outlives the call.
            let done =
                unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
            if done < 0 {
                Err(Error::last_os_error())
            } else {
                Ok(Self { socket })
            }
        })
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: the pointer and length are those of one slice.
        let sent = unsafe {
            libc::send(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
            )
        };
        if sent < 0 {
            Err(Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// The next frame, or none within `patience`.
    pub fn receive(&self, patience: Duration) -> Result<Option<Vec<u8>>> {
        let mut wait = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let milliseconds = i32::try_from(patience.as_millis())
            .map_err(|_| Error::from(ErrorKind::InvalidInput))?;
        // SAFETY: one pollfd, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut wait, 1, milliseconds) };
        if ready <= 0 {
            return if ready < 0 {
                Err(Error::last_os_error())
            } else {
                Ok(None)
            };
        }
        let mut frame = vec![0; 65_536];
        // SAFETY: the pointer and length are those of one buffer.
        let got = unsafe {
            libc::recv(
                self.socket.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                0,
            )
        };
        let got = usize::try_from(got).map_err(|_| Error::last_os_error())?;
        frame.truncate(got);
        Ok(Some(frame))
    }
}

/// The Internet checksum (RFC 1071) of bytes that come after others whose sum is `before`.
pub fn checksum(before: u32, bytes: &[u8]) -> u16 {
    let mut sum = before;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// An Ethernet frame.
pub fn ethernet(destination: [u8; 6], source: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [
        &destination[..],
        &source,
        &ether_type.to_be_bytes(),
        payload,
    ]
    .concat()
}

/// An IPv4 packet (RFC 791 §3.1) without options.
pub fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("an IPv4 packet");
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header.extend(source);
    header.extend(destination);
    let sum = checksum(0, &header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(payload);
    header
}

/// A TCP segment (RFC 9293 §3.1) for the packet that [`ipv4`] makes with the same addresses; `options` in multiples of four bytes.
pub fn tcp(
    source: ([u8; 4], u16),
    destination: ([u8; 4], u16),
    sequence: [u32; 2],
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(source.1.to_be_bytes());
    segment.extend(destination.1.to_be_bytes());
    segment.extend(sequence.iter().flat_map(|number| number.to_be_bytes()));
    segment.push(u8::try_from((20 + options.len()) / 4).expect("at most 40 bytes of options") << 4);
    segment.push(flags);
    segment.extend([0xff, 0xff, 0, 0, 0, 0]); // window, checksum, urgent pointer
    segment.extend(options);
    segment.extend(payload);
    let sum = checksum(
        pseudo_header(source.0, destination.0, 6, segment.len()),
        &segment,
    );
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The sum of the pseudo-header that TCP's and UDP's checksums begin with (RFC 9293 §3.1).
pub fn pseudo_header(source: [u8; 4], destination: [u8; 4], protocol: u8, length: usize) -> u32 {
    let length = u32::try_from(length).expect("a segment");
    [source, destination]
        .iter()
        .flatten()
        .zip([8, 0].iter().cycle())
        .map(|(byte, shift)| u32::from(*byte) << shift)
        .sum::<u32>()
        + u32::from(protocol)
        + length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_with_its_checksum_sums_to_zero() {
        let (source, destination) = ([10, 0, 0, 1], [192, 168, 7, 200]);
        let segment = tcp(
            (source, 1),
            (destination, 80),
            [7, 0],
            2,
            &[2, 4, 5, 0xb4],
            b"odd",
        );
        assert_eq!(
            checksum(
                pseudo_header(source, destination, 6, segment.len()),
                &segment
            ),
            0
        );
        let packet = ipv4(source, destination, 6, &segment);
        assert_eq!(checksum(0, &packet[..20]), 0);
    }
}
