//! Answers a packed request from the images at hand.
//!
//! ```text
//!   section ── table, image ── hash all keys ──▶ h, part
//!                               │ windows of 64 keys: ask for lines │ compare │ ask for records │ answer
//! ```
//!
//! The client sends keys, never hashes: what it computed is recomputed here. Whether a key is answered depends on
//! whether the image has its part, never on a topology generation: a part that is not here says nothing about its
//! keys. Time: what expired by `as_of` is absent in every form of the version; `expired` means later than that, by
//! `read_ts` (design: `as_of < expiry ≤ max(read_ts, as_of)`).

mod form;
mod pipeline;
mod prefetch;
mod probe;

pub(crate) use self::prefetch::prefetch_line;
use bytes::Bytes;
use fkv_formats::hash::{hash_bytes, hash_u64};
use fkv_formats::id::Part;
use fkv_formats::route::part_of;
use fkv_rpc::packed::{
    KeyStatus, Keys, ReplyHeader, ReplyTooLarge, ReplyWriter, Request, Section, SectionLabel, SectionStatus,
    reply_section_bytes,
};

pub(crate) use self::form::Conversion;
use self::pipeline::Answer;
pub(crate) use self::pipeline::Batch;
use crate::image::{Entry, Image, PartSet, Picture};

/// How far ahead of this server's clock `read_ts` may be.
const READ_TS_AHEAD_MS_MAX: u64 = 5 * 60 * 1000;
/// Most room set aside per value of varying length before the first is known.
const VALUE_BYTES_EXPECTED_MAX: u64 = 4096;

/// What an answer depends on beside the images.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answering {
    /// The server's clock.
    pub(crate) now_ms: u64,
    pub(crate) reply_bytes_max: usize,
}

/// The reply's body.
pub(crate) fn answer(request: &Request, picture: &Picture, answering: Answering) -> Bytes {
    let header = ReplyHeader { generation: picture.topology.generation, server_ms: answering.now_ms };
    let capacity = request.sections().map(|section| expected_bytes(&section, picture)).sum();
    let mut writer = ReplyWriter::new(header, capacity, answering.reply_bytes_max);
    let asked = request.header();
    for section in request.sections() {
        let table = section.header.table;
        if asked.read_ts_ms > answering.now_ms.saturating_add(READ_TS_AHEAD_MS_MAX) {
            let pair = picture.tables.get(&table).map(|entry| entry.served.pair());
            let label = pair.map_or(SectionLabel::unknown(table), |pair| pair.label(table, None));
            writer.refuse(label, SectionStatus::ReadTsAhead);
            continue;
        }
        let read_ts_s = u32::try_from(asked.read_ts_ms / 1000).unwrap_or(u32::MAX);
        match picture.tables.get(&table) {
            Some(entry) => answer_section(&mut writer, &section, entry, picture, asked.canary, read_ts_s),
            None => writer.refuse(SectionLabel::unknown(table), SectionStatus::UnknownTable),
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

fn answer_section(
    writer: &mut ReplyWriter,
    section: &Section<'_>,
    entry: &Entry,
    picture: &Picture,
    canary: bool,
    read_ts_s: u32,
) {
    let table = section.header.table;
    // One pair per section: whatever flips meanwhile, the section is of one content.
    let pair = entry.served.pair();
    let refuse = |writer: &mut ReplyWriter, status| writer.refuse(pair.label(table, None), status);
    if section.keys.key_type() != entry.served.schema.key {
        return refuse(writer, SectionStatus::WrongKeyType);
    }
    let conversion = match Conversion::new(&entry.served.schema, section.header.form) {
        Ok(conversion) => conversion,
        Err(status) => return refuse(writer, status),
    };
    let keys = section.keys;
    let held = match pair.select(section.header.selector, canary) {
        Ok(held) => held,
        Err(status) => {
            return refuse(writer, if ours(&picture.owned, keys) { status } else { SectionStatus::WrongTopology });
        }
    };
    let image = held.image.as_ref();
    if let Some(status) = nothing_here(image, &picture.owned, keys) {
        return refuse(writer, status);
    }
    let batch = Batch { image, keys, as_of: image.as_of(), read_ts_s };
    if answer_keys(writer, pair.label(table, Some(held)), batch, conversion).is_err() {
        refuse(writer, SectionStatus::ReplyTooLarge);
    }
}

/// Answers all keys of a section, or refuses it if that fails on the way; an error leaves nothing in the reply.
pub(crate) fn answer_keys(
    writer: &mut ReplyWriter,
    label: SectionLabel,
    batch: Batch<'_>,
    conversion: Conversion,
) -> Result<(), ReplyTooLarge> {
    if conversion.reply_type.fixed_width().is_some() {
        let mut dense = writer.dense(label, conversion.reply_type, batch.keys.len())?;
        let width = conversion.reply_type.fixed_width().filter(|width| conversion.copies() && batch.is_plain(*width));
        let outcome = if width.is_some() {
            batch.fill(&mut dense)
        } else {
            batch.run(|answer| match answer {
                Answer::Found(stored) if conversion.fill(stored, dense.found()) => Ok(()),
                Answer::Found(_) => Err(SectionStatus::DataFault),
                Answer::Missing(status) => {
                    dense.missing(status);
                    Ok(())
                }
            })
        };
        match outcome {
            Ok(()) => dense.finish(),
            Err(status) => dense.refuse(status),
        }
    } else {
        let mut variable = writer.variable(label, batch.keys.len())?;
        let outcome = batch.run(|answer| match answer {
            Answer::Found(stored) => variable.found(stored).map_err(|_| SectionStatus::ReplyTooLarge),
            Answer::Missing(status) => {
                variable.missing(status);
                Ok(())
            }
        });
        match outcome {
            Ok(()) => variable.finish(),
            Err(status) => variable.refuse(status),
        }
    }
    Ok(())
}

/// Whether the CPU has the wide instructions that lookups use where they can.
#[inline]
fn is_wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512vbmi")
            && std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("bmi2")
            && std::arch::is_x86_feature_detected!("lzcnt")
            && std::arch::is_x86_feature_detected!("popcnt")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
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
