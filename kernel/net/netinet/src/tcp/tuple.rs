//! The two endpoints that name a connection.

use core::net::IpAddr;
use rumpkern::hash::HashKey;

/// A connection's name, seen from here. An address of 0 and a port of 0 stand for "any" where a
/// socket is bound or listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Our address.
    pub local: IpAddr,
    /// Our port.
    pub local_port: u16,
    /// The other side's port.
    pub remote_port: u16,
    /// The other side's address.
    pub remote: IpAddr,
}

impl Tuple {
    /// The place in a table.
    pub fn table_hash(&self, key: HashKey) -> u64 {
        match (self.local, self.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let both = u64::from(local.to_bits()) << 32 | u64::from(remote.to_bits());
                key.table_hash(&[both, self.ports()])
            }
            _ => key.table_hash(&self.wide_words(0)),
        }
    }

    /// The tuple and `extra` under a secret key: for what nobody else may guess.
    pub fn secret_hash(&self, key: HashKey, extra: u64) -> u64 {
        key.secret_hash(&self.wide_words(extra))
    }

    fn ports(&self) -> u64 {
        u64::from(self.local_port) << 16 | u64::from(self.remote_port)
    }

    fn wide_words(&self, extra: u64) -> [u64; 6] {
        let (local, remote) = (wide(self.local), wide(self.remote));
        [
            local as u64,
            (local >> 64) as u64,
            remote as u64,
            (remote >> 64) as u64,
            self.ports(),
            extra,
        ]
    }
}

/// An address as 128 bits, an IPv4 one in its mapped form.
fn wide(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().to_bits(),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}
