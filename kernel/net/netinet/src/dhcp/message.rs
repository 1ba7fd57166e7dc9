//! DHCP messages (RFC 2131 §2, options of RFC 2132).

use alloc::vec::Vec;
use core::net::Ipv4Addr;

/// Bytes up to and with the magic cookie.
const FIXED_LEN: usize = 240;
/// A message of a client's is padded to what BOOTP relays expect (RFC 1542 §2.1).
const MIN_LEN: usize = 300;
/// The longest message we take, and say that we take (option 57): an Ethernet frame's worth.
pub(super) const MAX_LEN: usize = 1472;

const BOOTREQUEST: u8 = 1;
const BOOTREPLY: u8 = 2;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Answer by broadcast: we cannot take unicasts before we have an address (RFC 2131 §4.1).
const FLAG_BROADCAST: [u8; 2] = [0x80, 0];

const OPT_PAD: u8 = 0;
const OPT_MASK: u8 = 1;
const OPT_ROUTER: u8 = 3;
const OPT_DNS: u8 = 6;
const OPT_HOSTNAME: u8 = 12;
const OPT_REQUESTED: u8 = 50;
const OPT_LEASE: u8 = 51;
const OPT_OVERLOAD: u8 = 52;
const OPT_TYPE: u8 = 53;
const OPT_SERVER: u8 = 54;
const OPT_PARAMETERS: u8 = 55;
const OPT_MAX_SIZE: u8 = 57;
const OPT_T1: u8 = 58;
const OPT_T2: u8 = 59;
const OPT_CLIENT_ID: u8 = 61;
const OPT_END: u8 = 255;

/// The type of a message (option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who can give me an address?
    Discover,
    /// I can.
    Offer,
    /// I take it; or: may I keep it?
    Request,
    /// Yes.
    Ack,
    /// No.
    Nak,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Kind::Discover => 1,
            Kind::Offer => 2,
            Kind::Request => 3,
            Kind::Ack => 5,
            Kind::Nak => 6,
        }
    }

    fn of(number: u8) -> Option<Kind> {
        let all = [
            Kind::Discover,
            Kind::Offer,
            Kind::Request,
            Kind::Ack,
            Kind::Nak,
        ];
        all.into_iter().find(|kind| kind.number() == number)
    }
}

/// What a client asks.
pub struct Request<'a> {
    /// Its type.
    pub kind: Kind,
    /// The transaction.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// Our Ethernet address.
    pub mac: [u8; 6],
    /// Our address, if we may use it already.
    pub ciaddr: Option<Ipv4Addr>,
    /// The address that we want.
    pub requested: Option<Ipv4Addr>,
    /// The server that we chose.
    pub server: Option<Ipv4Addr>,
    /// Our name.
    pub hostname: &'a str,
}

impl Request<'_> {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MIN_LEN);
        bytes.extend([BOOTREQUEST, 1, 6, 0]);
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend(self.secs.to_be_bytes());
        match self.ciaddr {
            Some(_) => bytes.extend([0, 0]),
            None => bytes.extend(FLAG_BROADCAST),
        }
        bytes.extend(self.ciaddr.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        bytes.extend([0; 12]);
        bytes.extend(self.mac);
        bytes.resize(FIXED_LEN - COOKIE.len(), 0);
        bytes.extend(COOKIE);
        let mut option = |kind: u8, value: &[u8]| {
            // Every value here is shorter than that.
            let value = &value[..value.len().min(255)];
            bytes.extend([kind, value.len() as u8]);
            bytes.extend(value);
        };
        option(OPT_TYPE, &[self.kind.number()]);
        let mut id = [1; 7];
        id[1..].copy_from_slice(&self.mac);
        option(OPT_CLIENT_ID, &id);
        if let Some(addr) = self.requested {
            option(OPT_REQUESTED, &addr.octets());
        }
        if let Some(addr) = self.server {
            option(OPT_SERVER, &addr.octets());
        }
        option(OPT_MAX_SIZE, &((MAX_LEN + 28) as u16).to_be_bytes());
        option(
            OPT_PARAMETERS,
            &[OPT_MASK, OPT_ROUTER, OPT_DNS, OPT_LEASE, OPT_T1, OPT_T2],
        );
        if !self.hostname.is_empty() {
            option(OPT_HOSTNAME, self.hostname.as_bytes());
        }
        bytes.push(OPT_END);
        bytes.resize(bytes.len().max(MIN_LEN), 0);
        bytes
    }
}

/// What a server answers. Lists are cut to their first entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its type.
    pub kind: Kind,
    /// The transaction.
    pub xid: u32,
    /// Whom it is for.
    pub mac: [u8; 6],
    /// The address it is about.
    pub yiaddr: Ipv4Addr,
    /// The server (option 54).
    pub server: Option<Ipv4Addr>,
    /// The netmask.
    pub mask: Option<Ipv4Addr>,
    /// The first router.
    pub router: Option<Ipv4Addr>,
    /// The first name server.
    pub dns: Option<Ipv4Addr>,
    /// Seconds that the address may be used.
    pub lease: Option<u32>,
    /// Seconds until renewing.
    pub t1: Option<u32>,
    /// Seconds until rebinding.
    pub t2: Option<u32>,
}

impl Reply {
    /// Reads a message: none if it is not a well-formed reply.
    pub fn parse(bytes: &[u8]) -> Option<Reply> {
        let (fixed, options) = bytes.split_at_checked(FIXED_LEN)?;
        if fixed[0] != BOOTREPLY || fixed[1..3] != [1, 6] || !fixed.ends_with(&COOKIE) {
            return None;
        }
        let mut reply = Reply {
            // Replaced below, or the message has no type and is none.
            kind: Kind::Nak,
            xid: u32::from_be_bytes(fixed[4..8].try_into().ok()?),
            mac: fixed[28..34].try_into().ok()?,
            yiaddr: ipv4(&fixed[16..20])?,
            server: None,
            mask: None,
            router: None,
            dns: None,
            lease: None,
            t1: None,
            t2: None,
        };
        let mut kind = None;
        let overload = reply.take_options(options, &mut kind)?;
        // Options may go on in the fields for file and server name (RFC 2131 §4.1), once.
        if overload & 1 != 0 {
            reply.take_options(&fixed[108..236], &mut kind)?;
        }
        if overload & 2 != 0 {
            reply.take_options(&fixed[44..108], &mut kind)?;
        }
        reply.kind = kind?;
        Some(reply)
    }

    /// Reads options up to the end mark or the end. Answers the value of option 52. An option that runs
    /// out of the field makes the message no message.
    fn take_options(&mut self, field: &[u8], kind: &mut Option<Kind>) -> Option<u8> {
        let mut overload = 0;
        let mut rest = field;
        while let Some((&tag, after)) = rest.split_first() {
            if tag == OPT_END {
                break;
            }
            if tag == OPT_PAD {
                rest = after;
                continue;
            }
            let (&len, after) = after.split_first()?;
            let (value, after) = after.split_at_checked(usize::from(len))?;
            rest = after;
            match tag {
                OPT_TYPE => *kind = Some(Kind::of(*value.first()?)?),
                OPT_OVERLOAD => overload = *value.first()?,
                _ => self.take_option(tag, value),
            }
        }
        Some(overload)
    }

    /// One with a value of the wrong length is as if it were not there.
    fn take_option(&mut self, tag: u8, value: &[u8]) {
        let number = || value.try_into().ok().map(u32::from_be_bytes);
        let first = || value.get(..4).and_then(ipv4);
        match tag {
            OPT_MASK => self.mask = ipv4(value),
            OPT_ROUTER => self.router = first(),
            OPT_DNS => self.dns = first(),
            OPT_SERVER => self.server = ipv4(value),
            OPT_LEASE => self.lease = number(),
            OPT_T1 => self.t1 = number(),
            OPT_T2 => self.t2 = number(),
            _ => {}
        }
    }
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}
