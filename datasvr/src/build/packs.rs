//! Parts ─▶ packs: a batch of parts is built in parallel while the batch before it is written.
//!
//! ```text
//!   cpu pool   build parts 0..n │ build n..2n │ …          each part: gather, sort, build its image
//!                      append in order ─▶ pack bytes
//!   store                       write 0..n  │ write n..2n │ …
//! ```
//!
//! Packs are cut where one reaches its size, behind a whole part. A part that is too large to be built in memory is
//! [streamed](Streamed) into a pack of its own.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fkv_env::Env;
use fkv_formats::checksum::Origin;
use fkv_formats::error::BuildError;
use fkv_formats::id::Part;
use fkv_formats::pack::{PackSummary, PackWriter, PartWriter};
use fkv_formats::path::Attempt;
use fkv_formats::record::RecordRef;
use fkv_formats::schema::Schema;
use fkv_formats::table::{PartBuilder, PartGeometry, PartLayout, Profile, build_part_of};
use fkv_meta::record::Duplicates;
use fkv_store::{ObjectWriter, Store};

use super::output::PackRef;
use super::part::{Clash, PartRows, Winners};
use crate::budget::{Budget, Charge};
use crate::error::AttemptError;
use crate::input::error::InputError;

/// Bytes handed to the store at once.
const WRITE_BYTES: usize = 8 << 20;

/// What parts are built by.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) origin: Origin,
    pub(crate) schema: Schema,
    pub(crate) profile: Profile,
    pub(crate) duplicates: Duplicates,
    pub(crate) as_of: u32,
    pub(crate) pack_bytes: u64,
}

/// Where the rows of parts come from.
pub(crate) trait Source: Debug + Send + Sync + 'static {
    /// The rows of one part.
    type Rows<'a>: PartRows
    where
        Self: 'a;

    /// The rows of `part`, one for each key.
    ///
    /// # Errors
    /// The rows cannot be read.
    fn part(&self, part: u16, duplicates: Duplicates) -> Result<Winners<Self::Rows<'_>>, AttemptError>;
}

/// What was built.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) packs: Vec<PackRef>,
    pub(crate) records: u64,
    pub(crate) duplicates: u64,
    pub(crate) expired: u64,
    pub(crate) deleted: u64,
    /// Set if duplicates are an error and there were some; the packs are then incomplete.
    pub(crate) clash: Option<Clash>,
}

impl Built {
    /// Counts what became of the rows of a part, or of a piece of one.
    pub(crate) fn count<R: PartRows>(&mut self, winners: &Winners<R>) {
        self.records += winners.len();
        self.duplicates += winners.duplicates;
        self.expired += winners.expired;
        self.deleted += winners.deleted;
        if let Some(clash) = &winners.clash {
            self.clash = Some(self.clash.take().map_or_else(|| clash.clone(), |earlier| earlier.min(clash.clone())));
        }
    }
}

/// The image of a part.
struct Image {
    layout: PartLayout,
    data: Vec<u8>,
}

/// What became of one part of a batch.
#[derive(Default)]
struct PartOutcome {
    image: Option<Image>,
    counts: Built,
    error: Option<AttemptError>,
}

/// What is to be written next.
enum Piece {
    /// Bytes of the present pack.
    Bytes(Bytes),
    /// The present pack ends.
    End(PackSummary),
}

/// Appends parts to packs; moves between the pool's threads with each batch.
struct Packer {
    settings: Settings,
    built: Built,
    pack: Option<PackWriter<Vec<u8>>>,
    pieces: Vec<Piece>,
    charge: Charge,
}

/// Builds parts and writes them to packs in an attempt's place. After an error it is of no use.
pub(crate) struct Packing<'a> {
    env: &'a Env,
    out: Output<'a>,
    /// Absent while a batch is built.
    packer: Option<Packer>,
    /// What the batch before has left to write.
    pieces: Vec<Piece>,
}

/// A pack that a single part is built into, piece by piece; moves between the pool's threads.
pub(crate) type Streamed = PartBuilder<PartWriter<Box<PackWriter<Vec<u8>>>>>;

impl<'a> Packing<'a> {
    /// No packs yet.
    pub(crate) fn new(
        env: &'a Env,
        store: &'a Store,
        attempt: &'a Attempt<'a>,
        settings: Settings,
        budget: &Budget,
    ) -> Self {
        let packer = Packer {
            settings,
            built: Built::default(),
            pack: None,
            pieces: Vec::new(),
            charge: budget.charge("building parts"),
        };
        let out = Output { store, attempt, writer: None, next: 0, packs: Vec::new() };
        Self { env, out, packer: Some(packer), pieces: Vec::new() }
    }

    fn packer(&mut self) -> &mut Packer {
        self.packer.as_mut().expect("it comes back with every batch that was built")
    }

    /// Builds parts of `source` and appends them, while what was built before is written.
    pub(crate) async fn add<S: Source>(&mut self, source: &Arc<S>, parts: Range<u16>) -> Result<(), AttemptError> {
        let mut packer = self.packer.take().expect("it comes back with every batch that was built");
        let (pool, source) = (self.env.clone(), Arc::clone(source));
        let build = self.env.compute(move || packer.build(&pool, &*source, parts).map(|()| packer));
        let (built, written) = futures::future::join(build, self.out.write(std::mem::take(&mut self.pieces))).await;
        written?;
        let mut packer = built??;
        self.pieces = std::mem::take(&mut packer.pieces);
        self.packer = Some(packer);
        Ok(())
    }

    /// Ends the present pack, and writes all that is left of it.
    pub(crate) async fn end_pack(&mut self) -> Result<(), AttemptError> {
        self.packer().end_pack()?;
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.append(&mut self.packer().pieces);
        self.out.write(pieces).await
    }

    /// Begins a pack of one part with this geometry. The pack before must have been ended.
    pub(crate) fn begin_streamed(&mut self, part: Part, geometry: PartGeometry) -> Result<Streamed, AttemptError> {
        let Settings { origin, schema, profile, .. } = self.packer().settings.clone();
        let pack = Box::new(PackWriter::new(Vec::new(), origin, &schema, profile)?);
        Ok(PartBuilder::new(&schema, profile, origin, part, geometry, pack.into_part(part)?)?)
    }

    /// Writes what a streamed pack has gathered.
    pub(crate) async fn write_streamed(&mut self, bytes: Vec<u8>) -> Result<(), AttemptError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.out.write(vec![Piece::Bytes(Bytes::from(bytes))]).await
    }

    /// Ends a streamed pack.
    pub(crate) async fn end_streamed(&mut self, streamed: Streamed, counts: Built) -> Result<(), AttemptError> {
        let finish = move || -> Result<(PackSummary, Vec<u8>), BuildError> {
            let (layout, resident, mut writer) = streamed.finish()?;
            if layout.block_len() > 0 {
                writer.end_blocks();
            }
            std::io::Write::write_all(&mut writer, &resident)?;
            writer.finish(&layout)?.finish()
        };
        let (summary, rest) = self.env.compute(finish).await??;
        self.out.write(vec![Piece::Bytes(Bytes::from(rest)), Piece::End(summary)]).await?;
        self.count(&counts);
        Ok(())
    }

    /// Counts what was built elsewhere.
    pub(crate) fn count(&mut self, counts: &Built) {
        let built = &mut self.packer().built;
        built.records += counts.records;
        built.duplicates += counts.duplicates;
        built.expired += counts.expired;
        built.deleted += counts.deleted;
        built.clash = built.clash.take().into_iter().chain(counts.clash.clone()).min();
    }

    /// Gives up the streamed pack at work: its geometry was too tight. Nothing of it will be seen.
    pub(crate) async fn abandon_streamed(&mut self) {
        self.out.abandon().await;
    }

    /// Whether rows have clashed, so that nothing more needs to be built.
    pub(crate) fn has_clash(&mut self) -> bool {
        self.packer().built.clash.is_some()
    }

    /// Writes what is left; gives what was built.
    pub(crate) async fn finish(mut self) -> Result<Built, AttemptError> {
        if !self.has_clash() {
            self.end_pack().await?;
        }
        let packer = self.packer.take().expect("it comes back with every batch that was built");
        Ok(Built { packs: self.out.packs, ..packer.built })
    }
}

impl Packer {
    /// Builds parts and appends them.
    fn build<S: Source>(&mut self, env: &Env, source: &S, parts: Range<u16>) -> Result<(), AttemptError> {
        let outcomes: Vec<Mutex<PartOutcome>> = parts.clone().map(|_| Mutex::default()).collect();
        let (settings, stop, first) = (&self.settings, self.built.clash.is_some(), parts.start);
        env.cpu.for_each(outcomes.len(), &|at| {
            let part = first + u16::try_from(at).expect("a batch has at most 2400 parts");
            let outcome = build_one(source, settings, Part(part), stop);
            *outcomes[at].lock().unwrap_or_else(PoisonError::into_inner) = outcome;
        });
        let mut bytes = 0;
        for (part, outcome) in parts.zip(outcomes) {
            let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Some(error) = outcome.error {
                return Err(error);
            }
            self.built.records += outcome.counts.records;
            self.built.duplicates += outcome.counts.duplicates;
            self.built.expired += outcome.counts.expired;
            self.built.deleted += outcome.counts.deleted;
            self.built.clash = self.built.clash.take().into_iter().chain(outcome.counts.clash).min();
            if let Some(image) = outcome.image {
                bytes += image.data.len() as u64;
                self.append(Part(part), &image)?;
            }
        }
        // The images, and the pieces waiting for the store.
        self.charge.set(bytes * 2).map_err(InputError::from)?;
        self.drain(0);
        Ok(())
    }

    fn append(&mut self, part: Part, image: &Image) -> Result<(), BuildError> {
        let Settings { origin, schema, profile, pack_bytes, .. } = &self.settings;
        let pack = match &mut self.pack {
            Some(pack) => pack,
            none => none.insert(PackWriter::new(Vec::new(), *origin, schema, *profile)?),
        };
        pack.put_part(part, &image.layout, &image.data)?;
        if pack.bytes_written() >= *pack_bytes {
            self.end_pack()?;
        }
        self.drain(WRITE_BYTES);
        Ok(())
    }

    /// Takes what the pack has written if it is at least `least` bytes.
    fn drain(&mut self, least: usize) {
        if let Some(pack) = &mut self.pack
            && pack.get_mut().len() >= least.max(1)
        {
            self.pieces.push(Piece::Bytes(Bytes::from(std::mem::take(pack.get_mut()))));
        }
    }

    fn end_pack(&mut self) -> Result<(), BuildError> {
        if let Some(pack) = self.pack.take() {
            let (summary, rest) = pack.finish()?;
            self.pieces.push(Piece::Bytes(Bytes::from(rest)));
            self.pieces.push(Piece::End(summary));
        }
        Ok(())
    }
}

fn build_one<S: Source>(source: &S, settings: &Settings, part: Part, stop: bool) -> PartOutcome {
    let mut outcome = PartOutcome::default();
    let mut winners = match source.part(part.0, settings.duplicates) {
        Ok(winners) => winners,
        Err(error) => return PartOutcome { error: Some(error), ..outcome },
    };
    winners.purge(settings.as_of);
    outcome.counts.count(&winners);
    if winners.len() == 0 || stop || winners.clash.is_some() {
        return outcome;
    }
    let Settings { schema, profile, origin, .. } = settings;
    match build_part_of(schema, *profile, *origin, part, winners.hashes(), winners.records(), Vec::new()) {
        Ok((layout, data)) => outcome.image = Some(Image { layout, data }),
        Err(error) => outcome.error = Some(error.into()),
    }
    outcome
}

/// Adds records to a streamed part, and takes the bytes it has gathered if they are many.
pub(crate) fn push_streamed<'r>(
    streamed: &mut Streamed,
    records: impl Iterator<Item = RecordRef<'r>>,
) -> Result<Vec<u8>, BuildError> {
    for record in records {
        streamed.push(record)?;
    }
    let gathered = streamed.get_mut().pack_mut().get_mut();
    Ok(if gathered.len() >= WRITE_BYTES { std::mem::take(gathered) } else { Vec::new() })
}

/// Writes pieces to the store, one object per pack.
struct Output<'a> {
    store: &'a Store,
    attempt: &'a Attempt<'a>,
    writer: Option<Box<dyn ObjectWriter>>,
    /// Number of the next pack.
    next: u32,
    packs: Vec<PackRef>,
}

impl Output<'_> {
    async fn write(&mut self, pieces: Vec<Piece>) -> Result<(), AttemptError> {
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => {
                    let writer = match &mut self.writer {
                        Some(writer) => writer,
                        None => {
                            let writer = self.store.writer(&self.attempt.pack(self.next)).await?;
                            self.writer.insert(writer)
                        }
                    };
                    writer.write(bytes).await?;
                }
                Piece::End(summary) => {
                    if let Some(writer) = self.writer.take() {
                        writer.finish().await?;
                    }
                    let path = self.attempt.pack(self.next);
                    self.next += 1;
                    self.packs.push(PackRef { path, len: summary.len, tail_len: summary.tail_len });
                }
            }
        }
        Ok(())
    }

    /// Gives up the pack at work. Its number is not used again.
    async fn abandon(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.abort().await;
        }
        self.next += 1;
    }
}
