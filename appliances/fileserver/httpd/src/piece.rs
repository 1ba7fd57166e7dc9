//! A piece of a body that is made while it is sent: text with what frames it (RFC 9112 §7.1), in one page of memory wherever it fits.
//!
//! Where memory is short a page can be waited for, and a run of pages may never come; so neither does the text grow by doubling, nor is
//! it copied to be framed.

use alloc::string::String;
use rump::Errno;
use rumpkern::kmem::Room;

/// What a piece has room for at first: an object of the allocator's that takes a page.
const ROOM: usize = 4096;
/// The size in front of a chunk, to be filled in.
const SIZE: &str = "00000000\r\n";
/// Behind a chunk, and behind the last.
const END: &str = "\r\n";
const LAST: &str = "0\r\n\r\n";

/// A piece on its way.
pub struct Piece {
    text: String,
    chunked: bool,
}

impl Piece {
    /// An empty one, of a body in chunks or of one that ends with the connection.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(chunked: bool) -> Result<Piece, Errno> {
        let mut text = String::new();
        text.room_exact(ROOM)?;
        if chunked {
            text.push_str(SIZE);
        }
        Ok(Piece { text, chunked })
    }

    /// The text, to which up to `bytes` bytes are to be added: there is room for them.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn room_for(&mut self, bytes: usize) -> Result<&mut String, Errno> {
        let wanted = bytes + END.len() + LAST.len();
        self.text.room_exact(wanted)?;
        Ok(&mut self.text)
    }

    /// Whether another `bytes` bytes would take more than a page.
    pub fn is_full(&self, bytes: usize) -> bool {
        self.text.len() + bytes + END.len() + LAST.len() > ROOM
    }

    /// What is sent; after the last piece the body ends.
    pub fn finish(mut self, is_last: bool) -> String {
        if !self.chunked {
            return self.text;
        }
        match self.text.len() - SIZE.len() {
            // A chunk of no bytes would be the end.
            0 => self.text.clear(),
            mut size => {
                let mut digits = [b'0'; SIZE.len() - END.len()];
                for digit in digits.iter_mut().rev() {
                    *digit = b"0123456789abcdef"[size % 16];
                    size /= 16;
                }
                let digits = core::str::from_utf8(&digits).unwrap_or_default();
                self.text.replace_range(..digits.len(), digits);
                self.text.push_str(END);
            }
        }
        if is_last {
            self.text.push_str(LAST);
        }
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString as _;

    fn piece(chunked: bool, text: &str) -> Piece {
        let mut piece = Piece::new(chunked).expect("memory");
        let room = piece.room_for(text.len()).expect("memory");
        room.push_str(text);
        piece
    }

    #[test]
    fn a_chunk_is_framed_without_another_copy() {
        let text = "x".repeat(300);
        let framed = piece(true, &text).finish(false);
        assert_eq!(framed, "0000012c\r\n".to_string() + &text + "\r\n");
        assert_eq!(framed.capacity(), ROOM);
        assert_eq!(
            piece(true, "end").finish(true),
            "00000003\r\nend\r\n0\r\n\r\n"
        );
    }

    #[test]
    fn a_piece_of_nothing_does_not_end_the_body() {
        assert_eq!(piece(true, "").finish(false), "");
        assert_eq!(piece(true, "").finish(true), "0\r\n\r\n");
    }

    #[test]
    fn a_body_that_ends_with_the_connection_is_not_framed() {
        assert_eq!(piece(false, "all").finish(true), "all");
    }

    #[test]
    fn it_is_full_when_more_would_not_fit_into_a_page() {
        let mut piece = piece(true, &"x".repeat(4000));
        assert!(!piece.is_full(70) && piece.is_full(90));
        piece
            .room_for(9000)
            .expect("memory")
            .push_str(&"y".repeat(9000));
        assert_eq!(piece.finish(true).len(), SIZE.len() + 13_000 + 7);
    }
}
