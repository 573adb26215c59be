//! Streams in a line: several units are read and expanded at once, and yet their blocks come out in the frozen order.
//!
//! ```text
//!   unit 0 ─▶ [b b b b]─┐
//!   unit 1 ─▶ [b b    ] ├─▶ one after the other, each row with its place in the frozen input
//!   unit 2 ─▶ [b      ]─┘
//! ```
//!
//! Rows get their numbers here, because only now is it known how many came before them. Each unit waits in a bounded queue
//! of its own, so that the one whose turn it is never waits for memory that a later one holds.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use super::ends::Edges;
use super::error::InputError;
use super::open::Places;
use super::stream::{HeldBlock, Sizes, StreamContext, TextUnit, send};
use super::text::decode::TextBlock;
use super::unit::UnitKind;

/// A stream and what it is of.
type Waiting = (Arc<TextUnit>, mpsc::Receiver<Result<HeldBlock, InputError>>);

/// The blocks of many units in order.
#[derive(Debug)]
pub(crate) struct Lineup {
    units: mpsc::Receiver<Waiting>,
    current: Option<(Waiting, Option<Edges>)>,
    places: Arc<Places>,
    next_index: u64,
    edges: Vec<Edges>,
}

/// A block whose turn has come, and what keeps its memory charged.
#[derive(Debug)]
pub(crate) struct NextBlock {
    /// The block.
    pub(crate) block: TextBlock,
    /// The block again, as it was accounted for.
    pub(crate) held: HeldBlock,
}

/// Reads `units` with up to `streams` of them at once. The future does the reading while it is polled; it ends with
/// the last unit, or when the lineup is dropped.
pub(crate) fn start(
    context: StreamContext,
    units: Vec<TextUnit>,
    streams: usize,
    places: Arc<Places>,
) -> (Lineup, BoxFuture<'static, ()>) {
    let (line, waiting) = mpsc::channel(streams.max(1));
    let reading = async move {
        let context = &context;
        let line = &line;
        futures::stream::iter(units)
            .map(|unit| async move {
                let unit = Arc::new(unit);
                let (blocks, received) = mpsc::channel(Sizes::QUEUE);
                // The line has room for as many as run.
                if line.send((Arc::clone(&unit), received)).await.is_ok() {
                    send(context, &unit, blocks).await;
                }
            })
            .buffered(streams.max(1))
            .collect::<()>()
            .await;
    };
    (Lineup { units: waiting, current: None, places, next_index: 0, edges: Vec::new() }, reading.boxed())
}

impl Lineup {
    /// The next block; `None` at the end.
    ///
    /// # Errors
    /// The first thing that is wrong, in the frozen order.
    pub(crate) async fn next(&mut self) -> Result<Option<NextBlock>, InputError> {
        loop {
            if self.current.is_none() {
                let Some(waiting) = self.units.recv().await else { return Ok(None) };
                self.current = Some((waiting, None));
            }
            let Some(((unit, blocks), edges)) = &mut self.current else { continue };
            match blocks.recv().await {
                Some(held) => {
                    let held = held?;
                    let block = held.block.clone();
                    let after = block.begin.byte + block.bytes.len() as u64;
                    let numbered = unit.is_numbered();
                    if edges.is_none() {
                        self.places.begin(self.next_index, &unit.file.url, numbered.then_some(block.begin.row));
                    }
                    edges.get_or_insert(Edges { file: unit.at, first: block.begin.byte, after }).after = after;
                    let first_index = self.next_index;
                    self.next_index += block.records;
                    let max = u64::from(u32::MAX);
                    if self.next_index > max {
                        return Err(InputError::TooManyRows { rows: self.next_index, max });
                    }
                    let block = TextBlock {
                        url: unit.file.url.clone(),
                        file: unit.file.at,
                        layout: Arc::clone(&unit.layout),
                        block,
                        numbered,
                        first_index: u32::try_from(first_index).unwrap_or(u32::MAX),
                    };
                    return Ok(Some(NextBlock { block, held }));
                }
                None => {
                    if matches!(unit.kind, UnitKind::Range { .. }) {
                        self.edges.extend(*edges);
                    }
                    self.current = None;
                }
            }
        }
    }

    /// Where the records of the ranges that were read lay.
    pub(crate) fn edges(&self) -> &[Edges] {
        &self.edges
    }
}
