//! Runs ─▶ a slice: a batch of parts is sorted and encoded in parallel while the batch before it is written.
//!
//! ```text
//!   cpu pool   encode parts 0..n │ encode n..2n │ …        each part: gather, sort, one row per key, chunks
//!                      append in order ─▶ slice bytes
//!   store                        write 0..n  │ write n..2n │ …
//! ```

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fkv_env::Env;
use fkv_formats::id::{PART_COUNT, Part};
use fkv_formats::slice::{EncodedPart, SliceId, SliceRecord, SliceSpec, SliceWriter, encode_part};
use fkv_meta::record::Duplicates;

use crate::build::output::SliceRef;
use crate::build::part::{Clash, RunRows, Winners};
use crate::build::scatter::Run;
use crate::error::AttemptError;
use crate::job::JobContext;

/// Bytes of rows encoded in one batch, about.
const BATCH_BYTES: u64 = 32 << 20;
/// Bytes handed to the store at once.
const WRITE_BYTES: usize = 8 << 20;

/// A slice that was written, or a piece of one.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) slice: SliceRef,
    /// Rows that another row with the same key replaced.
    pub(super) duplicates: u64,
    /// Set if duplicates are an error and there were some; the slice is then of no use.
    pub(super) clash: Option<Clash>,
}

/// One part, encoded.
struct PartOutcome {
    encoded: Result<EncodedPart, AttemptError>,
    duplicates: u64,
    clash: Option<Clash>,
}

/// A slice in the making; moves between the pool's threads with each batch.
struct Encoder {
    runs: Arc<Vec<Run>>,
    id: SliceId,
    spec: SliceSpec,
    policy: Duplicates,
    writer: SliceWriter<Vec<u8>>,
    duplicates: u64,
    clash: Option<Clash>,
}

/// Sorts `runs` and writes them as the slice `id`, in the attempt's place.
pub(super) async fn write(
    job: &JobContext<'_>,
    id: SliceId,
    spec: &SliceSpec,
    runs: Vec<Run>,
) -> Result<Written, AttemptError> {
    let held: u64 = runs.iter().map(|run| run.bytes() as u64).sum();
    let per_part = (held / u64::from(PART_COUNT)).max(1);
    let (cores, bytes) = (job.env.cpu.parallelism() as u64, BATCH_BYTES.min(job.budget.limit() / 32));
    let batch = u16::try_from((bytes / per_part).clamp(cores, 256)).unwrap_or(256);
    let mut encoder = Encoder {
        runs: Arc::new(runs),
        id,
        spec: spec.clone(),
        policy: job.spec.duplicates,
        writer: SliceWriter::new(Vec::new(), id, spec)?,
        duplicates: 0,
        clash: None,
    };
    let path = job.attempt.slice(id.piece);
    let mut out = job.store.writer(&path).await?;
    let (mut first, mut ready) = (0, Bytes::new());
    while first < PART_COUNT {
        let parts = first..PART_COUNT.min(first.saturating_add(batch));
        first = parts.end;
        let pool = job.env.clone();
        let encode = job.env.compute(move || encoder.encode(&pool, parts).map(|()| encoder));
        let write = async { if ready.is_empty() { Ok(()) } else { out.write(std::mem::take(&mut ready)).await } };
        let (encoded, written) = futures::future::join(encode, write).await;
        written?;
        encoder = encoded??;
        if encoder.writer.get_mut().len() >= WRITE_BYTES {
            ready = Bytes::from(std::mem::take(encoder.writer.get_mut()));
        }
    }
    let Encoder { writer, duplicates, clash, .. } = encoder;
    let (summary, rest) = writer.finish()?;
    let slice = SliceRef { path, len: summary.len, records: summary.directory.records() };
    if clash.is_some() {
        out.abort().await;
        return Ok(Written { slice, duplicates, clash });
    }
    for bytes in [ready, Bytes::from(rest)] {
        if !bytes.is_empty() {
            out.write(bytes).await?;
        }
    }
    out.finish().await?;
    Ok(Written { slice, duplicates, clash })
}

impl Encoder {
    /// Encodes parts and appends them.
    fn encode(&mut self, env: &Env, parts: Range<u16>) -> Result<(), AttemptError> {
        let outcomes: Vec<Mutex<Option<PartOutcome>>> = parts.clone().map(|_| Mutex::default()).collect();
        let (encoder, first) = (&*self, parts.start);
        env.cpu.for_each(outcomes.len(), &|at| {
            let part = first + u16::try_from(at).expect("a batch has at most 2400 parts");
            *outcomes[at].lock().unwrap_or_else(PoisonError::into_inner) = encoder.encode_one(Part(part));
        });
        for outcome in outcomes {
            let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
            let Some(PartOutcome { encoded, duplicates, clash }) = outcome else { continue };
            self.duplicates += duplicates;
            self.clash = self.clash.take().into_iter().chain(clash).min();
            self.writer.append(&encoded?)?;
        }
        Ok(())
    }

    /// One part; `None` if it has no rows.
    fn encode_one(&self, part: Part) -> Option<PartOutcome> {
        let schema = &self.spec.schema;
        let (rows, entries) = RunRows::gather(&self.runs, part.0, schema.key, schema.ttl || self.spec.tombstones);
        if entries.is_empty() {
            return None;
        }
        let winners = Winners::of(rows, entries, self.policy);
        let records = winners.ordinals().map(|ordinal| SliceRecord {
            record: winners.rows.run_record(ordinal),
            place: if self.spec.places { winners.rows.row_place(ordinal) } else { 0 },
        });
        let encoded = encode_part(self.id, &self.spec, part, records).map_err(AttemptError::from);
        let (duplicates, clash) = (winners.duplicates, winners.clash.clone());
        Some(PartOutcome { encoded, duplicates, clash })
    }
}
