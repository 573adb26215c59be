//! Parts ─▶ packs: a batch of parts is built in parallel while the batch before it is written.
//!
//! ```text
//!   cpu pool   build parts 0..n │ build n..2n │ …          each part: gather, sort, build its image
//!                      append in order ─▶ pack bytes
//!   store                       write 0..n  │ write n..2n │ …
//! ```
//!
//! Packs are cut where one reaches its size, behind a whole part: where they are cut depends on part sizes alone.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fkv_env::Env;
use fkv_formats::checksum::Origin;
use fkv_formats::error::BuildError;
use fkv_formats::id::{PART_COUNT, Part};
use fkv_formats::pack::{PackSummary, PackWriter};
use fkv_formats::path::Attempt;
use fkv_formats::record::RecordRef;
use fkv_formats::schema::Schema;
use fkv_formats::table::{PartLayout, Profile, build_part};
use fkv_meta::record::Duplicates;
use fkv_store::{ObjectWriter, Store};

use super::output::PackRef;
use super::part::{Clash, PartRows};
use super::scatter::Run;
use crate::budget::{Budget, Charge};
use crate::error::AttemptError;
use crate::input::error::InputError;

/// Bytes of part images built in one batch, about.
const BATCH_BYTES: u64 = 64 << 20;
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

/// What was built.
#[derive(Debug, Default)]
pub(crate) struct Built {
    pub(crate) packs: Vec<PackRef>,
    pub(crate) records: u64,
    pub(crate) duplicates: u64,
    pub(crate) expired: u64,
    /// Set if duplicates are an error and there were some; the packs are then incomplete.
    pub(crate) clash: Option<Clash>,
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
    records: u64,
    duplicates: u64,
    expired: u64,
    clash: Option<Clash>,
    error: Option<BuildError>,
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
    runs: Arc<Vec<Run>>,
    built: Built,
    pack: Option<PackWriter<Vec<u8>>>,
    pieces: Vec<Piece>,
    charge: Charge,
}

/// Builds all parts of `runs` and writes them to packs in the attempt's place.
pub(crate) async fn write(
    env: &Env,
    store: &Store,
    attempt: &Attempt<'_>,
    settings: Settings,
    runs: Vec<Run>,
    budget: &Budget,
) -> Result<Built, AttemptError> {
    let held: u64 = runs.iter().map(|run| run.bytes() as u64).sum();
    let per_part = (held / u64::from(PART_COUNT)).max(1);
    let cores = env.cpu.parallelism() as u64;
    let batch = u16::try_from((BATCH_BYTES / per_part).clamp(cores, 256)).unwrap_or(256);
    let mut packer = Packer {
        settings,
        runs: Arc::new(runs),
        built: Built::default(),
        pack: None,
        pieces: Vec::new(),
        charge: budget.charge("building parts"),
    };
    let mut out = Output { store, attempt, writer: None, packs: Vec::new() };
    let mut first = 0;
    let mut pieces = Vec::new();
    while first < PART_COUNT {
        let last = PART_COUNT.min(first.saturating_add(batch));
        let pool = env.clone();
        let build = env.compute(move || packer.build(&pool, first, last).map(|()| packer));
        let (built, written) = futures::future::join(build, out.write(std::mem::take(&mut pieces))).await;
        written?;
        packer = built??;
        pieces = std::mem::take(&mut packer.pieces);
        first = last;
    }
    let (built, finished) = env.compute(move || packer.finish()).await??;
    pieces.extend(finished);
    out.write(pieces).await?;
    Ok(Built { packs: out.packs, ..built })
}

impl Packer {
    /// Builds the parts `first..last` and appends them.
    fn build(&mut self, env: &Env, first: u16, last: u16) -> Result<(), AttemptError> {
        let count = usize::from(last - first);
        let outcomes: Vec<Mutex<PartOutcome>> = (0..count).map(|_| Mutex::default()).collect();
        let (runs, settings, stop) = (&self.runs, &self.settings, self.built.clash.is_some());
        env.cpu.for_each(count, &|at| {
            let part = first + u16::try_from(at).expect("a batch has at most 2400 parts");
            let outcome = build_one(runs, settings, Part(part), stop);
            *outcomes[at].lock().unwrap_or_else(PoisonError::into_inner) = outcome;
        });
        let mut bytes = 0;
        for (part, outcome) in (first..last).zip(outcomes) {
            let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Some(error) = outcome.error {
                return Err(error.into());
            }
            self.built.records += outcome.records;
            self.built.duplicates += outcome.duplicates;
            self.built.expired += outcome.expired;
            self.built.clash = self.built.clash.take().into_iter().chain(outcome.clash).min();
            if let Some(image) = outcome.image {
                bytes += image.data.len() as u64;
                self.append(Part(part), &image)?;
            }
        }
        // The images and the pieces waiting for the store; the batch before is being written meanwhile.
        self.charge.set(bytes * 3).map_err(InputError::from)?;
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

    fn finish(mut self) -> Result<(Built, Vec<Piece>), AttemptError> {
        if self.built.clash.is_none() {
            self.end_pack()?;
        }
        Ok((self.built, self.pieces))
    }
}

fn build_one(runs: &[Run], settings: &Settings, part: Part, stop: bool) -> PartOutcome {
    let rows = PartRows::of(runs, part.0, settings.duplicates, settings.as_of);
    let mut outcome = PartOutcome {
        records: rows.len(),
        duplicates: rows.duplicates,
        expired: rows.expired,
        clash: rows.clash.clone(),
        ..PartOutcome::default()
    };
    if rows.len() == 0 || stop || rows.clash.is_some() {
        return outcome;
    }
    let records: Vec<RecordRef<'_>> = rows.records().collect();
    match build_part(&settings.schema, settings.profile, settings.origin, part, &records, Vec::new()) {
        Ok((layout, data)) => outcome.image = Some(Image { layout, data }),
        Err(error) => outcome.error = Some(error),
    }
    outcome
}

/// Writes pieces to the store, one object per pack.
struct Output<'a> {
    store: &'a Store,
    attempt: &'a Attempt<'a>,
    writer: Option<Box<dyn ObjectWriter>>,
    packs: Vec<PackRef>,
}

impl Output<'_> {
    fn path(&self) -> String {
        self.attempt.pack(u32::try_from(self.packs.len()).unwrap_or(u32::MAX))
    }

    async fn write(&mut self, pieces: Vec<Piece>) -> Result<(), AttemptError> {
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => {
                    let writer = match &mut self.writer {
                        Some(writer) => writer,
                        None => {
                            let writer = self.store.writer(&self.path()).await?;
                            self.writer.insert(writer)
                        }
                    };
                    writer.write(bytes).await?;
                }
                Piece::End(summary) => {
                    if let Some(writer) = self.writer.take() {
                        writer.finish().await?;
                    }
                    let path = self.path();
                    self.packs.push(PackRef { path, len: summary.len, tail_len: summary.tail_len });
                }
            }
        }
        Ok(())
    }
}
