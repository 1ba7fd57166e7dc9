//! The TCP header on the wire and its options (RFC 9293 §3.1, §3.2; RFC 7323 §2.2).
//!
//! [`Header::parse`] accepts only what is well formed; an option that is not is where parsing of
//! the options ends, and those before it count (RFC 9293 MUST-7: handle bad lengths).

use super::seq::Seq;
use bitflags::bitflags;

/// Length of a header without options.
pub const HEADER_MIN: usize = 20;
/// Length of the longest header: 15 words.
pub const HEADER_MAX: usize = 60;
/// The largest window shift (RFC 7323 §2.3).
pub const WINDOW_SHIFT_MAX: u8 = 14;

const OPT_END: u8 = 0;
const OPT_NOP: u8 = 1;
const OPT_MSS: u8 = 2;
const OPT_WINDOW_SCALE: u8 = 3;

bitflags! {
    /// The control bits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Control: u8 {
        /// No more data from the sender.
        const FIN = 0x01;
        /// Synchronise sequence numbers.
        const SYN = 0x02;
        /// Reset the connection.
        const RST = 0x04;
        /// Push.
        const PSH = 0x08;
        /// The acknowledgment number counts.
        const ACK = 0x10;
        /// The urgent pointer counts.
        const URG = 0x20;
        /// ECN echo (RFC 3168). Neither sent nor answered.
        const ECE = 0x40;
        /// Congestion window reduced (RFC 3168). Neither sent nor answered.
        const CWR = 0x80;
    }
}

/// The options that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// Maximum segment size in bytes; meant only in a SYN.
    pub mss: Option<u16>,
    /// Window shift, at most [`WINDOW_SHIFT_MAX`]; meant only in a SYN.
    pub window_shift: Option<u8>,
}

/// A header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Header {
    /// Port it comes from.
    pub source: u16,
    /// Port it goes to.
    pub destination: u16,
    /// Number of the first byte (or of the SYN).
    pub seq: Seq,
    /// The next number expected from the other side, if `control` has ACK.
    pub ack: Seq,
    /// Control bits.
    pub control: Control,
    /// The window field as it stands on the wire, unscaled.
    pub window: u16,
    /// The options.
    pub options: Options,
}

/// Why bytes are no TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Fewer bytes than the least header, or than its own length field says.
    Short,
    /// The length field is below the least header.
    DataOffset,
    /// A port is 0, which no connection has.
    PortZero,
}

impl Header {
    /// Reads a header and says how many bytes it takes.
    ///
    /// # Errors
    /// [`Malformed`] says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<(Header, usize), Malformed> {
        let Some((fixed, _)) = bytes.split_first_chunk::<HEADER_MIN>() else {
            return Err(Malformed::Short);
        };
        let &[
            s0,
            s1,
            d0,
            d1,
            q0,
            q1,
            q2,
            q3,
            a0,
            a1,
            a2,
            a3,
            offset,
            bits,
            w0,
            w1,
            ..,
        ] = fixed;
        let header_bytes = usize::from(offset >> 4) * 4;
        if header_bytes < HEADER_MIN {
            return Err(Malformed::DataOffset);
        }
        let options = bytes
            .get(HEADER_MIN..header_bytes)
            .ok_or(Malformed::Short)?;
        let header = Header {
            source: u16::from_be_bytes([s0, s1]),
            destination: u16::from_be_bytes([d0, d1]),
            seq: Seq(u32::from_be_bytes([q0, q1, q2, q3])),
            ack: Seq(u32::from_be_bytes([a0, a1, a2, a3])),
            control: Control::from_bits_retain(bits),
            window: u16::from_be_bytes([w0, w1]),
            options: Options::parse(options),
        };
        if header.source == 0 || header.destination == 0 {
            return Err(Malformed::PortZero);
        }
        Ok((header, header_bytes))
    }

    /// How many bytes [`emit`](Header::emit) writes: a multiple of 4.
    pub fn wire_bytes(&self) -> usize {
        HEADER_MIN
            + if self.options.mss.is_some() { 4 } else { 0 }
            + if self.options.window_shift.is_some() {
                4
            } else {
                0
            }
    }

    /// Writes the header at the start of `out`, its checksum field 0, and says how many bytes it
    /// took.
    ///
    /// # Panics
    /// If `out` is shorter than [`wire_bytes`](Header::wire_bytes).
    pub fn emit(&self, out: &mut [u8]) -> usize {
        let len = self.wire_bytes();
        let (fixed, options) = out[..len].split_at_mut(HEADER_MIN);
        fixed[0..2].copy_from_slice(&self.source.to_be_bytes());
        fixed[2..4].copy_from_slice(&self.destination.to_be_bytes());
        fixed[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        fixed[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        fixed[12] = ((len / 4) as u8) << 4;
        fixed[13] = self.control.bits();
        fixed[14..16].copy_from_slice(&self.window.to_be_bytes());
        fixed[16..20].fill(0);
        let mut at = 0;
        if let Some(mss) = self.options.mss {
            let [high, low] = mss.to_be_bytes();
            options[at..at + 4].copy_from_slice(&[OPT_MSS, 4, high, low]);
            at += 4;
        }
        if let Some(shift) = self.options.window_shift {
            options[at..at + 4].copy_from_slice(&[OPT_NOP, OPT_WINDOW_SCALE, 3, shift]);
        }
        len
    }

    /// How many sequence numbers a segment with this header and `payload` bytes takes
    /// (RFC 9293 §3.4, SEG.LEN).
    pub fn sequence_len(&self, payload: u32) -> u32 {
        payload
            + u32::from(self.control.contains(Control::SYN))
            + u32::from(self.control.contains(Control::FIN))
    }
}

impl Options {
    fn parse(mut bytes: &[u8]) -> Options {
        let mut options = Options::default();
        loop {
            match *bytes {
                [] | [OPT_END, ..] => return options,
                [OPT_NOP, ref rest @ ..] => bytes = rest,
                [kind, len, ..] => {
                    let len = usize::from(len);
                    let Some(body) = bytes.get(2..len.max(2)) else {
                        return options;
                    };
                    if len < 2 {
                        return options;
                    }
                    options.take(kind, body);
                    bytes = &bytes[len..];
                }
                [_] => return options,
            }
        }
    }

    fn take(&mut self, kind: u8, body: &[u8]) {
        match (kind, body) {
            (OPT_MSS, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            // RFC 7323 §2.3: a shift above 14 is used as 14.
            (OPT_WINDOW_SCALE, &[shift]) => self.window_shift = Some(shift.min(WINDOW_SHIFT_MAX)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn() -> Header {
        Header {
            source: 1025,
            destination: 80,
            seq: Seq(0xdead_beef),
            ack: Seq(7),
            control: Control::SYN | Control::ACK,
            window: 4096,
            options: Options {
                mss: Some(1460),
                window_shift: Some(7),
            },
        }
    }

    #[test]
    fn what_is_emitted_parses_to_the_same() {
        for options in [
            Options::default(),
            Options {
                mss: Some(536),
                window_shift: None,
            },
            Options {
                mss: None,
                window_shift: Some(3),
            },
            syn().options,
        ] {
            let header = Header { options, ..syn() };
            let mut bytes = [0xffu8; HEADER_MAX];
            let len = header.emit(&mut bytes);
            assert_eq!(Header::parse(&bytes[..len]), Ok((header, len)));
        }
    }

    #[test]
    fn a_cut_header_is_short_at_every_length() {
        let mut bytes = [0u8; HEADER_MAX];
        let len = syn().emit(&mut bytes);
        for cut in 0..len {
            assert_eq!(Header::parse(&bytes[..cut]), Err(Malformed::Short));
        }
    }

    #[test]
    fn a_data_offset_below_five_words_is_refused() {
        let mut bytes = [0u8; HEADER_MAX];
        syn().emit(&mut bytes);
        for words in 0..5u8 {
            bytes[12] = words << 4;
            assert_eq!(Header::parse(&bytes), Err(Malformed::DataOffset));
        }
    }

    #[test]
    fn port_zero_is_refused() {
        let mut bytes = [0u8; HEADER_MAX];
        Header { source: 0, ..syn() }.emit(&mut bytes);
        assert_eq!(Header::parse(&bytes), Err(Malformed::PortZero));
    }

    #[test]
    fn options_with_bad_lengths_end_the_list_and_hurt_nothing() {
        let good = [OPT_MSS, 4, 5, 0xb4];
        for bad in [&[9u8, 0][..], &[9, 1], &[9, 200, 1], &[OPT_MSS, 5, 1], &[9]] {
            let mut list = [0u8; 16];
            list[..4].copy_from_slice(&good);
            list[4..4 + bad.len()].copy_from_slice(bad);
            let options = Options::parse(&list[..4 + bad.len()]);
            assert_eq!(
                options,
                Options {
                    mss: Some(1460),
                    window_shift: None
                }
            );
        }
        assert_eq!(
            Options::parse(&[OPT_MSS, 3, 1, OPT_END]),
            Options::default()
        );
    }

    #[test]
    fn a_window_shift_above_fourteen_counts_as_fourteen() {
        assert_eq!(Options::parse(&[3, 3, 255]).window_shift, Some(14));
    }

    #[test]
    fn unknown_options_are_skipped() {
        let list = [4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 2, 4, 2, 24];
        assert_eq!(Options::parse(&list).mss, Some(536));
    }
}
