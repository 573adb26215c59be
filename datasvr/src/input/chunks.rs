//! The column chunks of one row group, in memory, at their offsets in the file: what the Parquet decoder reads from.

use std::io::Cursor;

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// Some byte ranges of a file.
#[derive(Clone, Debug)]
pub(crate) struct Chunks {
    file_len: u64,
    /// Ascending, not overlapping.
    ranges: Vec<(u64, Bytes)>,
}

impl Chunks {
    /// The given ranges (offset, bytes) of a file of `file_len` bytes.
    pub(crate) fn new(file_len: u64, mut ranges: Vec<(u64, Bytes)>) -> Self {
        ranges.sort_by_key(|(offset, _)| *offset);
        Self { file_len, ranges }
    }

    /// What is held from `start` to the end of its range.
    fn from(&self, start: u64) -> Result<Bytes> {
        let outside = || ParquetError::General(format!("offset {start} lies outside of the row group's column chunks"));
        let after = self.ranges.partition_point(|(offset, _)| *offset <= start);
        let (offset, bytes) = after.checked_sub(1).and_then(|at| self.ranges.get(at)).ok_or_else(outside)?;
        let skip = usize::try_from(start - offset).map_err(|_| outside())?;
        if skip > bytes.len() {
            return Err(outside());
        }
        Ok(bytes.slice(skip..))
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.file_len
    }
}

impl ChunkReader for Chunks {
    type T = Cursor<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        self.from(start).map(Cursor::new)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let bytes = self.from(start)?;
        if length > bytes.len() {
            return Err(ParquetError::EOF(format!("{length} bytes at offset {start} reach beyond their column chunk")));
        }
        Ok(bytes.slice(..length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_outside_of_the_held_ranges_is_an_error_not_a_panic() {
        let chunks = Chunks::new(100, vec![(50, Bytes::from_static(b"fifty")), (10, Bytes::from_static(b"ten"))]);
        assert_eq!(chunks.get_bytes(50, 5).expect("held"), "fifty");
        assert_eq!(chunks.get_bytes(11, 2).expect("held"), "en");
        assert!(chunks.get_bytes(11, 3).is_err());
        assert!(chunks.get_bytes(0, 1).is_err());
        assert!(chunks.get_bytes(20, 1).is_err());
        assert!(chunks.get_read(99).is_err());
    }
}
