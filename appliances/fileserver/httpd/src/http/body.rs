//! The body of a request (RFC 9112 §6, §7.1): where it ends, and which of the bytes received are it.

use core::ops::Range;

/// The most bytes of chunk extensions and trailer fields in one body.
const ASIDE_MAX: u32 = 8192;

/// The most digits of a chunk's size, leading zeroes included.
const DIGITS_MAX: u8 = 32;

/// Where the size of the next chunk begins.
const SIZE: State = State::Size {
    value: 0,
    digits: 0,
};

/// How a request says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    Nothing,
    /// `Content-Length`.
    Bytes(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A body that is not one: 400, and what follows on the connection cannot be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBody;

/// What the first bytes of some input are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// How many were consumed: at least one, unless the input was empty or the body has ended.
    pub consumed: usize,
    /// Which of those are bytes of the body.
    pub data: Range<usize>,
}

/// Takes a body apart, in whatever pieces it comes.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    aside: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes of a body of known length.
    Plain(u64),
    /// A chunk's size, of so many digits so far.
    Size {
        value: u64,
        digits: u8,
    },
    /// What follows a size, up to the end of its line.
    Extension(u64),
    /// CR was there, LF must follow; then so many bytes, or the trailer.
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// The start of a line of the trailer.
    Trailer,
    TrailerLine,
    /// The LF that ends a line of the trailer.
    TrailerLf,
    /// The LF that ends everything.
    LastLf,
    Done,
}

impl Decoder {
    /// For a body of this length.
    pub fn new(length: BodyLength) -> Decoder {
        let state = match length {
            BodyLength::Nothing | BodyLength::Bytes(0) => State::Done,
            BodyLength::Bytes(count) => State::Plain(count),
            BodyLength::Chunked => SIZE,
        };
        Decoder { state, aside: 0 }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The most bytes that belong to this body for certain; asking for no more leaves the next request alone.
    pub fn wanted(&self) -> u64 {
        match self.state {
            State::Plain(left) => left,
            State::Done => 0,
            _ => u64::MAX,
        }
    }

    /// Takes what it can from the front of `input`: some framing, then at most one run of data.
    ///
    /// # Errors
    /// The bytes are no chunked body.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BadBody> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Done => break,
                State::Plain(left) | State::Data(left) => {
                    let rest = input.len() - at;
                    let count = usize::try_from(left).map_or(rest, |left| left.min(rest));
                    self.taken(left - count as u64);
                    return Ok(Decoded {
                        consumed: at + count,
                        data: at..at + count,
                    });
                }
                framing => self.state = self.framing(framing, byte)?,
            }
            at += 1;
        }
        Ok(Decoded {
            consumed: at,
            data: at..at,
        })
    }

    fn taken(&mut self, left: u64) {
        self.state = match (self.state, left) {
            (State::Plain(_), 0) => State::Done,
            (State::Plain(_), left) => State::Plain(left),
            (_, 0) => State::DataCr,
            (_, left) => State::Data(left),
        };
    }

    /// What comes after one byte of framing.
    fn framing(&mut self, state: State, byte: u8) -> Result<State, BadBody> {
        Ok(match (state, byte) {
            (State::Size { value, digits }, byte) => return self.size(value, digits, byte),
            (State::Extension(size), b'\r') => State::SizeEnd(size),
            (State::Extension(size), byte) if byte != b'\n' => {
                self.aside()?;
                State::Extension(size)
            }
            (State::SizeEnd(0), b'\n') => State::Trailer,
            (State::SizeEnd(size), b'\n') => State::Data(size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => SIZE,
            (State::Trailer, b'\r') => State::LastLf,
            (State::Trailer | State::TrailerLine, byte) if byte != b'\r' && byte != b'\n' => {
                self.aside()?;
                State::TrailerLine
            }
            (State::TrailerLine, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::Trailer,
            (State::LastLf, b'\n') => State::Done,
            _ => return Err(BadBody),
        })
    }

    /// RFC 9112 §7.1: hexadecimal digits, then perhaps extensions, which nobody here knows.
    fn size(&mut self, value: u64, digits: u8, byte: u8) -> Result<State, BadBody> {
        if let Some(digit) = (byte as char).to_digit(16) {
            if value >> 60 != 0 || digits >= DIGITS_MAX {
                return Err(BadBody);
            }
            let value = value << 4 | u64::from(digit);
            return Ok(State::Size {
                value,
                digits: digits + 1,
            });
        }
        match byte {
            _ if digits == 0 => Err(BadBody),
            b'\r' => Ok(State::SizeEnd(value)),
            b';' | b' ' | b'\t' => Ok(State::Extension(value)),
            _ => Err(BadBody),
        }
    }

    fn aside(&mut self) -> Result<(), BadBody> {
        self.aside += 1;
        if self.aside > ASIDE_MAX {
            return Err(BadBody);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec::Vec;

    /// Decodes `input` cut at `cuts`; answers the body and how many bytes it took.
    fn run(
        length: BodyLength,
        input: &[u8],
        mut cut: impl FnMut() -> usize,
    ) -> Result<(Vec<u8>, usize, bool), BadBody> {
        let mut decoder = Decoder::new(length);
        let (mut body, mut at, mut end) = (Vec::new(), 0, 0);
        while !decoder.is_done() {
            if at == end {
                if end == input.len() {
                    break;
                }
                end = (end + cut().max(1)).min(input.len());
            }
            let piece = &input[at..end];
            let decoded = decoder.decode(piece)?;
            assert!(decoded.consumed > 0 && decoded.consumed <= piece.len());
            body.extend_from_slice(&piece[decoded.data]);
            at += decoded.consumed;
        }
        Ok((body, at, decoder.is_done()))
    }

    struct Seeded(u64);

    impl Seeded {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }

    #[test]
    fn a_body_of_known_length_ends_there_and_leaves_the_rest() {
        for step in 1..8 {
            let (body, took, done) = run(BodyLength::Bytes(5), b"helloGET /", || step).unwrap();
            assert_eq!((&body[..], took, done), (&b"hello"[..], 5, true));
        }
        assert!(Decoder::new(BodyLength::Bytes(0)).is_done());
        assert!(!run(BodyLength::Bytes(6), b"hello", || 9).unwrap().2);
    }

    #[test]
    fn chunks_come_out_whole_however_they_are_cut() {
        for seed in 0..300 {
            let mut random = Seeded(seed);
            let (mut wire, mut expected) = (Vec::new(), Vec::new());
            for _ in 0..random.below(6) {
                let chunk: Vec<u8> = (0..1 + random.below(40))
                    .map(|_| random.below(256) as u8)
                    .collect();
                let extension = ["", ";a=b", " ; c=\"d\"", "\t"][random.below(4) as usize];
                wire.extend_from_slice(
                    format!(
                        "{:0w$x}{extension}\r\n",
                        chunk.len(),
                        w = random.below(5) as usize
                    )
                    .as_bytes(),
                );
                wire.extend_from_slice(&chunk);
                wire.extend_from_slice(b"\r\n");
                expected.extend_from_slice(&chunk);
            }
            wire.extend_from_slice(
                [&b"0\r\n\r\n"[..], b"000\r\nA: b\r\nC: d\r\n\r\n"][random.below(2) as usize],
            );
            let length = wire.len();
            wire.extend_from_slice(b"GET / HTTP/1.1\r\n");
            let most = 1 + random.below(20);
            let (body, took, done) =
                run(BodyLength::Chunked, &wire, || random.below(most) as usize)
                    .unwrap_or_else(|_| panic!("seed {seed}"));
            assert_eq!((body, took, done), (expected, length, true), "seed {seed}");
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for wire in [
            &b"x\r\n"[..],
            b"\r\n",
            b";a\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"1\nx",
            b"1\r\r",
            b"1\r\nxy",
            b"1\r\nx\n",
            b"1;a\nb",
            b"10000000000000000\r\n",
            b"000000000000000000000000000000000\r\n",
            b"0\r\nA\n",
            b"0\r\n\rA",
        ] {
            assert_eq!(
                run(BodyLength::Chunked, wire, || 3),
                Err(BadBody),
                "{}",
                wire.escape_ascii()
            );
        }
    }

    #[test]
    fn extensions_and_trailers_have_an_end() {
        let long = [
            b"1;".to_vec(),
            b"a".repeat(9000),
            b"\r\nx\r\n0\r\n\r\n".to_vec(),
        ]
        .concat();
        assert_eq!(run(BodyLength::Chunked, &long, || 100), Err(BadBody));
        let many = [&b"0\r\n"[..], &b"A: b\r\n".repeat(3000)].concat();
        assert_eq!(run(BodyLength::Chunked, &many, || 100), Err(BadBody));
    }

    #[test]
    fn seeded_garbage_never_panics_and_never_stands_still() {
        for seed in 0..2000 {
            let mut random = Seeded(seed);
            let wire: Vec<u8> = (0..100)
                .map(|_| b"0123aF;\r\n\r\n x"[random.below(13) as usize])
                .collect();
            // Any verdict will do; `run` checks that there is progress.
            let _ = run(BodyLength::Chunked, &wire, || random.below(9) as usize);
        }
    }
}
