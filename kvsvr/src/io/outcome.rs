//! What the answer of the kernel to a read means: pure, the same for both engines.

use std::io;

use rustix::io::Errno;

use super::{BLOCK_BYTES, ReadOp};

/// How often a read is tried that makes no progress though nothing is wrong with it.
const TRIES_MAX: u8 = 64;
/// How often a piece shorter than a block is read again before it is taken for the end of the file.
const STUBS_MAX: u8 = 2;

/// How far a read has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes at the beginning of the buffer that are good: whole blocks.
    pub(super) filled: usize,
    tries: u8,
    stubs: u8,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Everything asked for is there.
    Done,
    /// Read the rest, from `Progress::filled` on.
    Again,
    /// It failed; the message says why, not yet where.
    Failed(io::Error),
}

impl Progress {
    /// Takes the answer to a read of what is missing of `len` bytes.
    pub(super) fn judge(&mut self, len: usize, answer: Result<usize, Errno>) -> Step {
        let missing = len - self.filled;
        match answer {
            Ok(0) => Step::Failed(ends_before(self.filled)),
            Ok(read) if read == missing => Step::Done,
            Ok(read) if read > missing => {
                Step::Failed(io::Error::other(format!("{read} bytes came where {missing} were asked for")))
            }
            Ok(read) => {
                // Direct reads go on at whole blocks only: the piece of a block is read again with the rest of it.
                let whole = read - read % BLOCK_BYTES;
                if whole > 0 {
                    *self = Self { filled: self.filled + whole, ..Self::default() };
                    return Step::Again;
                }
                self.stubs += 1;
                if self.stubs > STUBS_MAX { Step::Failed(ends_before(self.filled + read)) } else { Step::Again }
            }
            // Nothing is wrong with the read: a signal came, the kernel lacked something for a moment, or it gave the
            // read back unread.
            Err(errno @ (Errno::INTR | Errno::AGAIN | Errno::CANCELED)) => {
                self.tries += 1;
                if self.tries > TRIES_MAX { Step::Failed(errno.into()) } else { Step::Again }
            }
            Err(errno) => Step::Failed(errno.into()),
        }
    }
}

fn ends_before(filled: usize) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file ends after {filled} of these bytes"))
}

/// Whether a read failed because the device or the file no longer has the bytes: reading them again does not help,
/// other than where a ring, memory or a descriptor was lacking.
pub(crate) fn is_data_gone(error: &io::Error) -> bool {
    let failed = error.get_ref().and_then(|error| error.downcast_ref::<ReadFailed>());
    let source = failed.map_or(error, |failed| &failed.source);
    source.kind() == io::ErrorKind::UnexpectedEof || source.raw_os_error() == Some(Errno::IO.raw_os_error())
}

/// A read that failed.
#[derive(Debug, thiserror::Error)]
#[error("read of {len} bytes at offset {offset} of {file}: {source}")]
struct ReadFailed {
    file: String,
    offset: u64,
    len: u32,
    source: io::Error,
}

/// Says where `source` happened, and keeps its kind.
pub(super) fn located(read: &ReadOp, source: io::Error) -> io::Error {
    let file = read.file.path().display().to_string();
    io::Error::new(source.kind(), ReadFailed { file, offset: read.offset, len: read.len, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 4 * BLOCK_BYTES;

    fn step(progress: &mut Progress, answer: Result<usize, Errno>) -> Step {
        progress.judge(LEN, answer)
    }

    #[test]
    fn a_short_read_goes_on_at_the_next_whole_block() {
        let mut progress = Progress::default();
        assert!(matches!(step(&mut progress, Ok(BLOCK_BYTES + 100)), Step::Again));
        assert_eq!(progress.filled, BLOCK_BYTES);
        assert!(matches!(step(&mut progress, Ok(2 * BLOCK_BYTES)), Step::Again));
        assert_eq!(progress.filled, 3 * BLOCK_BYTES);
        assert!(matches!(step(&mut progress, Ok(BLOCK_BYTES)), Step::Done));
        assert!(matches!(step(&mut Progress::default(), Ok(LEN)), Step::Done));
    }

    #[test]
    fn the_end_of_the_file_is_an_error_also_in_the_middle_of_a_block() {
        let mut progress = Progress::default();
        assert!(matches!(step(&mut progress, Ok(3 * BLOCK_BYTES)), Step::Again));
        let Step::Failed(error) = step(&mut progress, Ok(0)) else { panic!("nothing more comes") };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let mut progress = Progress::default();
        for _ in 0..STUBS_MAX {
            assert!(matches!(step(&mut progress, Ok(100)), Step::Again));
        }
        let Step::Failed(error) = step(&mut progress, Ok(100)) else { panic!("the file ends there") };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(matches!(step(&mut Progress::default(), Ok(LEN + 1)), Step::Failed(_)));
    }

    #[test]
    fn interruptions_are_tried_again_but_not_for_ever_and_errors_not_at_all() {
        for errno in [Errno::INTR, Errno::AGAIN, Errno::CANCELED] {
            let mut progress = Progress::default();
            for _ in 0..TRIES_MAX {
                assert!(matches!(step(&mut progress, Err(errno)), Step::Again));
            }
            assert!(matches!(step(&mut progress, Err(errno)), Step::Failed(_)));
            assert!(matches!(step(&mut Progress { tries: TRIES_MAX, ..progress }, Ok(BLOCK_BYTES)), Step::Again));
        }
        let Step::Failed(error) = step(&mut Progress::default(), Err(Errno::IO)) else { panic!("the device failed") };
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }

    #[test]
    fn only_what_the_device_has_lost_is_gone() {
        let told = |source: io::Error| {
            let failed = ReadFailed { file: "a.pack".to_owned(), offset: 0, len: 4096, source };
            io::Error::new(failed.source.kind(), failed)
        };
        // Also where file and offset were added on the way.
        for gone in [Errno::IO.into(), ends_before(0)] {
            assert!(is_data_gone(&told(gone)));
        }
        assert!(is_data_gone(&Errno::IO.into()) && is_data_gone(&ends_before(0)));
        for lacking in [Errno::NOMEM.into(), Errno::AGAIN.into(), io::ErrorKind::BrokenPipe.into()] {
            assert!(!is_data_gone(&told(lacking)));
        }
    }
}
