//! Fills the arena of one group.
//!
//! ```text
//!   parts ─▶ pieces: runs of whole chunks, one region of the arena each
//!         ─▶ units: pieces that lie next to each other in their source; one read each, of limited length
//!   store:       ranged read ──▶ CPU pool: copy into the regions, verify while warm
//!   local file:  read into the regions (blocking pool) ──▶ CPU pool: verify while warm
//! ```
//!
//! Pages of the arena are populated where bytes first land, which is never a serving thread.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fkv_env::FileReader;
use fkv_formats::checksum::{CHUNK_BYTES, Origin};
use fkv_formats::error::FormatError;
use fkv_formats::id::Part;
use fkv_formats::pack::PackPart;
use futures::{StreamExt, TryStreamExt};

use super::group::ALIGN;
use super::{LoadError, Loader};
use crate::image::arena::{Arena, ArenaBuilder, Region};

/// A read goes on over a gap of this many bytes.
const GAP_BYTES: u64 = 64 << 10;
/// How often a chunk that does not match is read anew before it counts as damaged in the store.
const REREADS: u32 = 2;

/// Where a part's bytes are.
#[derive(Clone)]
pub(super) enum Source {
    /// An object of the store.
    Object(Arc<str>),
    /// A local file, with its name.
    File(Arc<dyn FileReader>, Arc<str>),
}

impl Source {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Object(path) => path,
            Self::File(_, name) => name,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Object(path), Self::Object(other)) => path == other,
            (Self::File(_, name), Self::File(_, other)) => name == other,
            (Self::Object(_), Self::File(..)) | (Self::File(..), Self::Object(_)) => false,
        }
    }
}

/// A part to bring into the arena.
pub(super) struct PartJob {
    pub(super) part: PackPart,
    pub(super) origin: Origin,
    pub(super) source: Source,
    /// Only its resident section; its blocks stay where they are.
    pub(super) resident_only: bool,
}

impl PartJob {
    /// The sections to read, as ranges of the part's data, each with the number of its first chunk.
    fn sections(&self) -> impl Iterator<Item = (Range<u64>, u32)> {
        let (blocks, len) = (self.part.block_len(), self.part.len());
        let blocks_section = (!self.resident_only).then_some((0..blocks, 0));
        let sections = blocks_section.into_iter().chain([(blocks..len, self.part.block_chunks())]);
        sections.filter(|(range, _)| !range.is_empty())
    }

    fn bytes(&self) -> u64 {
        self.part.len() - if self.resident_only { self.part.block_len() } else { 0 }
    }
}

/// Where a part landed in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Landed {
    /// Index of its job.
    pub(super) job: usize,
    pub(super) start: usize,
    pub(super) len: usize,
}

/// A filled arena.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) arena: Arena,
    /// The parts whose bytes are good, and where they are.
    pub(super) landed: Vec<Landed>,
    /// The parts whose bytes are not what they should be.
    pub(super) bad: Vec<(Part, FormatError)>,
}

/// Whole chunks of one part.
struct Piece {
    /// Index of the part's job.
    job: usize,
    first_chunk: u32,
    /// Where the piece begins in the source.
    at: u64,
    region: Region,
}

/// One read.
struct Unit {
    source: Source,
    range: Range<u64>,
    pieces: Vec<Piece>,
}

/// Reads and verifies all parts. Damaged parts are told, not an error: the caller knows whether there is another source.
pub(super) async fn fill(loader: &Loader, jobs: &Arc<Vec<PartJob>>) -> Result<Filled, LoadError> {
    let (starts, total) = place(jobs)?;
    let mut builder = ArenaBuilder::new(total)?;
    let units = cut(jobs, &starts, total, loader.read_bytes, &mut builder);
    let mut bad: Vec<(usize, FormatError)> = futures::stream::iter(units)
        .map(|unit| read(loader, Arc::clone(jobs), unit))
        .buffer_unordered(loader.reads)
        .try_fold(Vec::new(), |mut bad, found| async move {
            bad.extend(found);
            Ok(bad)
        })
        .await?;
    bad.sort_by_key(|(job, _)| *job);
    bad.dedup_by_key(|(job, _)| *job);
    let is_good = |job: &usize| bad.binary_search_by_key(job, |(job, _)| *job).is_err();
    let landed = (0..jobs.len()).filter(is_good).map(|job| {
        let len = usize::try_from(jobs[job].bytes()).expect("checked when the arena was laid out");
        Landed { job, start: starts[job], len }
    });
    let landed = landed.collect();
    let bad = bad.into_iter().map(|(job, error)| (jobs[job].part.part, error)).collect();
    Ok(Filled { arena: builder.freeze()?, landed, bad })
}

/// Where each part begins in the arena, and the arena's length.
fn place(jobs: &[PartJob]) -> Result<(Vec<usize>, usize), LoadError> {
    let too_long = || std::io::Error::new(std::io::ErrorKind::OutOfMemory, "a group longer than the address space");
    let mut starts = Vec::with_capacity(jobs.len());
    let mut total = 0_usize;
    for job in jobs {
        starts.push(total);
        let len = job.bytes().checked_next_multiple_of(ALIGN).and_then(|len| usize::try_from(len).ok());
        total = len.and_then(|len| total.checked_add(len)).ok_or_else(too_long)?;
    }
    Ok((starts, total))
}

/// Cuts the arena into pieces and the pieces into reads.
fn cut(jobs: &[PartJob], starts: &[usize], total: usize, read_bytes: u64, builder: &mut ArenaBuilder) -> Vec<Unit> {
    // Pieces begin and end with chunks.
    let read_bytes = (read_bytes - read_bytes % CHUNK_BYTES as u64).max(CHUNK_BYTES as u64);
    // (job, first chunk, offset in the source) of every piece; padding between parts has none.
    let mut lens = Vec::new();
    let mut places = Vec::new();
    for (index, job) in jobs.iter().enumerate() {
        for (range, section_chunk) in job.sections() {
            let mut at = range.start;
            while at < range.end {
                let piece = (range.end - at).min(read_bytes);
                let chunk = u32::try_from((at - range.start) / CHUNK_BYTES as u64);
                let first_chunk = section_chunk + chunk.expect("a part has fewer than 2^32 chunks");
                lens.push(piece as usize);
                places.push(Some((index, first_chunk, job.part.offset + at)));
                at += piece;
            }
        }
        let end = starts.get(index + 1).copied().unwrap_or(total);
        let padding = end - starts[index] - job.bytes() as usize;
        if padding > 0 {
            lens.push(padding);
            places.push(None);
        }
    }
    let regions = builder.regions(&lens);
    let mut units: Vec<Unit> = Vec::new();
    for (place, region) in places.into_iter().zip(regions) {
        let Some((job, first_chunk, at)) = place else { continue };
        let end = at + region.len() as u64;
        let source = &jobs[job].source;
        let piece = Piece { job, first_chunk, at, region };
        match units.last_mut() {
            Some(unit)
                if unit.source.is_same(source)
                    && at >= unit.range.end
                    && at - unit.range.end <= GAP_BYTES
                    && end - unit.range.start <= read_bytes =>
            {
                unit.range.end = end;
                unit.pieces.push(piece);
            }
            _ => units.push(Unit { source: source.clone(), range: at..end, pieces: vec![piece] }),
        }
    }
    units
}

/// Reads one unit; gives the jobs whose bytes are bad.
async fn read(loader: &Loader, jobs: Arc<Vec<PartJob>>, unit: Unit) -> Result<Vec<(usize, FormatError)>, LoadError> {
    let Unit { source, range, mut pieces } = unit;
    match source {
        Source::Object(path) => {
            let mut rereads = 0;
            loop {
                let bytes = loader.fetcher.range(&path, range.clone()).await?;
                let (jobs, start) = (Arc::clone(&jobs), range.start);
                let (bad, back) =
                    loader.env.compute(move || (copy_and_verify(&jobs, &mut pieces, &bytes, start), pieces)).await?;
                pieces = back;
                if bad.is_empty() || rereads == REREADS {
                    return Ok(bad);
                }
                rereads += 1;
                tracing::warn!(%path, error = %bad[0].1, "bytes read from the store do not match; reading them again");
            }
        }
        Source::File(reader, name) => {
            let work = move || read_file(reader.as_ref(), &name, &mut pieces).map(|()| pieces);
            let read = loader.env.blocking(work).await?;
            match read {
                Ok(pieces) => Ok(loader.env.compute(move || verify(&jobs, &pieces)).await?),
                Err((failed, error)) => Ok(failed.into_iter().map(|job| (job, error.clone())).collect()),
            }
        }
    }
}

/// Fills the pieces of one unit from a local file. A file that cannot be read is a damaged one.
fn read_file(reader: &dyn FileReader, name: &str, pieces: &mut [Piece]) -> Result<(), (Vec<usize>, FormatError)> {
    for index in 0..pieces.len() {
        let piece = &mut pieces[index];
        if let Err(error) = reader.read_exact_at(&mut piece.region, piece.at) {
            let error = FormatError::Damaged { what: "local pack", reason: format!("{name} cannot be read: {error}") };
            return Err((pieces.iter().map(|piece| piece.job).collect(), error));
        }
    }
    Ok(())
}

fn copy_and_verify(jobs: &[PartJob], pieces: &mut [Piece], bytes: &Bytes, start: u64) -> Vec<(usize, FormatError)> {
    let mut bad = Vec::new();
    for piece in pieces.iter_mut() {
        let from = usize::try_from(piece.at - start).unwrap_or(usize::MAX);
        let len = piece.region.len();
        match from.checked_add(len).and_then(|end| bytes.get(from..end)) {
            Some(bytes) => piece.region.copy_from_slice(bytes),
            None => {
                let (needed, found) = ((from as u64).saturating_add(len as u64), bytes.len() as u64);
                bad.push((piece.job, FormatError::Truncated { what: "ranged read", needed, found }));
                continue;
            }
        }
        bad.extend(verify_piece(jobs, piece));
    }
    bad
}

fn verify(jobs: &[PartJob], pieces: &[Piece]) -> Vec<(usize, FormatError)> {
    pieces.iter().filter_map(|piece| verify_piece(jobs, piece)).collect()
}

fn verify_piece(jobs: &[PartJob], piece: &Piece) -> Option<(usize, FormatError)> {
    let PartJob { part, origin, .. } = &jobs[piece.job];
    let outcome = (piece.first_chunk..)
        .zip(piece.region.chunks(CHUNK_BYTES))
        .try_for_each(|(chunk, bytes)| part.verify_chunk(*origin, chunk, bytes));
    outcome.err().map(|error| (piece.job, error))
}
