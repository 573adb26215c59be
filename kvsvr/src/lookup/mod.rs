//! Answers a packed request from the images at hand.
//!
//! ```text
//!   section ── table, image ── hash all keys ──▶ h, part
//!                               │ windows of 64 keys: ask for lines │ compare │ ask for records │ answer
//!                               └ records on SSD: see [`disk`]
//! ```
//!
//! The client sends keys, never hashes: what it computed is recomputed here. Whether a key is answered depends on
//! whether the image has its part, never on a topology generation: a part that is not here says nothing about its
//! keys. Time: what expired by `as_of` is absent in every form of the version; `expired` means later than that, by
//! `read_ts` (design: `as_of < expiry ≤ max(read_ts, as_of)`).

mod disk;
mod form;
mod pipeline;
mod prefetch;
mod probe;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod wide;

use std::sync::Arc;

use bytes::Bytes;
use fkv_formats::hash::{hash_bytes, hash_u64};
use fkv_formats::id::Part;
use fkv_formats::record::Key;
use fkv_formats::route::part_of;
use fkv_formats::schema::TableKind;
use fkv_rpc::packed::{
    DenseWriter, KeyStatus, Keys, ReplyHeader, ReplyTooLarge, ReplyWriter, Request, Section, SectionLabel,
    SectionStatus, VariableWriter, reply_section_bytes,
};

pub(crate) use self::disk::DiskReader;
use self::disk::{DiskAnswers, DiskLookup};
pub(crate) use self::form::Conversion;
use self::pipeline::Answer;
pub(crate) use self::pipeline::Batch;
pub(crate) use self::prefetch::{Level, prefetch_line};
use crate::image::{Entry, Image, Labelled, Pair, PartSet, Picture};
use crate::io::BLOCK_BYTES;

/// How far ahead of this server's clock `read_ts` may be.
const READ_TS_AHEAD_MS_MAX: u64 = 5 * 60 * 1000;
/// Most room set aside per value of varying length before the first is known.
const VALUE_BYTES_EXPECTED_MAX: u64 = 4096;

/// A request that reads no more than this of tables on SSD is computed where it came in: as much as one group of reads.
const LITTLE_BYTES: usize = 128 << 10;

/// What an answer depends on beside the images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answering {
    /// The server's clock.
    pub(crate) now_ms: u64,
    pub(crate) reply_bytes_max: usize,
}

/// Whether a request asks for tables whose records are on SSD: then it is for [`answer_reading`].
pub(crate) fn reads(request: &Request, picture: &Picture) -> bool {
    request.sections().any(|section| {
        let entry = picture.tables.get(&section.header.table);
        entry.is_some_and(|entry| entry.served.schema.kind != TableKind::Mem)
    })
}

/// Whether a request reads so little that computing its answer keeps nobody waiting. One record of varying length may
/// take megabytes.
pub(crate) fn reads_little(request: &Request, picture: &Picture) -> bool {
    let bytes = request.sections().try_fold(0_usize, |sum, section| {
        let Some(entry) = picture.tables.get(&section.header.table) else { return Some(sum) };
        let schema = &entry.served.schema;
        if schema.kind == TableKind::Mem {
            return Some(sum);
        }
        let each = schema.stored_width()?.max(BLOCK_BYTES);
        section.keys.len().checked_mul(each).and_then(|bytes| sum.checked_add(bytes))
    });
    bytes.is_some_and(|bytes| bytes <= LITTLE_BYTES)
}

/// The reply's body, where all tables asked for are in memory.
pub(crate) fn answer(request: &Request, picture: &Picture, answering: Answering) -> Bytes {
    let prepared = prepare_all(request, picture, answering);
    let nothing_read = prepared.iter().map(|_| None).collect();
    write(request, picture, answering, &prepared, nothing_read)
}

/// The reply's body, reading what is on SSD.
pub(crate) async fn answer_reading(
    request: &Request,
    picture: &Picture,
    answering: Answering,
    reader: &DiskReader,
) -> Bytes {
    let prepared = prepare_all(request, picture, answering);
    let mut read: Vec<Option<Result<DiskAnswers, SectionStatus>>> = Vec::with_capacity(prepared.len());
    // Stored floats may be twice as long as in the reply.
    let mut value_bytes_left = answering.reply_bytes_max.saturating_mul(2);
    // One section after the other: each has reads enough for a device.
    for (section, prepared) in request.sections().zip(&prepared) {
        let Some(ready) = prepared.disk() else {
            read.push(None);
            continue;
        };
        let answers = read_keys(reader, &section, &ready.held.image, read_ts_s(request), value_bytes_left).await;
        value_bytes_left -= answers.as_ref().map_or(0, DiskAnswers::value_bytes);
        read.push(Some(answers));
    }
    write(request, picture, answering, &prepared, read)
}

/// Reads what the keys of a section need, of an image whose records are on SSD.
pub(crate) async fn read_keys(
    reader: &DiskReader,
    section: &Section<'_>,
    image: &Image,
    read_ts_s: u32,
    value_bytes_max: usize,
) -> Result<DiskAnswers, SectionStatus> {
    let Some(base) = image.disk() else { return Err(SectionStatus::DataFault) };
    let hashes = hash(section.keys);
    let table = section.header.table;
    let lookup = DiskLookup { reader, table, image, base, hashes: &hashes, read_ts_s, value_bytes_max };
    lookup.run(key_of(section.keys)).await
}

/// A section whose image is chosen.
#[derive(Debug)]
struct Ready {
    /// One pair per section: whatever flips meanwhile, the section is of one content.
    pair: Arc<Pair>,
    held: Labelled,
    conversion: Conversion,
}

/// A section that can be answered, or why it cannot.
#[derive(Debug)]
enum Prepared {
    Ready(Box<Ready>),
    Refused(SectionLabel, SectionStatus),
}

impl Prepared {
    /// The section, if its records are on SSD.
    fn disk(&self) -> Option<&Ready> {
        match self {
            Self::Ready(ready) => ready.held.image.disk().is_some().then_some(ready.as_ref()),
            Self::Refused(..) => None,
        }
    }
}

fn read_ts_s(request: &Request) -> u32 {
    u32::try_from(request.header().read_ts_ms / 1000).unwrap_or(u32::MAX)
}

fn prepare_all(request: &Request, picture: &Picture, answering: Answering) -> Vec<Prepared> {
    let asked = request.header();
    let too_far_ahead = asked.read_ts_ms > answering.now_ms.saturating_add(READ_TS_AHEAD_MS_MAX);
    let sections = request.sections().map(|section| {
        let table = section.header.table;
        let entry = picture.tables.get(&table);
        if too_far_ahead {
            let pair = entry.map(|entry| entry.served.pair());
            let label = pair.map_or(SectionLabel::unknown(table), |pair| pair.label(table, None));
            return Prepared::Refused(label, SectionStatus::ReadTsAhead);
        }
        match entry {
            Some(entry) => prepare(&section, entry, picture, asked.canary),
            None => Prepared::Refused(SectionLabel::unknown(table), SectionStatus::UnknownTable),
        }
    });
    sections.collect()
}

fn prepare(section: &Section<'_>, entry: &Entry, picture: &Picture, canary: bool) -> Prepared {
    let table = section.header.table;
    let pair = entry.served.pair();
    let refuse = |pair: &Pair, status| Prepared::Refused(pair.label(table, None), status);
    if section.keys.key_type() != entry.served.schema.key {
        return refuse(&pair, SectionStatus::WrongKeyType);
    }
    let conversion = match Conversion::new(&entry.served.schema, section.header.form) {
        Ok(conversion) => conversion,
        Err(status) => return refuse(&pair, status),
    };
    let held = match pair.select(section.header.selector, canary) {
        Ok(held) => held.clone(),
        Err(status) => {
            let is_ours = ours(&picture.owned, section.keys);
            return refuse(&pair, if is_ours { status } else { SectionStatus::WrongTopology });
        }
    };
    match nothing_here(&held.image, &picture.owned, section.keys) {
        Some(status) => refuse(&pair, status),
        None => Prepared::Ready(Box::new(Ready { pair, held, conversion })),
    }
}

/// Writes the reply. `read` has, for each section, what was read for it, if its records are on SSD.
fn write(
    request: &Request,
    picture: &Picture,
    answering: Answering,
    prepared: &[Prepared],
    read: Vec<Option<Result<DiskAnswers, SectionStatus>>>,
) -> Bytes {
    let header = ReplyHeader { generation: picture.topology.generation, server_ms: answering.now_ms };
    let capacity = request.sections().map(|section| expected_bytes(&section, picture)).sum();
    let mut writer = ReplyWriter::new(header, capacity, answering.reply_bytes_max);
    let read_ts_s = read_ts_s(request);
    for ((section, prepared), read) in request.sections().zip(prepared).zip(read) {
        match (prepared, read) {
            (Prepared::Refused(label, status), _) => writer.refuse(*label, *status),
            (Prepared::Ready(ready), read) => write_section(&mut writer, &section, ready, read, read_ts_s),
        }
    }
    writer.finish()
}

fn expected_bytes(section: &Section<'_>, picture: &Picture) -> usize {
    let Some(entry) = picture.tables.get(&section.header.table) else { return reply_section_bytes_refused() };
    let keys = section.keys.len();
    match Conversion::new(&entry.served.schema, section.header.form) {
        Ok(conversion) => conversion.reply_bytes(keys, value_bytes_expected(entry)),
        Err(_) => reply_section_bytes_refused(),
    }
}

/// The mean size of a record, so that a reply of varying values seldom has to grow.
fn value_bytes_expected(entry: &Entry) -> usize {
    let pair = entry.served.pair();
    let Some(serving) = &pair.serving else { return 0 };
    let mean = serving.image.memory_bytes().div_ceil(serving.image.records().max(1));
    usize::try_from(mean.min(VALUE_BYTES_EXPECTED_MAX)).unwrap_or(0)
}

/// A refused section is one without keys.
const fn reply_section_bytes_refused() -> usize {
    reply_section_bytes(fkv_formats::schema::ValueType::Bytes, 0)
}

fn write_section(
    writer: &mut ReplyWriter,
    section: &Section<'_>,
    ready: &Ready,
    read: Option<Result<DiskAnswers, SectionStatus>>,
    read_ts_s: u32,
) {
    let Ready { pair, held, conversion, .. } = ready;
    let table = section.header.table;
    let label = pair.label(table, Some(held));
    let written = match read {
        Some(Ok(answers)) => put_read(writer, label, &answers, *conversion),
        Some(Err(status)) => return writer.refuse(pair.label(table, None), status),
        None => {
            let image = held.image.as_ref();
            let batch = Batch { image, keys: section.keys, as_of: image.as_of(), read_ts_s };
            answer_keys(writer, label, batch, *conversion)
        }
    };
    if written.is_err() {
        writer.refuse(pair.label(table, None), SectionStatus::ReplyTooLarge);
    }
}

/// Answers all keys of a section, or refuses it if that fails on the way; an error leaves nothing in the reply.
pub(crate) fn answer_keys(
    writer: &mut ReplyWriter,
    label: SectionLabel,
    batch: Batch<'_>,
    conversion: Conversion,
) -> Result<(), ReplyTooLarge> {
    if let Some(width) = conversion.reply_type.fixed_width() {
        let mut dense = writer.dense(label, conversion.reply_type, batch.keys.len())?;
        let outcome = if conversion.copies() && batch.is_plain(width) {
            batch.fill(&mut dense)
        } else {
            batch.run(|answer| put_dense(&mut dense, conversion, answer))
        };
        match outcome {
            Ok(()) => dense.finish(),
            Err(status) => dense.refuse(status),
        }
    } else {
        let mut variable = writer.variable(label, batch.keys.len())?;
        let outcome = batch.run(|answer| put_variable(&mut variable, answer));
        match outcome {
            Ok(()) => variable.finish(),
            Err(status) => variable.refuse(status),
        }
    }
    Ok(())
}

/// As [`answer_keys`], from answers that were read.
pub(crate) fn put_read(
    writer: &mut ReplyWriter,
    label: SectionLabel,
    answers: &DiskAnswers,
    conversion: Conversion,
) -> Result<(), ReplyTooLarge> {
    if conversion.reply_type.fixed_width().is_some() {
        let mut dense = writer.dense(label, conversion.reply_type, answers.len())?;
        match answers.iter().try_for_each(|answer| put_dense(&mut dense, conversion, answer)) {
            Ok(()) => dense.finish(),
            Err(status) => dense.refuse(status),
        }
    } else {
        let mut variable = writer.variable(label, answers.len())?;
        match answers.iter().try_for_each(|answer| put_variable(&mut variable, answer)) {
            Ok(()) => variable.finish(),
            Err(status) => variable.refuse(status),
        }
    }
    Ok(())
}

#[inline(always)]
fn put_dense(dense: &mut DenseWriter<'_>, conversion: Conversion, answer: Answer<'_>) -> Result<(), SectionStatus> {
    match answer {
        Answer::Found(stored) if conversion.fill(stored, dense.found()) => Ok(()),
        Answer::Found(_) => Err(SectionStatus::DataFault),
        Answer::Missing(status) => {
            dense.missing(status);
            Ok(())
        }
    }
}

#[inline(always)]
fn put_variable(variable: &mut VariableWriter<'_>, answer: Answer<'_>) -> Result<(), SectionStatus> {
    match answer {
        Answer::Found(stored) => variable.found(stored).map_err(|_| SectionStatus::ReplyTooLarge),
        Answer::Missing(status) => {
            variable.missing(status);
            Ok(())
        }
    }
}

/// The keys of a section by their index.
fn key_of<'k>(keys: Keys<'k>) -> impl Fn(usize) -> Key<'k> {
    move |index| match keys {
        Keys::U64(keys) => Key::U64(keys.get(index)),
        Keys::Bytes(keys) => Key::Bytes(keys.get(index)),
    }
}

/// The parts of all keys.
fn parts(keys: Keys<'_>) -> impl Iterator<Item = Part> {
    let (numbers, names) = match keys {
        Keys::U64(keys) => (Some(keys), None),
        Keys::Bytes(keys) => (None, Some(keys)),
    };
    let numbers = numbers.into_iter().flat_map(|keys| keys.iter().map(hash_u64));
    numbers.chain(names.into_iter().flat_map(|keys| keys.iter().map(hash_bytes))).map(part_of)
}

/// The hashes of all keys.
fn hash(keys: Keys<'_>) -> Vec<u64> {
    match keys {
        Keys::U64(keys) => keys.iter().map(hash_u64).collect(),
        Keys::Bytes(keys) => keys.iter().map(hash_bytes).collect(),
    }
}

/// Why not one of the keys can be answered, if that is so.
fn nothing_here(image: &Image, owned: &PartSet, keys: Keys<'_>) -> Option<SectionStatus> {
    if keys.is_empty() || parts(keys).any(|part| image.parts().contains(part)) {
        return None;
    }
    Some(if ours(owned, keys) { SectionStatus::NotLoaded } else { SectionStatus::WrongTopology })
}

/// Whether one of the keys may rightly be asked for here; without keys, whether any may.
fn ours(owned: &PartSet, keys: Keys<'_>) -> bool {
    if keys.is_empty() { !owned.is_empty() } else { parts(keys).any(|part| owned.contains(part)) }
}

/// The status of a key whose part is not here.
const NOT_HERE: Answer<'static> = Answer::Missing(KeyStatus::NotHere);
