//! Reads a local pack once more from one end to the other, after a part of it proved damaged: damage seldom comes alone,
//! and what is found now is fetched at once, instead of part by part as the keys of each are asked for.
//!
//! ```text
//!   blocks             through the engine of lookups, past the page cache ─┐
//!   resident sections  as the next start reads them ───────────────────────┴─▶ chunk checksums of the directory
//! ```
//!
//! It takes its turn with lookups, a few reads at a time, and no more bytes per second than configured.

use std::sync::Arc;

use fkv_env::FileReader;
use fkv_formats::checksum::Origin;
use fkv_formats::id::{ContentId, Part, TableUid};
use fkv_formats::pack::PackPart;

use super::local::open_pack;
use super::{LoadError, Loader};
use crate::image::{DiskFile, PartSet};
use crate::io::{Done, ReadOp, is_data_gone};

/// Chunks that are read at once.
const CHUNKS_AT_ONCE: usize = 8;

/// A pack to read.
#[derive(Debug)]
pub(crate) struct ScrubStart {
    pub(crate) content: ContentId,
    pub(crate) file: DiskFile,
    /// The parts that an image reads from it.
    pub(crate) parts: PartSet,
}

impl Loader {
    /// Gives the parts whose bytes are not what was written.
    ///
    /// # Errors
    /// The pack's directory cannot be read, or reads fail for a reason that says nothing of the bytes.
    pub(crate) async fn scrub(&self, uid: TableUid, start: &ScrubStart) -> Result<Vec<Part>, LoadError> {
        let (files, path) = (Arc::clone(&self.env.files), self.images_dir.join(&start.file.local.name));
        let opened = self.env.blocking(move || open_pack(files.as_ref(), path, uid)).await?;
        let (reader, directory) = opened.map_err(std::io::Error::other)?;
        let reader: Arc<dyn FileReader> = Arc::from(reader);
        let mut damaged = Vec::new();
        for part in directory.parts.iter().filter(|part| start.parts.contains(part.part)) {
            let is_good = self.scrub_blocks(&start.file, part, directory.origin).await?
                && self.scrub_resident(&reader, part, directory.origin).await?;
            if !is_good {
                damaged.push(part.part);
            }
        }
        Ok(damaged)
    }

    /// Whether the blocks of a part are good.
    async fn scrub_blocks(&self, file: &DiskFile, part: &PackPart, origin: Origin) -> Result<bool, LoadError> {
        let chunks: Vec<u32> = (0..part.block_chunks()).collect();
        for chunks in chunks.chunks(CHUNKS_AT_ONCE) {
            let reads = chunks.iter().filter_map(|chunk| part.chunk_range(*chunk)).map(|range| ReadOp {
                file: file.handle.clone(),
                offset: part.offset + range.start,
                // A chunk has 64 KiB at most.
                len: (range.end - range.start) as u32,
            });
            let reads: Vec<ReadOp> = reads.collect();
            let bytes = reads.iter().map(|read| u64::from(read.len)).sum();
            self.scrub_throttle.take(self.env.clock.as_ref(), bytes).await;
            let mut batch = self.io.read(reads);
            let mut done = Vec::new();
            while batch.next(&mut done).await {
                for Done { index, outcome } in done.drain(..) {
                    match outcome {
                        Ok(bytes) if part.verify_chunk(origin, chunks[index as usize], &bytes).is_ok() => {}
                        Ok(_) => return Ok(false),
                        Err(error) if is_data_gone(&error) => return Ok(false),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(true)
    }

    /// Whether the resident section of a part is good on disk.
    async fn scrub_resident(
        &self,
        reader: &Arc<dyn FileReader>,
        part: &PackPart,
        origin: Origin,
    ) -> Result<bool, LoadError> {
        let range = part.resident_range();
        self.scrub_throttle.take(self.env.clock.as_ref(), range.end - range.start).await;
        let (reader, part) = (Arc::clone(reader), part.clone());
        let verify = move || {
            let chunks = (part.block_chunks()..).map_while(|chunk| Some((chunk, part.chunk_range(chunk)?)));
            for (chunk, range) in chunks {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                // As at a start, a file that cannot be read is a damaged one.
                let read = reader.read_exact_at(&mut bytes, part.offset + range.start);
                if read.is_err() || part.verify_chunk(origin, chunk, &bytes).is_err() {
                    return false;
                }
            }
            true
        };
        Ok(self.env.blocking(verify).await?)
    }
}
