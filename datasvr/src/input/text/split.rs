//! A stream of text ─▶ blocks of whole records, in order, each with its place in the file.
//!
//! ```text
//!   pieces   ……1,2⏎3,4 │ ,5⏎6,"7⏎ │ 8",9⏎……
//!   blocks   [……1,2⏎][3,4,5⏎][6,"7⏎8",9⏎……]      row, line and byte that each begins at
//! ```
//!
//! One pass over the bytes finds where records end and counts them; parsing the blocks is left to others, in parallel,
//! and yet each row has its exact number.

use bytes::Bytes;

use super::fields::{Dialect, Whole, whole_lines};

/// The longest record in bytes. A value of 16 MiB written as text fits, also if every character is escaped by two.
pub(crate) const RECORD_BYTES_MAX: usize = 64 << 20;

/// Where records end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// At the end of a line that is not within quotes.
    Separated(Dialect),
    /// At the end of each line.
    Lines,
}

impl Framing {
    /// All whole records of `data`, which begins with one.
    pub(crate) fn whole(self, data: &[u8]) -> Whole {
        match self {
            Self::Separated(dialect) => dialect.whole(data),
            Self::Lines => whole_lines(data),
        }
    }

    /// The first of them.
    fn first(self, data: &[u8]) -> Option<Whole> {
        match self {
            Self::Separated(dialect) => dialect.first(data),
            Self::Lines => memchr::memchr(b'\n', data).map(|at| whole_lines(&data[..=at])),
        }
    }
}

/// A place in a text, at the beginning of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The record's number, from 0, not counting the header.
    pub(crate) row: u64,
    /// The number of its first line, from 1.
    pub(crate) line: u64,
    /// Bytes of the text before it, decompressed.
    pub(crate) byte: u64,
}

/// Whole records.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Their text.
    pub(crate) bytes: Bytes,
    /// Where the first of them begins.
    pub(crate) begin: Position,
    /// How many there are, not counting empty lines.
    pub(crate) records: u64,
}

/// Why text cannot be cut into records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SplitError {
    /// A record is too long, or a quoted field does not end for so long.
    TooLong(Position),
    /// The text ends within a quoted field.
    OpenQuote(Position),
}

/// Cuts a text into blocks.
#[derive(Debug)]
pub(crate) struct Splitter {
    framing: Framing,
    /// Bytes from the next record on.
    pending: Vec<u8>,
    /// How many of them are known to hold no whole record.
    searched: usize,
    next: Position,
}

impl Splitter {
    /// A text that begins at `begin`.
    pub(crate) const fn new(framing: Framing, begin: Position) -> Self {
        Self { framing, pending: Vec::new(), searched: 0, next: begin }
    }

    /// Where the next record begins.
    pub(crate) const fn next(&self) -> Position {
        self.next
    }

    /// Bytes held.
    pub(crate) fn held(&self) -> usize {
        self.pending.capacity()
    }

    /// Bytes of a record that has begun.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Adds a piece and gives the records that are whole now.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<Option<Block>, SplitError> {
        self.pending.extend_from_slice(piece);
        // A long record is searched again when it has doubled, so that the work stays in proportion to its length.
        if self.searched > 0 && self.pending.len() < self.searched * 2 {
            return self.too_long().map_or(Ok(None), Err);
        }
        let whole = self.framing.whole(&self.pending);
        if whole.end == 0 {
            self.searched = self.pending.len();
            return self.too_long().map_or(Ok(None), Err);
        }
        Ok(Some(self.cut(whole)))
    }

    /// Adds a piece to a record that has begun and gives that record alone once its end is there; what lies behind it
    /// is dropped.
    pub(crate) fn push_until_end(&mut self, piece: &[u8]) -> Result<Option<Block>, SplitError> {
        self.pending.extend_from_slice(piece);
        match self.framing.first(&self.pending) {
            Some(first) => {
                self.pending.truncate(first.end);
                Ok(Some(self.cut(first)))
            }
            None => self.too_long().map_or(Ok(None), Err),
        }
    }

    /// The text has ended: gives the records that are left, of which the last may lack its line end.
    pub(crate) fn finish(&mut self) -> Result<Option<Block>, SplitError> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let mut whole = self.framing.whole(&self.pending);
        if whole.end < self.pending.len() {
            // With a line end behind it the last record is whole, unless a quote is open.
            self.pending.push(b'\n');
            let ended = self.framing.whole(&self.pending);
            self.pending.pop();
            if ended.end <= self.pending.len() {
                return Err(SplitError::OpenQuote(Position {
                    row: self.next.row + whole.records,
                    line: self.next.line + whole.lines,
                    byte: self.next.byte + whole.end as u64,
                }));
            }
            whole = Whole { end: self.pending.len(), ..ended };
        }
        Ok(Some(self.cut(whole)))
    }

    fn cut(&mut self, whole: Whole) -> Block {
        let rest = self.pending.split_off(whole.end);
        let bytes = Bytes::from(std::mem::replace(&mut self.pending, rest));
        self.searched = 0;
        let begin = self.next;
        self.next = Position {
            row: begin.row + whole.records,
            line: begin.line + whole.lines,
            byte: begin.byte + whole.end as u64,
        };
        Block { bytes, begin, records: whole.records }
    }

    fn too_long(&self) -> Option<SplitError> {
        (self.pending.len() > RECORD_BYTES_MAX).then_some(SplitError::TooLong(self.next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: Framing = Framing::Separated(Dialect { delimiter: b',' });
    const BEGIN: Position = Position { row: 0, line: 2, byte: 4 };

    /// The records of all blocks, each with the place that its block's begin leads to.
    fn blocks(text: &[u8], piece: usize) -> Result<Vec<Block>, SplitError> {
        let mut splitter = Splitter::new(CSV, BEGIN);
        let mut blocks = Vec::new();
        for piece in text.chunks(piece) {
            blocks.extend(splitter.push(piece)?);
        }
        blocks.extend(splitter.finish()?);
        Ok(blocks)
    }

    #[test]
    fn however_a_text_comes_in_pieces_its_blocks_join_up_to_it() {
        let text = b"1,a\n\n2,\"b\nb\"\"\n\"\r\n3,c\"d\n4,\"\"\n\"5\n\",e";
        for piece in 1..=text.len() {
            let blocks = blocks(text, piece).expect("whole");
            let mut next = BEGIN;
            let mut joined = Vec::new();
            for block in &blocks {
                assert_eq!(block.begin, next, "pieces of {piece}");
                joined.extend_from_slice(&block.bytes);
                next.row += block.records;
                next.byte += block.bytes.len() as u64;
                next.line += block.bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            }
            assert_eq!(joined, text, "pieces of {piece}");
            assert_eq!(next.row, 5, "pieces of {piece}");
        }
    }

    #[test]
    fn a_quote_left_open_names_the_record_it_stands_in() {
        let open = SplitError::OpenQuote(Position { row: 1, line: 3, byte: 4 + 4 });
        for piece in 1..9 {
            assert_eq!(blocks(b"1,a\n2,\"b\n3,c\n", piece).map(|blocks| blocks.len()), Err(open), "pieces of {piece}");
        }
    }

    #[test]
    fn a_record_beyond_the_limit_is_an_error_and_not_an_allocation_without_end() {
        let mut splitter = Splitter::new(CSV, BEGIN);
        assert!(splitter.push(b"1,2\n").expect("whole").is_some());
        let piece = vec![b'x'; 1 << 20];
        let error = (0..100).find_map(|_| splitter.push(&piece).err()).expect("too long");
        assert_eq!(error, SplitError::TooLong(Position { row: 1, line: 3, byte: 8 }));
        assert!(splitter.pending() <= RECORD_BYTES_MAX + piece.len());
    }

    #[test]
    fn the_record_that_crosses_the_end_of_a_range_is_taken_alone() {
        let mut splitter = Splitter::new(CSV, BEGIN);
        assert!(splitter.push(b"1,\"a").expect("open").is_none());
        assert!(splitter.push_until_end(b"\nb").expect("open").is_none());
        let block = splitter.push_until_end(b"c\"\n2,d\n3,").expect("whole").expect("a block");
        assert_eq!(&block.bytes[..], b"1,\"a\nbc\"\n");
        assert_eq!((block.records, splitter.next, splitter.pending()), (1, Position { row: 1, line: 4, byte: 13 }, 0));
    }
}
