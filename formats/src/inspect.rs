//! Looking into stored files: what `fkv inspect` prints.

use crate::checksum::verify_part;
use crate::error::FormatError;
use crate::id::Part;
use crate::manifest::{self, Form};
use crate::pack::{self, DirectoryRead, PackDirectory, PackPart};
use crate::record::{Key, RecordRef};
use crate::table::disk::BlockRead;
use crate::table::mem::MemLayout;
use crate::table::{PartLayout, PartRecords, blk};
use crate::value::{Value, ValueCodec, ValueError};

/// What a file turned out to be.
#[derive(Clone, Debug)]
pub enum Inspection {
    /// A pack.
    Pack(PackInspection),
    /// A form.
    Form(Form),
}

/// A pack, looked through from end to end.
#[derive(Clone, Debug)]
pub struct PackInspection {
    /// Its directory.
    pub directory: PackDirectory,
    /// Its parts, in order.
    pub parts: Vec<PartInspection>,
    /// What is wrong with the bytes outside of parts and directory, which no reader needs.
    pub gap_damage: Option<FormatError>,
}

/// A part of a pack.
#[derive(Clone, Debug)]
pub struct PartInspection {
    /// The part.
    pub part: Part,
    /// Its layout, if its header can be read.
    pub layout: Option<PartLayout>,
    /// Records per slot of the index lines, 0 to 1; 0 for a blk part, which has none.
    pub load: f64,
    /// How many records lie, or have their entry, 0, 1, 2 … lines from home; none of a blk part.
    pub displacement: Vec<u64>,
    /// Its blocks; none of a memory part.
    pub blocks: BlockCounts,
    /// The first records.
    pub first: Vec<SampleRecord>,
    /// What is wrong with the part, if anything.
    pub damage: Option<FormatError>,
}

/// What the blocks of a part hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockCounts {
    /// Blocks.
    pub blocks: u64,
    /// Runs, of one block or several.
    pub runs: u64,
    /// Runs of several blocks.
    pub long_runs: u64,
    /// Bytes of keys, values and expiry times, as stored.
    pub record_bytes: u64,
    /// Records that a lookup finds only in the second run it reads, or a later one.
    pub second_reads: u64,
}

/// A record for people.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleRecord {
    /// The hash of the key.
    pub h: u64,
    /// The key.
    pub key: SampleKey,
    /// Unix second at which it expires; 0 for never.
    pub expiry: u32,
    /// The value as clients see it.
    pub value: Value,
}

/// A key that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleKey {
    /// A 64-bit integer.
    U64(u64),
    /// A byte string.
    Bytes(Vec<u8>),
}

/// How many records of a part are shown.
const FIRST_RECORDS: usize = 5;

/// Reads a whole pack or form and verifies every checksum in it. Damage inside a part of a pack is told with that part;
/// an error is what makes the file as a whole unreadable.
///
/// # Errors
/// `Magic` if this is neither; otherwise what is wrong with the form, or with the directory of the pack.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, FormatError> {
    if bytes.starts_with(&manifest::MAGIC) {
        return Form::decode(bytes).map(Inspection::Form);
    }
    if !bytes.starts_with(&pack::MAGIC) {
        return Err(FormatError::Magic { what: "pack or form" });
    }
    if let Some(first) = bytes.first_chunk() {
        pack::check_magic(*first)?;
    }
    match PackDirectory::parse(bytes, bytes.len() as u64)? {
        DirectoryRead::Ready(directory) => {
            let parts = directory.parts.iter().map(|part| inspect_part(bytes, &directory, part)).collect();
            let gap_damage = directory.verify_gaps(bytes).err();
            Ok(Inspection::Pack(PackInspection { directory, parts, gap_damage }))
        }
        DirectoryRead::NeedTail(needed) => {
            Err(FormatError::Truncated { what: "pack", needed, found: bytes.len() as u64 })
        }
    }
}

impl PackInspection {
    /// Whether nothing is wrong, with any part or between them.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.gap_damage.is_none() && self.parts.iter().all(|part| part.damage.is_none())
    }

    /// Records of all parts.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.directory.parts.iter().map(PackPart::records).fold(0, u64::saturating_add)
    }

    /// Bytes of the data of all parts.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.directory.parts.iter().map(PackPart::len).fold(0, u64::saturating_add)
    }

    /// How many records of all parts lie 0, 1, 2 … lines from home.
    #[must_use]
    pub fn displacement(&self) -> Vec<u64> {
        let mut all = Vec::new();
        for part in &self.parts {
            all.resize(part.displacement.len().max(all.len()), 0);
            for (sum, count) in all.iter_mut().zip(&part.displacement) {
                *sum += count;
            }
        }
        all
    }
}

fn inspect_part(object: &[u8], directory: &PackDirectory, entry: &PackPart) -> PartInspection {
    let mut seen = PartInspection {
        part: entry.part,
        layout: None,
        load: 0.0,
        displacement: Vec::new(),
        blocks: BlockCounts::default(),
        first: Vec::new(),
        damage: None,
    };
    seen.damage = look_through(object, directory, entry, &mut seen).err();
    seen
}

fn look_through(
    object: &[u8],
    directory: &PackDirectory,
    entry: &PackPart,
    seen: &mut PartInspection,
) -> Result<(), FormatError> {
    let layout = entry.layout()?;
    seen.layout = Some(layout);
    let slots = match &layout {
        PartLayout::Mem(layout) => u64::from(layout.lines()) * u64::from(layout.slots()),
        PartLayout::Idx(layout) => u64::from(layout.lines()) * u64::from(layout.slots()),
        PartLayout::Blk(_) => u64::MAX,
    };
    seen.load = if slots == u64::MAX { 0.0 } else { layout.records() as f64 / slots as f64 };
    layout.matches(&directory.schema)?;
    let missing = FormatError::Truncated { what: "pack", needed: entry.range().end, found: object.len() as u64 };
    let place = |offset| usize::try_from(offset).unwrap_or(usize::MAX);
    let data = object.get(place(entry.range().start)..place(entry.range().end)).ok_or(missing)?;
    // What can be read of a damaged part is shown all the same.
    let verified = verify_part(data, entry, directory.origin);
    verified.and(look_at_records(data, &layout, directory, entry.part, seen))
}

/// Reads all records of a part, and asks its index for each.
fn look_at_records(
    data: &[u8],
    layout: &PartLayout,
    directory: &PackDirectory,
    part: Part,
    seen: &mut PartInspection,
) -> Result<(), FormatError> {
    let codec = ValueCodec::new(&directory.schema);
    let resident = data.get(usize::try_from(layout.block_len()).unwrap_or(usize::MAX)..).unwrap_or_default();
    let mut records = layout.iter(data, part, directory.origin);
    let mut run = None;
    while let Some(record) = records.next() {
        let record = record?;
        let displacement = match (&records, layout) {
            (PartRecords::Mem(records), PartLayout::Mem(layout)) => {
                check_slot(layout, data, &record)?;
                Some(records.displacement())
            }
            (PartRecords::Mem(_), _) => None,
            (PartRecords::Disk(records), layout) => {
                let begins = run.replace(records.place()) != Some(records.place());
                count_record(&mut seen.blocks, &records.place(), begins, &record, layout);
                check_entry(layout, resident, &record, records.place(), begins, &mut seen.blocks)?
            }
        };
        if let Some(displacement) = displacement {
            let displacement = displacement as usize;
            if seen.displacement.len() <= displacement {
                seen.displacement.resize(displacement + 1, 0);
            }
            seen.displacement[displacement] += 1;
        }
        if seen.first.len() < FIRST_RECORDS {
            let value = served(codec, record.value.unwrap_or_default())
                .map_err(|error| FormatError::damaged("value", error.to_string()))?;
            let key = match record.key {
                Key::U64(key) => SampleKey::U64(key),
                Key::Bytes(key) => SampleKey::Bytes(key.to_vec()),
            };
            seen.first.push(SampleRecord { h: record.h, key, expiry: record.expiry, value });
        }
    }
    let is_consistent = match layout {
        PartLayout::Mem(_) => true,
        PartLayout::Idx(layout) => layout.entries(resident) == Some(layout.records()),
        PartLayout::Blk(layout) => layout.is_consistent(resident),
    };
    if is_consistent {
        return Ok(());
    }
    Err(FormatError::damaged("resident section", format!("that of part {part} contradicts itself")))
}

fn count_record(
    counts: &mut BlockCounts,
    place: &BlockRead,
    begins: bool,
    record: &RecordRef<'_>,
    layout: &PartLayout,
) {
    if begins {
        counts.runs += 1;
        counts.long_runs += u64::from(place.blocks > 1);
        counts.blocks += u64::from(place.blocks);
    }
    counts.record_bytes += layout.record_spec().map_or(0, |spec| spec.record_len(record) as u64);
}

/// Checks that a lookup in a memory part finds a record where it was listed.
fn check_slot(layout: &MemLayout, data: &[u8], record: &RecordRef<'_>) -> Result<(), FormatError> {
    let found = layout.find(data, record.h, record.key);
    if found.is_some_and(|found| (Some(found.value), found.expiry) == (record.value, record.expiry)) {
        return Ok(());
    }
    Err(FormatError::damaged("index", format!("the record with hash {:016x}: no lookup finds it", record.h)))
}

/// Checks that the index leads to the run that has a record; gives how many lines from home the entry lies, if there are
/// lines.
fn check_entry(
    layout: &PartLayout,
    resident: &[u8],
    record: &RecordRef<'_>,
    place: BlockRead,
    begins: bool,
    counts: &mut BlockCounts,
) -> Result<Option<u32>, FormatError> {
    let lost = |reason: &str| {
        FormatError::damaged("resident section", format!("the record with hash {:016x}: {reason}", record.h))
    };
    match layout {
        PartLayout::Mem(_) => Ok(None),
        PartLayout::Idx(layout) => {
            let mut candidate = layout.locate(resident, record.h);
            while let Some(other) = candidate.filter(|other| other.read != place) {
                counts.second_reads += 1;
                candidate = layout.locate_next(resident, record.h, other);
            }
            let candidate = candidate.ok_or_else(|| lost("no entry leads to its block"))?;
            Ok(Some(layout.displacement(record.h, candidate)))
        }
        PartLayout::Blk(layout) => {
            if layout.locate(resident, record.h) != Some(place) {
                return Err(lost("no entry leads to its block, or the filter denies it"));
            }
            let entry = layout.entry(resident, place.first);
            if begins && entry != Some(blk::top(record.h)) {
                return Err(lost("its block's entry is another one's"));
            }
            Ok(None)
        }
    }
}

fn served(codec: ValueCodec, stored: &[u8]) -> Result<Value, ValueError> {
    let mut bytes = Vec::new();
    codec.serve(stored, &mut bytes)?;
    codec.decode(&bytes)
}
