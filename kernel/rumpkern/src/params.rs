//! The kernel's command line, and the configuration that comes of it.
//!
//! Words separated by blanks, each `KEY=VALUE` or `KEY`:
//!
//! | key | value |
//! |---|---|
//! | `memlimit` | a number of bytes, with `k`, `m` or `g` for powers of 1024 (NetBSD's `RUMP_MEMLIMIT`) |
//! | `mount` | `DEVICE:PATH[:FSTYPE[:OPTIONS]]`, repeatable |
//! | `ip` | `dhcp`, or `ADDR/PREFIX[,GATEWAY]` |
//! | `hostname` | letters, digits, `-` and `.` |
//! | `loglevel` | `off`, `error`, `warn`, `info`, `debug`, `trace` |
//!
//! A word that is not understood is reported, with the list of known keys, and otherwise
//! ignored; a bad value leaves the default. Only a memory limit that cannot be kept stops the boot.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use log::LevelFilter;

/// The known keys, for reports.
pub const KNOWN_KEYS: &str = "memlimit=SIZE mount=DEVICE:PATH[:FSTYPE[:OPTIONS]] \
     ip=dhcp|ADDR/PREFIX[,GATEWAY] hostname=NAME loglevel=off|error|warn|info|debug|trace";

/// The longest command line that is looked at, in bytes.
const MAX_LINE: usize = 4096;
/// The longest host name (RFC 1123 §2.1).
const MAX_HOSTNAME: usize = 255;
/// The most file systems that can be asked for.
const MAX_MOUNTS: usize = 32;

/// A file system to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// The block device, such as `ld0`.
    pub device: String,
    /// Where it goes; absolute.
    pub path: String,
    /// The file system; `None` to probe for it.
    pub fstype: Option<String>,
    /// Options, separated by commas; empty if none.
    pub options: String,
}

impl MountSpec {
    /// `ld0` on `/`, type by probing: what is mounted if nothing else is said.
    pub fn root() -> MountSpec {
        MountSpec {
            device: "ld0".to_owned(),
            path: "/".to_owned(),
            fstype: None,
            options: String::new(),
        }
    }
}

/// Where the first interface's address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpConfig {
    /// From a DHCP server.
    Dhcp,
    /// From here.
    Static {
        /// Address.
        addr: Ipv4Addr,
        /// Length of the network's prefix in bits.
        prefix: u8,
        /// Default route.
        gateway: Option<Ipv4Addr>,
    },
}

/// How a kernel is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The budget of memory in bytes; `None`: all there is.
    pub memlimit: Option<usize>,
    /// Host name.
    pub hostname: String,
    /// What is logged.
    pub loglevel: LevelFilter,
    /// What to mount, in order. Empty if nothing was said: the program decides, see
    /// [`Config::mounts_or_root`].
    pub mounts: Vec<MountSpec>,
    /// The first interface's address.
    pub ip: IpConfig,
    /// Words with keys that are not the kernel's, if a program asked to get them.
    pub rest: Vec<(String, String)>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            memlimit: None,
            hostname: "rump".to_owned(),
            loglevel: LevelFilter::Info,
            mounts: Vec::new(),
            ip: IpConfig::Dhcp,
            rest: Vec::new(),
        }
    }
}

impl Config {
    /// From the host's parameters; what is wrong there is logged.
    pub fn from_host() -> Config {
        Config::from_host_with(&[])
    }

    /// As [`Config::from_host`], for a program with keys of its own: they end up in `rest`.
    pub fn from_host_with(own_keys: &[&str]) -> Config {
        let (config, complaints) =
            Config::parse(rumpuser::host().params().command_line(), own_keys);
        crate::logger::install(config.loglevel);
        for complaint in complaints {
            log::warn!("{complaint}");
        }
        config
    }

    /// From a command line. The second part says what was not understood, a line each.
    pub fn parse(line: &[u8], own_keys: &[&str]) -> (Config, Vec<String>) {
        let mut config = Config::default();
        let mut complaints = Vec::new();
        if line.len() > MAX_LINE {
            complaints.push(format!(
                "command line: only the first {MAX_LINE} of {} bytes are looked at",
                line.len()
            ));
        }
        for (key, value) in words(line) {
            let shown = word_for_people(key, value);
            let (Ok(key), Ok(value)) = (
                core::str::from_utf8(key),
                core::str::from_utf8(value.unwrap_or_default()),
            ) else {
                complaints.push(format!("command line: {shown}: not UTF-8"));
                continue;
            };
            if own_keys.contains(&key) {
                config.rest.push((key.to_owned(), value.to_owned()));
                continue;
            }
            match config.set(key, value) {
                Ok(()) => {}
                Err(Refused::Unknown) => complaints.push(format!(
                    "command line: {shown}: unknown; known are: {KNOWN_KEYS}"
                )),
                Err(Refused::Bad(why)) => complaints.push(format!(
                    "command line: {shown}: {why}; known are: {KNOWN_KEYS}"
                )),
            }
        }
        (config, complaints)
    }

    /// The file systems to mount: those named, else `ld0` on `/`.
    pub fn mounts_or_root(&self) -> Vec<MountSpec> {
        match self.mounts.is_empty() {
            true => [MountSpec::root()].into(),
            false => self.mounts.clone(),
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Refused> {
        match key {
            "memlimit" => {
                let limit = parse_size(value.as_bytes());
                self.memlimit = Some(limit.ok_or(Refused::Bad(
                    "a number of bytes, with k, m or g behind it if need be",
                ))?);
            }
            "mount" => {
                if self.mounts.len() == MAX_MOUNTS {
                    return Err(Refused::Bad("too many mounts"));
                }
                self.mounts.push(parse_mount(value)?);
            }
            "ip" => self.ip = parse_ip(value)?,
            "hostname" => self.hostname = parse_hostname(value)?,
            "loglevel" => {
                self.loglevel = value.parse().map_err(|_| Refused::Bad("no such level"))?;
            }
            _ => return Err(Refused::Unknown),
        }
        Ok(())
    }
}

enum Refused {
    Unknown,
    Bad(&'static str),
}

/// The words of a command line as key and value.
fn words(line: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let line = &line[..line.len().min(MAX_LINE)];
    line.split(|byte| byte.is_ascii_whitespace() || *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| match word.iter().position(|byte| *byte == b'=') {
            Some(at) => (&word[..at], Some(&word[at + 1..])),
            None => (word, None),
        })
}

/// A word as it was, with what is not printable escaped.
fn word_for_people(key: &[u8], value: Option<&[u8]>) -> String {
    match value {
        Some(value) => format!("{}={}", key.escape_ascii(), value.escape_ascii()),
        None => format!("{}", key.escape_ascii()),
    }
}

/// The memory limit that a command line gives; the last counts. Allocates nothing: it is needed
/// before there is memory.
pub(crate) fn memlimit(line: &[u8]) -> Option<usize> {
    words(line)
        .filter(|(key, _)| *key == b"memlimit")
        .filter_map(|(_, value)| parse_size(value?))
        .last()
}

/// A decimal number with an optional suffix k, m or g, powers of 1024.
pub fn parse_size(text: &[u8]) -> Option<usize> {
    let (digits, shift) = match text.split_last()? {
        (b'k' | b'K', digits) => (digits, 10),
        (b'm' | b'M', digits) => (digits, 20),
        (b'g' | b'G', digits) => (digits, 30),
        _ => (text, 0),
    };
    if digits.is_empty() {
        return None;
    }
    let mut number: usize = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number
            .checked_mul(10)?
            .checked_add((digit - b'0') as usize)?;
    }
    number.checked_mul(1 << shift)
}

fn parse_mount(value: &str) -> Result<MountSpec, Refused> {
    let mut parts = value.splitn(4, ':');
    let device = parts.next().unwrap_or_default();
    let path = parts.next().unwrap_or_default();
    if device.is_empty() || !path.starts_with('/') {
        return Err(Refused::Bad("a device, a colon and an absolute path"));
    }
    Ok(MountSpec {
        device: device.to_owned(),
        path: path.to_owned(),
        fstype: parts.next().filter(|t| !t.is_empty()).map(str::to_owned),
        options: parts.next().unwrap_or_default().to_owned(),
    })
}

fn parse_ip(value: &str) -> Result<IpConfig, Refused> {
    const SHAPE: Refused = Refused::Bad("dhcp, or an address/prefix, or an address/prefix,gateway");
    if value == "dhcp" {
        return Ok(IpConfig::Dhcp);
    }
    let (network, gateway) = match value.split_once(',') {
        Some((network, gateway)) => (network, Some(gateway)),
        None => (value, None),
    };
    let (addr, prefix) = network.split_once('/').ok_or(SHAPE)?;
    let addr: Ipv4Addr = addr.parse().map_err(|_| SHAPE)?;
    let prefix: u8 = prefix.parse().map_err(|_| SHAPE)?;
    let gateway = match gateway {
        Some(gateway) => Some(gateway.parse::<Ipv4Addr>().map_err(|_| SHAPE)?),
        None => None,
    };
    if prefix == 0 || prefix > 32 {
        return Err(Refused::Bad("the prefix is 1 to 32"));
    }
    if addr.is_unspecified() || addr.is_multicast() || addr.is_broadcast() {
        return Err(Refused::Bad("not the address of a host"));
    }
    Ok(IpConfig::Static {
        addr,
        prefix,
        gateway,
    })
}

fn parse_hostname(value: &str) -> Result<String, Refused> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if value.is_empty() || value.len() > MAX_HOSTNAME || !value.bytes().all(good) {
        return Err(Refused::Bad("letters, digits, - and ."));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
#[path = "params_tests.rs"]
mod tests;
