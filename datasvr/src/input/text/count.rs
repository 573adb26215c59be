//! Rows known by the byte they begin at ─▶ their numbers, by counting what comes before them.
//!
//! Whoever reads a range of a file knows how its rows follow each other, but not how many come before the range. That is
//! worth finding out only for the few rows that somebody is told of.

use std::sync::Arc;

use fkv_env::Env;
use futures::StreamExt;

use super::super::bad::RowPlace;
use super::super::error::InputError;
use super::super::file::InputFile;
use super::super::stream::fetch;
use super::layout::TextLayout;
use super::split::{Block, Splitter};

/// Bytes of a file that are counted at most; a row beyond them keeps its byte.
const COUNT_BYTES_MAX: u64 = 16 << 30;
/// Bytes counted at a time.
const CHUNK_BYTES: u64 = 4 << 20;

/// The numbers of the rows that begin at `bytes` (ascending) of a file that is not compressed. A row beyond the limit,
/// and a byte at which no row begins, is left out.
///
/// # Errors
/// The file cannot be read any more.
pub(crate) async fn count_rows(
    env: &Env,
    file: &InputFile,
    layout: &Arc<TextLayout>,
    bytes: &[u64],
) -> Result<Vec<(u64, RowPlace)>, InputError> {
    let mut found = Vec::new();
    let Some(last) = bytes.iter().rfind(|byte| **byte < COUNT_BYTES_MAX) else { return Ok(found) };
    let end = file.meta.len.min(last + 1);
    let mut splitter = Splitter::new(layout.framing, layout.begin);
    let mut chunks = std::pin::pin!(fetch(file.clone(), layout.begin.byte..end, CHUNK_BYTES));
    let bytes: Arc<[u64]> = bytes.into();
    while let Some(chunk) = chunks.next().await {
        let (chunk, layout, bytes) = (chunk?, Arc::clone(layout), Arc::clone(&bytes));
        let counted = env.compute(move || {
            let block = splitter.push(&chunk).ok().flatten();
            let begin = splitter.next();
            let mut here = block.map(|block| within(&layout, &block, &bytes)).unwrap_or_default();
            // The last one begins at the end of what was read.
            here.extend(bytes.contains(&begin.byte).then(|| (begin.byte, place(begin.row, begin.line))));
            (splitter, here)
        });
        let (back, here) = counted.await.map_err(|_| InputError::Crashed { file: file.url.clone() })?;
        splitter = back;
        found.extend(here);
    }
    found.dedup();
    Ok(found)
}

/// The places of the rows of a block that begin at one of `bytes`.
fn within(layout: &TextLayout, block: &Block, bytes: &[u64]) -> Vec<(u64, RowPlace)> {
    let begin = block.begin;
    let end = begin.byte + block.bytes.len() as u64;
    let mut places = Vec::new();
    for byte in bytes.iter().filter(|byte| (begin.byte..end).contains(byte)) {
        let before = &block.bytes[..usize::try_from(byte - begin.byte).unwrap_or(0)];
        let whole = layout.framing.whole(before);
        if whole.end == before.len() {
            places.push((*byte, place(begin.row + whole.records, begin.line + whole.lines)));
        }
    }
    places
}

const fn place(row: u64, line: u64) -> RowPlace {
    RowPlace { row: Some(row), line: Some(line), byte: None }
}
