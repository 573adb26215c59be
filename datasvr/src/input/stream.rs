//! One unit of text ─▶ its blocks, in order, in bounded memory.
//!
//! ```text
//!   file ─ requests, some ahead ─▶ chunks ─ expand ─ split ─▶ blocks ─ bounded queue ─▶ whoever decodes them
//! ```

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fkv_env::Env;
use futures::stream::{Stream, StreamExt};
use tokio::sync::mpsc;

use super::error::InputError;
use super::file::InputFile;
use super::inflate::{Compression, Inflate};
use super::text::layout::TextLayout;
use super::text::split::{Block, Position, RECORD_BYTES_MAX, SplitError, Splitter};
use super::unit::UnitKind;
use crate::budget::{Budget, Charge};
use crate::input::bad::RowPlace;
use crate::progress::Meter;

/// How much is read ahead, by the memory there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Bytes of one request.
    chunk: usize,
    /// Bytes of a block, about.
    block: usize,
}

impl Sizes {
    /// Requests under way for one stream.
    const AHEAD: usize = 3;
    /// Blocks that wait to be decoded, for one stream.
    pub(crate) const QUEUE: usize = 4;
    /// Blocks made at a time.
    const AT_ONCE: usize = 4;

    /// Sizes for this budget.
    #[must_use]
    pub(crate) fn of(budget: &Budget) -> Self {
        let share = usize::try_from(budget.limit() / 512).unwrap_or(usize::MAX);
        Self { chunk: share.clamp(64 << 10, 4 << 20), block: share.clamp(64 << 10, 1 << 20) }
    }

    /// How many streams may run at once in a sixteenth of the budget, `most` at most: what they hold stays where it is while
    /// the rows read so far are sorted and written.
    #[must_use]
    pub(crate) fn streams(self, budget: &Budget, most: usize) -> usize {
        let each = Self::AHEAD * self.chunk + (Self::QUEUE + Self::AT_ONCE + 2) * self.block;
        let fit = budget.limit() / 16 / (each as u64).max(1);
        usize::try_from(fit).unwrap_or(most).clamp(1, most)
    }
}

/// A unit of text to be read.
#[derive(Clone, Debug)]
pub(crate) struct TextUnit {
    /// The file.
    pub(crate) file: InputFile,
    /// Its place in the frozen list.
    pub(crate) at: usize,
    /// Where its records are.
    pub(crate) layout: Arc<TextLayout>,
    /// What to read of it.
    pub(crate) kind: UnitKind,
}

impl TextUnit {
    /// Whether the unit begins at the file's first record, so that its rows have numbers.
    #[must_use]
    pub(crate) fn is_numbered(&self) -> bool {
        match self.kind {
            UnitKind::Range { start, .. } => start <= self.layout.begin.byte,
            UnitKind::Whole | UnitKind::RowGroup { .. } => true,
        }
    }
}

/// A block in memory that is accounted for.
#[derive(Debug)]
pub(crate) struct HeldBlock {
    /// The block.
    pub(crate) block: Block,
    /// Keeps its memory charged.
    _charge: Charge,
}

/// What a stream works with.
#[derive(Clone, Debug)]
pub(crate) struct StreamContext {
    pub(crate) env: Env,
    pub(crate) budget: Budget,
    pub(crate) meter: Arc<Meter>,
    pub(crate) sizes: Sizes,
}

/// Where blocks go.
pub(crate) type Blocks = mpsc::Sender<Result<HeldBlock, InputError>>;

/// Sends the blocks of a unit in order, then an error if there was one. Ends early when nobody wants more.
pub(crate) async fn send(context: &StreamContext, unit: &TextUnit, blocks: Blocks) {
    let sending = Sending { context, unit, blocks: &blocks };
    if let Err(Stop::Failed(error)) = sending.run().await {
        // Nobody may be there to hear it.
        let _ = blocks.send(Err(error)).await;
    }
}

enum Stop {
    /// Nobody receives.
    Unwanted,
    Failed(InputError),
}

impl From<InputError> for Stop {
    fn from(error: InputError) -> Self {
        Self::Failed(error)
    }
}

struct Sending<'a> {
    context: &'a StreamContext,
    unit: &'a TextUnit,
    blocks: &'a Blocks,
}

impl Sending<'_> {
    async fn run(&self) -> Result<(), Stop> {
        let (file, layout, sizes) = (&self.unit.file, &self.unit.layout, self.context.sizes);
        let len = file.meta.len;
        let begin = layout.begin;
        // What is read first, and whether there is more of the file behind it.
        let range = match self.unit.kind {
            UnitKind::Range { start, end } if start > begin.byte => start - 1..end,
            UnitKind::Range { end, .. } => begin.byte..end,
            UnitKind::Whole | UnitKind::RowGroup { .. } => 0..len,
        };
        let (first, end) = (range.start, range.end);
        let mut cutter = Box::new(Cutter::new(self.unit, sizes, first)?);
        let mut charge = self.context.budget.charge("reading text of the input");
        let ahead = (Sizes::AHEAD * sizes.chunk + sizes.block) as u64;
        let mut chunks = std::pin::pin!(fetch(file.clone(), range, sizes.chunk as u64));
        while let Some(chunk) = chunks.next().await {
            let mut chunk = chunk?;
            self.context.meter.add_bytes(chunk.len() as u64);
            loop {
                charge.set(ahead + cutter.memory()).map_err(InputError::from)?;
                let (back, cut) = self.compute(move || cutter.feed(chunk)).await?;
                (cutter, chunk) = back;
                let Cut { blocks, more } = cut;
                self.pass_on(blocks).await?;
                if !more {
                    break;
                }
            }
        }
        // The last record of a range may end beyond it.
        let mut at = end;
        let mut piece = 64u64 << 10;
        while at < len && cutter.is_within_record() {
            let read = file.read(at..len.min(at + piece)).await?;
            at += read.len() as u64;
            charge.set(ahead + cutter.memory() + read.len() as u64).map_err(InputError::from)?;
            let (back, block) = self.compute(move || cutter.feed_until_end(read)).await?;
            cutter = back.0;
            self.pass_on(block.blocks).await?;
            piece = (piece * 2).min(8 << 20);
        }
        if at == len {
            let (_, last) = self.compute(move || cutter.finish()).await?;
            self.pass_on(last.blocks).await?;
        }
        Ok(())
    }

    /// Runs a step of the cutter on the CPU pool; it comes back with what is left of its input.
    async fn compute<F>(&self, step: F) -> Result<((Box<Cutter>, Bytes), Cut), InputError>
    where
        F: FnOnce() -> Step + Send + 'static,
    {
        match self.context.env.compute(step).await {
            Ok((cutter, rest, Ok(cut))) => Ok(((cutter, rest), cut)),
            Ok((_, _, Err(error))) => Err(error),
            Err(_) => Err(InputError::Crashed { file: self.unit.file.url.clone() }),
        }
    }

    async fn pass_on(&self, blocks: Vec<Block>) -> Result<(), Stop> {
        for block in blocks {
            let mut charge = self.context.budget.charge("holding text of the input");
            charge.set(block.bytes.len() as u64).map_err(InputError::from)?;
            self.blocks.send(Ok(HeldBlock { block, _charge: charge })).await.map_err(|_| Stop::Unwanted)?;
        }
        Ok(())
    }
}

/// The bytes of a range, in chunks, some of them asked for ahead.
pub(crate) fn fetch(file: InputFile, range: Range<u64>, chunk: u64) -> impl Stream<Item = Result<Bytes, InputError>> {
    let starts = (range.start..range.end).step_by(usize::try_from(chunk).unwrap_or(usize::MAX));
    futures::stream::iter(starts)
        .map(move |start| {
            let (file, end) = (file.clone(), range.end.min(start + chunk));
            async move { file.read(start..end).await }
        })
        .buffered(Sizes::AHEAD)
}

/// What a step gives: the cutter, the input that is left, and blocks.
type Step = (Box<Cutter>, Bytes, Result<Cut, InputError>);

/// Blocks that were cut.
struct Cut {
    blocks: Vec<Block>,
    /// Whether there is more to come without more input.
    more: bool,
}

/// Expands and splits.
struct Cutter {
    file: InputFile,
    compression: Compression,
    inflate: Option<Inflate>,
    expanded: Vec<u8>,
    splitter: Splitter,
    /// Bytes still to be dropped from the beginning: the header of a file that can only be read whole.
    skip: u64,
    /// Whether all up to the end of a line is still to be dropped: the record that began before the range.
    skip_line: bool,
    numbered: bool,
    block: usize,
    /// Where the next byte pushed lies.
    at: u64,
    layout: Arc<TextLayout>,
}

impl Cutter {
    fn new(unit: &TextUnit, sizes: Sizes, at: u64) -> Result<Self, InputError> {
        let layout = &unit.layout;
        let explain = |error| unit.file.inflate_error(layout.compression, error);
        let inflate = Inflate::new(layout.compression, unit.file.expansion).map_err(explain)?;
        let numbered = unit.is_numbered();
        let skip = if unit.kind == UnitKind::Whole { layout.begin.byte } else { 0 };
        Ok(Self {
            file: unit.file.clone(),
            compression: layout.compression,
            expanded: if inflate.is_some() { vec![0; sizes.block] } else { Vec::new() },
            inflate,
            splitter: Splitter::new(layout.framing, layout.begin),
            skip,
            skip_line: !numbered,
            numbered,
            block: sizes.block,
            at,
            layout: Arc::clone(layout),
        })
    }

    fn memory(&self) -> u64 {
        let inflate = self.inflate.as_ref().map_or(0, Inflate::memory);
        inflate + (self.expanded.len() + self.splitter.held()) as u64
    }

    fn is_within_record(&self) -> bool {
        !self.skip_line && self.splitter.pending() > 0
    }

    fn feed(mut self: Box<Self>, mut input: Bytes) -> Step {
        let cut = self.cut(&mut input);
        (self, input, cut)
    }

    fn cut(&mut self, input: &mut Bytes) -> Result<Cut, InputError> {
        let mut blocks = Vec::new();
        let Some(mut inflate) = self.inflate.take() else {
            while !input.is_empty() && blocks.len() < Sizes::AT_ONCE {
                let piece = input.split_to(self.block.min(input.len()));
                blocks.extend(self.push(&piece)?);
            }
            return Ok(Cut { blocks, more: !input.is_empty() });
        };
        let mut expanded = std::mem::take(&mut self.expanded);
        let mut more = true;
        while more && blocks.len() < Sizes::AT_ONCE {
            let step = inflate.step(input, &mut expanded);
            let (taken, given) = step.map_err(|error| self.file.inflate_error(self.compression, error))?;
            let _ = input.split_to(taken);
            more = given == expanded.len();
            blocks.extend(self.push(&expanded[..given])?);
        }
        (self.inflate, self.expanded) = (Some(inflate), expanded);
        Ok(Cut { blocks, more })
    }

    fn push(&mut self, mut piece: &[u8]) -> Result<Option<Block>, InputError> {
        if self.skip > 0 {
            let dropped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
            self.skip -= dropped as u64;
            piece = &piece[dropped..];
        }
        if self.skip_line {
            let Some(end) = memchr::memchr(b'\n', piece) else {
                self.at += piece.len() as u64;
                return Ok(None);
            };
            self.skip_line = false;
            self.at += end as u64 + 1;
            piece = &piece[end + 1..];
            // What comes before was not counted.
            let begin = Position { row: 0, line: 1, byte: self.at };
            self.splitter = Splitter::new(self.layout.framing, begin);
        }
        self.at += piece.len() as u64;
        if piece.is_empty() {
            return Ok(None);
        }
        self.splitter.push(piece).map_err(|error| self.split_error(error))
    }

    fn feed_until_end(mut self: Box<Self>, input: Bytes) -> Step {
        let block = self.splitter.push_until_end(&input).map_err(|error| self.split_error(error));
        let cut = block.map(|block| Cut { blocks: block.into_iter().collect(), more: false });
        (self, Bytes::new(), cut)
    }

    fn finish(mut self: Box<Self>) -> Step {
        let cut = self.last();
        (self, Bytes::new(), cut)
    }

    fn last(&mut self) -> Result<Cut, InputError> {
        if let Some(inflate) = &self.inflate {
            inflate.finish().map_err(|error| self.file.inflate_error(self.compression, error))?;
        }
        let block = self.splitter.finish().map_err(|error| self.split_error(error))?;
        Ok(Cut { blocks: block.into_iter().collect(), more: false })
    }

    fn split_error(&self, error: SplitError) -> InputError {
        let place = |position: Position| {
            if self.numbered {
                RowPlace { row: Some(position.row), line: Some(position.line), byte: None }
            } else {
                RowPlace { row: None, line: None, byte: Some(position.byte) }
            }
        };
        let file = self.file.url.clone();
        match error {
            SplitError::TooLong(position) => {
                let reason = format!(
                    "the row does not end within {RECORD_BYTES_MAX} bytes: it is too long, or a quote is never closed"
                );
                InputError::BadRecord { file, place: place(position), reason }
            }
            SplitError::OpenQuote(position) => {
                let reason = format!("a quote in {} is never closed", place(position));
                InputError::Truncated { file, reason }
            }
        }
    }
}
