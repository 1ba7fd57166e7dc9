//! Everything that the kernel counts, in the text format of Prometheus 0.0.4, written piece by piece.

use crate::piece::Piece;
use alloc::string::String;
use rump::Errno;
use rumpkern::counter;

/// The path that it is asked for by; it hides a file of that name.
pub const PATH: &[u8] = b"/.metrics";

/// In front of every name.
const PREFIX: &str = "rump_";

/// More than the lines of one counter take.
const ENTRY: usize = 512;

/// The counters on their way to a client.
pub struct Metrics {
    chunked: bool,
    /// How many have been sent; `None`: all.
    next: Option<usize>,
}

impl Metrics {
    /// From the first on.
    pub fn new(chunked: bool) -> Metrics {
        let next = Some(0);
        Metrics { chunked, next }
    }

    /// Whether the last piece has been given.
    pub fn is_done(&self) -> bool {
        self.next.is_none()
    }

    /// The next piece of the body. Values are those of its moment.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn next_piece(&mut self) -> Result<Option<String>, Errno> {
        let Some(first) = self.next else {
            return Ok(None);
        };
        let mut piece = Piece::new(self.chunked)?;
        let (mut at, mut next) = (0, None);
        if let Some(kernel) = rumpkern::curkernel() {
            let mut failed = None;
            kernel.counters().for_each(|name, help, value| {
                let is_wanted = at >= first && next.is_none();
                at += 1;
                if !is_wanted {
                    return;
                }
                if piece.is_full(ENTRY) {
                    next = Some(at - 1);
                    return;
                }
                match piece.room_for(ENTRY) {
                    // Writing into a String fails only if a formatter fails, and ours do not.
                    Ok(text) => drop(counter::write_prometheus(text, PREFIX, (name, help, value))),
                    Err(errno) => failed = Some(errno),
                }
            });
            failed.map_or(Ok(()), Err)?;
        }
        self.next = next;
        Ok(Some(piece.finish(next.is_none())))
    }
}
