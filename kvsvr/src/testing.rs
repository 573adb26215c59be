//! Images for unit tests, made of records by the builders that loads use.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fkv_env::{Env, Files, OsFiles};
use fkv_formats::checksum::Origin;
use fkv_formats::id::{ContentId, Epoch, Part, TableUid, TaskId, Version};
use fkv_formats::pack::{PackDirectory, PackWriter};
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::route::part_of;
use fkv_formats::schema::{KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::Profile;
use fkv_formats::table::mem::build_part;
use fkv_meta::record::{Label, RetainOld, TablePhase, TableRecord};
use fkv_rpc::packed::{self, Request, RequestHeader, RequestWriter, SectionHeader, Selector, ValueForm};

use crate::cache::RecordCache;
use crate::image::arena::ArenaBuilder;
use crate::image::{
    DiskFile, DiskLayout, DiskPlaced, Entry, Group, Image, ImageBuilder, Labelled, LocalFile, Pair, Placed, Reaper,
    ServedTable,
};
use crate::io::BlockIo;
use crate::ledger::Ledger;

/// The table and the version that everything here is of.
pub(crate) const UID: TableUid = TableUid(1);
pub(crate) const VERSION: Version = Version(1);
pub(crate) const CONTENT: ContentId = ContentId([1; 32]);

/// A key that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OwnedKey {
    U64(u64),
    Bytes(Vec<u8>),
}

impl OwnedKey {
    pub(crate) fn borrow(&self) -> Key<'_> {
        match self {
            Self::U64(key) => Key::U64(*key),
            Self::Bytes(key) => Key::Bytes(key),
        }
    }
}

/// A record to put into an image.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) key: OwnedKey,
    pub(crate) expiry: u32,
    pub(crate) value: Vec<u8>,
}

pub(crate) fn schema(kind: TableKind, key: KeyType, value: ValueType) -> Schema {
    Schema { kind, key, value, storage: Storage::Native, f16_overflow: Default::default(), ttl: false }
}

/// Rows as builders want them.
fn records(rows: &[Row]) -> Vec<RecordRef<'_>> {
    let mut records: Vec<RecordRef<'_>> =
        rows.iter().map(|row| RecordRef::new(row.key.borrow(), row.expiry, Some(&row.value))).collect();
    records.sort_by_key(|record| (record.h, record.key));
    records
}

/// Bytes around every part that nobody may read.
const FENCE_BYTES: usize = 64;

/// Forbids memory, where AddressSanitizer watches: of memory that is mapped, as arenas are, it knows nothing by itself. It
/// allows it again when it is unmapped.
fn forbid(bytes: &[u8]) {
    #[cfg(fkv_asan)]
    {
        unsafe extern "C" {
            fn __asan_poison_memory_region(start: *const std::ffi::c_void, len: usize);
        }
        // SAFETY: this changes only what AddressSanitizer knows of the bytes.
        unsafe { __asan_poison_memory_region(bytes.as_ptr().cast(), bytes.len()) };
    }
    #[cfg(not(fkv_asan))]
    let _ = bytes;
}

/// A group of these pieces, that nobody accounts for, and where each begins. There are fences around them.
fn group(env: &Env, pieces: &[Vec<u8>]) -> (Arc<Group>, Vec<usize>) {
    let mut starts = Vec::new();
    let mut len = FENCE_BYTES;
    for piece in pieces {
        starts.push(len);
        len = (len + piece.len() + FENCE_BYTES).next_multiple_of(64);
    }
    let mut arena = ArenaBuilder::new(len).expect("mapped");
    let mut region = arena.regions(&[len]).remove(0);
    for (start, piece) in starts.iter().zip(pieces) {
        region[*start..][..piece.len()].copy_from_slice(piece);
    }
    drop(region);
    let reservation = Ledger::new(u64::MAX, 0).reserve(len as u64, 0).expect("fits");
    // Without its task the memory goes with its last holder.
    let group = Arc::new(Group::new(arena.freeze().expect("read-only"), reservation, Reaper::start(env).0));
    let mut behind = 0;
    for (start, piece) in starts.iter().zip(pieces) {
        forbid(&group.bytes()[behind..*start]);
        behind = start + piece.len();
    }
    forbid(&group.bytes()[behind..len]);
    (group, starts)
}

/// The beginning of an image of a table in memory.
pub(crate) fn memory(as_of: u32) -> ImageBuilder {
    ImageBuilder::new(CONTENT, VERSION, as_of, None)
}

/// The beginning of an image of a table on SSD.
pub(crate) fn on_disk(cache: &Arc<RecordCache>) -> ImageBuilder {
    ImageBuilder::new(CONTENT, VERSION, 0, Some(cache.scope()))
}

/// Adds the parts of these rows, as one group.
pub(crate) fn add_memory(env: &Env, builder: &mut ImageBuilder, schema: &Schema, rows: &[Row]) {
    add_changed_memory(env, builder, schema, rows, |_| {});
}

/// Adds the parts of these rows, as one group, the bytes of each part as `change` leaves them.
pub(crate) fn add_changed_memory(
    env: &Env,
    builder: &mut ImageBuilder,
    schema: &Schema,
    rows: &[Row],
    mut change: impl FnMut(&mut [u8]),
) {
    let records = records(rows);
    let (mut images, mut parts) = (Vec::new(), Vec::new());
    for records in records.chunk_by(|a, b| part_of(a.h) == part_of(b.h)) {
        let part = part_of(records[0].h);
        let (layout, mut image) = build_part(schema, Profile::CURRENT, part, records, Vec::new()).expect("built");
        change(&mut image);
        parts.push((part, layout));
        images.push(image);
    }
    let (group, starts) = group(env, &images);
    let placed = parts
        .into_iter()
        .zip(starts)
        .zip(&images)
        .map(|(((part, layout), start), image)| (part, Placed { group: 0, start, len: image.len(), layout }));
    builder.add_group(group, placed.collect::<Vec<_>>());
}

/// Writes the parts of these rows to the pack `name` in `dir`, and adds them as a group whose blocks are there. Gives the
/// file.
pub(crate) fn add_pack(
    env: &Env,
    builder: &mut ImageBuilder,
    io: &dyn BlockIo,
    dir: &Path,
    name: &str,
    schema: &Schema,
    rows: &[Row],
) -> Arc<LocalFile> {
    let (pack, origin) = (pack_of(schema, rows), Origin { uid: UID, version: VERSION });
    OsFiles.write_durably(&dir.join(name), &pack.bytes).expect("written");
    let residents = pack.directory.parts.iter().map(|part| {
        let resident = part.resident_range();
        pack.bytes[resident.start as usize..resident.end as usize].to_vec()
    });
    let (group, starts) = group(env, &residents.collect::<Vec<_>>());
    let mut parts = Vec::new();
    for (part, start) in pack.directory.parts.iter().zip(starts) {
        let layout = DiskLayout::of(part.layout().expect("a good header")).expect("of a table on SSD");
        parts.push((part.part, DiskPlaced { group: 0, start, layout, file: 0, blocks_at: part.offset, origin }));
    }
    let reservation = Ledger::new(0, u64::MAX).reserve(0, pack.bytes.len() as u64).expect("fits");
    let local = Arc::new(LocalFile::new(name.to_owned(), pack.bytes.len() as u64, reservation));
    let handle = io.register(&dir.join(name)).expect("opened");
    let file = DiskFile { handle, local: Arc::clone(&local) };
    builder.add_disk_group(group, vec![file], &parts);
    local
}

struct Pack {
    bytes: Vec<u8>,
    directory: PackDirectory,
}

fn pack_of(schema: &Schema, rows: &[Row]) -> Pack {
    let origin = Origin { uid: UID, version: VERSION };
    let mut pack = PackWriter::new(Vec::new(), origin, schema, Profile::CURRENT).expect("a good schema");
    for records in records(rows).chunk_by(|a, b| part_of(a.h) == part_of(b.h)) {
        pack.add_part(part_of(records[0].h), records).expect("built");
    }
    let (summary, bytes) = pack.finish().expect("finished");
    Pack { bytes, directory: summary.directory }
}

/// Numbers whose hashes are spread evenly over a part.
pub(crate) fn keys_of(part: Part, count: u64) -> impl Iterator<Item = u64> {
    let first = (u128::from(part.0) << 64).div_ceil(u128::from(fkv_formats::id::PART_COUNT)) as u64;
    let step = u64::MAX / u64::from(fkv_formats::id::PART_COUNT) / count;
    (0..count).map(move |index| fkv_formats::hash::unhash_u64(first + index * step))
}

/// The body of a request for these keys of one table, which are of one type.
pub(crate) fn request_body(table: TableUid, keys: &[OwnedKey]) -> Bytes {
    let header = SectionHeader { table, selector: Selector::Aligned, form: ValueForm::Native };
    let numbers: Vec<u64> =
        keys.iter().filter_map(|key| if let OwnedKey::U64(key) = key { Some(*key) } else { None }).collect();
    let names: Vec<&[u8]> = keys
        .iter()
        .filter_map(|key| if let OwnedKey::Bytes(key) = key { Some(key.as_slice()) } else { None })
        .collect();
    if names.is_empty() {
        let mut writer = RequestWriter::new(RequestHeader::default(), packed::u64_section_bytes(keys.len()));
        writer.u64_section(header, numbers.iter().copied());
        return writer.finish();
    }
    assert!(numbers.is_empty(), "the keys of a section are of one type");
    let bytes = names.iter().map(|key| key.len()).sum();
    let mut writer = RequestWriter::new(RequestHeader::default(), packed::bytes_section_bytes(keys.len(), bytes));
    writer.bytes_section(header, bytes, names.iter().copied());
    writer.finish()
}

/// As [`request_body`], checked.
pub(crate) fn request(keys: &[OwnedKey]) -> Request {
    Request::parse(request_body(UID, keys)).expect("a good request")
}

/// A table as metadata has it before its first load.
pub(crate) fn table_record(schema: &Schema) -> TableRecord {
    TableRecord {
        name: "t".into(),
        schema: schema.clone(),
        retain_versions: 1,
        retain_old: RetainOld::Ram,
        filter: Default::default(),
        created_ms: 0,
        head: Version(0),
        epoch: Epoch(0),
        phase: TablePhase::Normal,
        target: None,
        aligned: None,
        previous: None,
        next_task: TaskId(1),
        queue: Vec::new(),
        running: None,
        blocked_by: None,
        last_full: TaskId(0),
        full_required: false,
        exclusions: Default::default(),
        canary: None,
        quarantine: Vec::new(),
    }
}

/// A table in the picture of which this image is served.
pub(crate) fn entry(schema: &Schema, image: Image) -> Entry {
    let label = Label { version: image.version(), content: image.content(), epoch: Epoch(1) };
    let served = ServedTable::new(schema.clone());
    let serving = Labelled { label, image: Arc::new(image), complete: true };
    served.replace(Pair { serving: Some(serving), aligned: Some(label), ..Pair::default() });
    let record = Arc::new(table_record(schema));
    Entry { record, served: Arc::new(served), missing: false, problem: String::new() }
}
