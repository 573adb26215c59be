//! Files compressed as a whole: gzip of any number of members, zstd of any number of frames, or not compressed.
//!
//! ```text
//!   bytes of the file ─▶ step by step, as much output as there is room for ─▶ text
//!                        caps: bytes of output, and output per byte of input
//! ```
//!
//! What a file is, its first bytes say and not its name. A stream that ends early, bytes behind the end that are no further
//! member, and a checksum that does not match are errors.

use flate2::{Decompress, FlushDecompress, Status};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

/// How a file is compressed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

impl Compression {
    /// What the first bytes of a file say.
    #[must_use]
    pub(crate) fn of(head: &[u8]) -> Self {
        // A zstd file may begin with a frame that is to be skipped.
        let skippable = matches!(head, [low, 0x2a, 0x4d, 0x18, ..] if low & 0xf0 == 0x50);
        if head.starts_with(&GZIP_MAGIC) {
            Self::Gzip
        } else if head.starts_with(&ZSTD_MAGIC) || skippable {
            Self::Zstd
        } else {
            Self::None
        }
    }

    /// Its name.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// How much a compressed file may expand to. Memory is bounded in any case; this bounds time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpansionLimits {
    /// Bytes that come out of one file, at most.
    pub bytes_max: u64,
    /// Bytes that come out for each byte of the file, at most; counted once [`Self::RATIO_FROM_BYTES`] have come out.
    pub ratio_max: u64,
}

impl ExpansionLimits {
    /// Output from which on the ratio is looked at.
    pub const RATIO_FROM_BYTES: u64 = 64 << 20;
}

impl Default for ExpansionLimits {
    fn default() -> Self {
        Self { bytes_max: 1 << 40, ratio_max: 500 }
    }
}

/// The largest window of a zstd frame that is accepted, as a power of 2: what `zstd --ultra -22` writes.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Why a file cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InflateError {
    /// It ends too early.
    Truncated,
    /// Its bytes make no sense.
    Damaged(String),
    /// More came out than may.
    TooManyBytes(u64),
    /// More came out for each byte than may.
    TooDense(u64),
}

enum State {
    Gzip(Box<Decompress>),
    Zstd(DCtx<'static>),
}

/// Expands one file.
pub(crate) struct Inflate {
    state: State,
    /// Within a member or frame, rather than between two.
    inside: bool,
    limits: ExpansionLimits,
    taken: u64,
    given: u64,
}

impl std::fmt::Debug for Inflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflate").field("taken", &self.taken).field("given", &self.given).finish_non_exhaustive()
    }
}

fn gzip_member() -> Box<Decompress> {
    const WINDOW_BITS: u8 = 15;
    Box::new(Decompress::new_gzip(WINDOW_BITS))
}

fn zstd_error(code: usize) -> InflateError {
    InflateError::Damaged(get_error_name(code).to_lowercase())
}

impl Inflate {
    /// The beginning of a file; `None` if it is not compressed.
    ///
    /// # Errors
    /// `Damaged`, if the decoder cannot be set up.
    pub(crate) fn new(compression: Compression, limits: ExpansionLimits) -> Result<Option<Self>, InflateError> {
        let state = match compression {
            Compression::None => return Ok(None),
            Compression::Gzip => State::Gzip(gzip_member()),
            Compression::Zstd => {
                let context = DCtx::try_create();
                let mut context = context.ok_or_else(|| InflateError::Damaged("there is no memory".to_owned()))?;
                context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(zstd_error)?;
                State::Zstd(context)
            }
        };
        Ok(Some(Self { state, inside: false, limits, taken: 0, given: 0 }))
    }

    /// Expands `input` into `out` until one is used up or the other full; gives how much of each was. Input that is left
    /// wants more room; with no input left and room to spare, there is nothing to come before there is more input.
    pub(crate) fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize), InflateError> {
        let (mut taken, mut given) = (0, 0);
        while given < out.len() {
            let (input, out) = (&input[taken..], &mut out[given..]);
            let (took, gave) = match &mut self.state {
                State::Gzip(member) => gzip_step(member, &mut self.inside, input, out)?,
                State::Zstd(context) => zstd_step(context, &mut self.inside, input, out)?,
            };
            taken += took;
            given += gave;
            if (took, gave) == (0, 0) {
                break;
            }
        }
        if given < out.len() && taken < input.len() {
            return Err(InflateError::Damaged("the decoder makes no progress".to_owned()));
        }
        self.taken += taken as u64;
        self.given += given as u64;
        self.check()?;
        Ok((taken, given))
    }

    /// The file has ended.
    pub(crate) const fn finish(&self) -> Result<(), InflateError> {
        if self.inside { Err(InflateError::Truncated) } else { Ok(()) }
    }

    /// Bytes of memory held.
    pub(crate) fn memory(&self) -> u64 {
        match &self.state {
            State::Gzip(_) => 64 << 10,
            State::Zstd(context) => context.sizeof() as u64,
        }
    }

    const fn check(&self) -> Result<(), InflateError> {
        if self.given > self.limits.bytes_max {
            return Err(InflateError::TooManyBytes(self.limits.bytes_max));
        }
        let dense = self.given > self.taken.saturating_mul(self.limits.ratio_max);
        if dense && self.given > ExpansionLimits::RATIO_FROM_BYTES {
            return Err(InflateError::TooDense(self.limits.ratio_max));
        }
        Ok(())
    }
}

/// One step within a member, or between two.
fn gzip_step(
    member: &mut Box<Decompress>,
    inside: &mut bool,
    input: &[u8],
    out: &mut [u8],
) -> Result<(usize, usize), InflateError> {
    if !*inside {
        // Some programs fill up the last block of a file with zeros, and gzip itself does not mind.
        let zeros = input.iter().take_while(|byte| **byte == 0).count();
        if zeros > 0 || input.is_empty() {
            return Ok((zeros, 0));
        }
        if input[0] != GZIP_MAGIC[0] {
            return Err(InflateError::Damaged("bytes that are not gzip follow the end of its stream".to_owned()));
        }
        **member = *gzip_member();
        *inside = true;
    }
    let (input_before, out_before) = (member.total_in(), member.total_out());
    let status = member.decompress(input, out, FlushDecompress::None);
    let status = status.map_err(|error| InflateError::Damaged(error.to_string()))?;
    if status == Status::StreamEnd {
        *inside = false;
    }
    let taken = usize::try_from(member.total_in() - input_before).unwrap_or(usize::MAX);
    let given = usize::try_from(member.total_out() - out_before).unwrap_or(usize::MAX);
    Ok((taken, given))
}

/// One step within a frame, or between two.
fn zstd_step(
    context: &mut DCtx<'static>,
    inside: &mut bool,
    input: &[u8],
    out: &mut [u8],
) -> Result<(usize, usize), InflateError> {
    if !*inside && input.is_empty() {
        return Ok((0, 0));
    }
    let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(out));
    let wanted = context.decompress_stream(&mut to, &mut from).map_err(zstd_error)?;
    *inside = wanted > 0;
    Ok((from.pos(), to.pos()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const FREE: ExpansionLimits = ExpansionLimits { bytes_max: u64::MAX, ratio_max: u64::MAX };

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).expect("to memory");
        encoder.finish().expect("to memory")
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
        zstd_safe::compress(&mut out, bytes, 3).expect("room enough");
        out
    }

    fn expand(file: &[u8], piece: usize, room: usize, limits: ExpansionLimits) -> Result<Vec<u8>, InflateError> {
        let mut inflate = Inflate::new(Compression::of(file), limits)?.expect("compressed");
        let (mut all, mut out) = (Vec::new(), vec![0; room]);
        for mut piece in file.chunks(piece) {
            loop {
                let (taken, given) = inflate.step(piece, &mut out)?;
                all.extend_from_slice(&out[..given]);
                piece = &piece[taken..];
                if piece.is_empty() && given < out.len() {
                    break;
                }
            }
        }
        inflate.finish()?;
        Ok(all)
    }

    fn text() -> Vec<u8> {
        (0..20_000u32).flat_map(|n| format!("{n},{}\n", f64::from(n) / 7.0).into_bytes()).collect()
    }

    #[test]
    fn pieces_of_any_size_expand_to_the_same_text() {
        let text = text();
        for file in [gzip(&text), zstd(&text)] {
            for (piece, room) in [(1 << 20, 1 << 20), (1, 777), (7, 1 << 16), (5000, 1), (file.len(), 100)] {
                assert!(expand(&file, piece, room, FREE) == Ok(text.clone()), "pieces of {piece}, room for {room}");
            }
        }
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        let text = text();
        let (half, rest) = text.split_at(text.len() / 2);
        let padding = [0; 512];
        for file in [
            [gzip(half), gzip(b""), gzip(rest)].concat(),
            [gzip(half), gzip(rest), padding.to_vec()].concat(),
            [zstd(half), zstd(b""), zstd(rest)].concat(),
            // A frame to be skipped comes first.
            [b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec(), zstd(half), zstd(rest)].concat(),
        ] {
            for piece in [1, 1000, file.len()] {
                assert!(expand(&file, piece, 4096, FREE) == Ok(text.clone()), "pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_anywhere_is_truncated() {
        for file in [gzip(&text()), zstd(&text())] {
            for end in [4, 11, 20, file.len() / 2, file.len() - 8, file.len() - 1] {
                assert_eq!(expand(&file[..end], 999, 4096, FREE).expect_err("cut"), InflateError::Truncated, "{end}");
            }
        }
    }

    #[test]
    fn damage_and_what_does_not_belong_there_are_found() {
        for file in [gzip(&text()), zstd(&text())] {
            let mut damaged = file.clone();
            damaged[file.len() / 2] ^= 0x55;
            assert!(matches!(expand(&damaged, 999, 4096, FREE), Err(InflateError::Damaged(_))));
            let followed = [&file[..], b"1,2\n"].concat();
            assert!(matches!(expand(&followed, 999, 4096, FREE), Err(InflateError::Damaged(_))));
        }
        let mut crc = gzip(b"1,2\n");
        let end = crc.len();
        crc[end - 6] ^= 1;
        assert!(matches!(expand(&crc, 999, 4096, FREE), Err(InflateError::Damaged(_))));
    }

    #[test]
    fn a_bomb_is_given_up_long_before_it_has_expanded() {
        let zeros = vec![0; 80 << 20];
        let small = ExpansionLimits { bytes_max: 1 << 20, ratio_max: u64::MAX };
        let thin = ExpansionLimits { bytes_max: u64::MAX, ratio_max: 100 };
        for file in [gzip(&zeros), zstd(&zeros)] {
            assert_eq!(expand(&file, 4096, 65536, small), Err(InflateError::TooManyBytes(1 << 20)));
            assert_eq!(expand(&file, 4096, 65536, thin), Err(InflateError::TooDense(100)));
        }
        // What is small is not looked at, however dense it is.
        let file = zstd(&zeros[..10 << 20]);
        assert!(expand(&file, 4096, 65536, thin).is_ok());
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused_before_memory_is_taken() {
        // A frame header that asks for a window of 2 GiB.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
        assert!(matches!(expand(&frame, 9, 4096, FREE), Err(InflateError::Damaged(_))));
    }
}
