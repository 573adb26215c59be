//! Small tables that are the same in every run: inputs of golden files and of tests of packs.

#![allow(dead_code, reason = "every test program uses some of it")]

use std::io::Write;

use fkv_formats::checksum::Origin;
use fkv_formats::hash::{hash_u64, unhash_u64};
use fkv_formats::id::{PART_COUNT, Part, TableUid, Version};
use fkv_formats::inspect::SampleKey;
use fkv_formats::manifest::{Form, Layer, content_id_full};
use fkv_formats::pack::{PackSummary, PackWriter};
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::route::part_of;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::Profile;
use fkv_formats::value::ValueCodec;

pub(crate) const ORIGIN: Origin = Origin { uid: TableUid(0x1234_5678_9abc), version: Version(3) };
pub(crate) const AS_OF: u32 = 1_700_000_000;
/// How the golden files of format version 1 are built, whatever is the profile of today.
pub(crate) const PROFILE_1: Profile = Profile { format: 1, load_permille: 900, codec: 0, filter: 0 };

pub(crate) fn schema(key: KeyType, value: ValueType, ttl: bool) -> Schema {
    let (storage, f16_overflow) = (Storage::Native, F16Overflow::Reject);
    Schema { kind: TableKind::Mem, key, value, storage, f16_overflow, ttl }
}

/// The schemas of one small table of every kind on disk and way to write records.
pub(crate) fn disk_schemas() -> Vec<Schema> {
    let of = |kind, key, value, ttl| Schema { kind, ..schema(key, value, ttl) };
    vec![
        of(TableKind::Idx, KeyType::U64, ValueType::F32(16), false),
        of(TableKind::Idx, KeyType::Bytes, ValueType::Bytes, true),
        of(TableKind::Blk, KeyType::U64, ValueType::Bytes, false),
        of(TableKind::Blk, KeyType::Bytes, ValueType::F16(50), true),
    ]
}

pub(crate) fn u64_of(key: &SampleKey) -> u64 {
    match key {
        SampleKey::U64(key) => *key,
        SampleKey::Bytes(_) => panic!("a u64 key"),
    }
}

/// The record of this number, with a key of either type.
fn row(schema: &Schema, number: u64) -> Row {
    let codec = ValueCodec::new(schema);
    let mut value = Vec::new();
    let float = |index: u16| f32::from(index) * 0.25 - number as f32;
    match schema.value {
        ValueType::F32(d) | ValueType::F16(d) => {
            let numbers: Vec<f32> = (0..d).map(float).map(|x| x % 1000.0).collect();
            codec.encode_f32s(&numbers, &mut value).map(|_| ())
        }
        ValueType::I64 => codec.encode_i64(-(number as i64), &mut value),
        ValueType::Bytes => {
            let text = format!("value {number} ").repeat(number as usize % 23);
            codec.encode_bytes(text.as_bytes(), &mut value)
        }
    }
    .expect("small numbers fit");
    let expiry = if schema.ttl { AS_OF + (number % 3) as u32 * 86_400 } else { 0 };
    Row { number, key: format!("user:{number}").into_bytes(), expiry, value }
}

/// Keys that all have one hash. Of a 32-byte key xxh3 multiplies two pairs of words, each word mixed with a word of its
/// fixed secret; a first factor of 0 makes the second one vanish from the hash.
fn colliding_key(number: u64) -> Vec<u8> {
    const SECRET: [[u8; 8]; 2] =
        [[0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe], [0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb]];
    [SECRET[0], number.to_be_bytes(), SECRET[1], [7; 8]].concat()
}

/// The records of a few parts of a table.
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) schema: Schema,
    pub(crate) profile: Profile,
    rows: Vec<Row>,
}

struct Row {
    number: u64,
    key: Vec<u8>,
    expiry: u32,
    value: Vec<u8>,
}

impl Sample {
    /// `count` records in each of `parts`.
    pub(crate) fn new(schema: &Schema, parts: &[u16], count: usize) -> Self {
        let part = |row: &Row| match schema.key {
            KeyType::U64 => part_of(hash_u64(row.number)).0,
            KeyType::Bytes => part_of(Key::Bytes(&row.key).hash()).0,
        };
        let mut rows: Vec<Row> = Vec::new();
        for &wanted in parts {
            rows.extend((0..).map(|number| row(schema, number)).filter(|row| part(row) == wanted).take(count));
        }
        let name = format!("{}-{}{}", schema.key, schema.value, if schema.ttl { "-ttl" } else { "" });
        let name = name.replace('[', "x").replace(']', "");
        let name = if schema.storage == Storage::F16 { format!("{name}-as-f16") } else { name };
        let name = if schema.kind == TableKind::Mem { name } else { format!("{}-{name}", schema.kind) };
        Self { name, schema: schema.clone(), profile: Profile::CURRENT, rows }
    }

    /// `colliding` records whose keys have one hash, and `others` of the same part.
    pub(crate) fn colliding(schema: &Schema, colliding: u64, others: usize) -> Self {
        let part = part_of(Key::Bytes(&colliding_key(0)).hash());
        let mut sample = Self::new(schema, &[part.0], others);
        let row = |number: u64| Row { key: colliding_key(number), ..row(schema, number) };
        sample.rows.extend((0..colliding).map(row));
        sample.name.push_str("-colliding");
        sample
    }

    /// The same records, built with a filter.
    pub(crate) fn filtered(mut self) -> Self {
        self.name.push_str("-filtered");
        self.profile.filter = Profile::FILTER_FUSE8;
        self
    }

    /// The same records, and one whose value takes `len` bytes.
    pub(crate) fn with_long_value(mut self, len: usize) -> Self {
        let row = self.rows.last_mut().expect("a sample has rows");
        row.value = (0..len).map(|index| (index * 7 % 251) as u8).collect();
        self
    }

    /// One small table of every shape, with and without expiry times.
    pub(crate) fn every_shape() -> Vec<Self> {
        let narrow = Schema { storage: Storage::F16, ..schema(KeyType::U64, ValueType::F32(32), false) };
        [
            schema(KeyType::U64, ValueType::F32(1), false),
            schema(KeyType::U64, ValueType::I64, true),
            narrow,
            schema(KeyType::U64, ValueType::F32(5), true),
            schema(KeyType::U64, ValueType::Bytes, false),
            schema(KeyType::Bytes, ValueType::F16(3), true),
            schema(KeyType::Bytes, ValueType::Bytes, false),
        ]
        .iter()
        .map(|schema| Self::new(schema, &[0, 1, 2399], 13))
        .collect()
    }

    /// One part with records at these distances from the part's first hash, of an integer table.
    pub(crate) fn at(name: &str, schema: &Schema, part: u16, distances: impl Iterator<Item = u64>) -> Self {
        let first = (u128::from(part) << 64).div_ceil(u128::from(PART_COUNT)) as u64;
        let row = |distance: u64| Row { number: unhash_u64(first + distance), ..row(schema, distance) };
        let rows = distances.map(row).collect();
        Self { name: name.to_owned(), schema: schema.clone(), profile: Profile::CURRENT, rows }
    }

    /// The same records, built as golden files of version 1 are.
    fn of_version_1(mut self) -> Self {
        self.profile = Profile { filter: self.profile.filter, ..PROFILE_1 };
        self
    }

    /// Golden memory tables of version 1: every shape, scanned and sorted, and one large enough for short slots.
    pub(crate) fn golden() -> Vec<Self> {
        let floats = |d| schema(KeyType::U64, ValueType::F32(d), false);
        let texts = |key| schema(key, ValueType::Bytes, false);
        let width = u64::MAX / u64::from(PART_COUNT) / 4000;
        let mut samples = Self::every_shape();
        samples.push(Self::at("u64-f32-sorted", &floats(1), 5, 1000..1500));
        samples.push(Self::at("u64-f32x5-sorted", &floats(5), 6, 0..200));
        samples.push(Self::at("u64-bytes-sorted", &texts(KeyType::U64), 7, 0..200));
        samples.push(Self::colliding(&texts(KeyType::Bytes), 160, 20));
        samples.push(Self::at("u64-f32-large", &floats(1), 1200, (0..4000).map(|i| i * width + hash_u64(i) % width)));
        samples.into_iter().map(Self::of_version_1).collect()
    }

    /// Golden tables of version 1 on disk: every kind, scanned and sorted, with and without a filter and a directory, with
    /// records of several blocks and blocks of one hash.
    pub(crate) fn golden_on_disk() -> Vec<Self> {
        let sample = |schema: &Schema| {
            let sample = Self::new(schema, &[0, 1, 2399], 70);
            if schema.value == ValueType::Bytes { sample.with_long_value(9000) } else { sample }
        };
        let mut samples: Vec<Self> = disk_schemas().iter().map(sample).collect();
        samples.push(sample(&disk_schemas()[2]).filtered());
        let idx = Schema { kind: TableKind::Idx, ..schema(KeyType::U64, ValueType::F32(1), false) };
        samples.push(Self::at("idx-u64-f32-sorted", &idx, 5, 1000..1500));
        for kind in [TableKind::Idx, TableKind::Blk] {
            samples.push(Self::colliding(&Schema { kind, ..schema(KeyType::Bytes, ValueType::Bytes, false) }, 100, 20));
        }
        // A record per block.
        let wide = Schema { kind: TableKind::Blk, ..schema(KeyType::U64, ValueType::F32(510), true) };
        samples.push(Self::new(&wide, &[1234], 34).filtered());
        samples.into_iter().map(Self::of_version_1).collect()
    }

    /// The records in their order.
    pub(crate) fn records(&self) -> Vec<RecordRef<'_>> {
        let mut records: Vec<RecordRef<'_>> = self
            .rows
            .iter()
            .map(|row| {
                let key = match self.schema.key {
                    KeyType::U64 => Key::U64(row.number),
                    KeyType::Bytes => Key::Bytes(&row.key),
                };
                RecordRef::new(key, row.expiry, Some(&row.value))
            })
            .collect();
        records.sort_by_key(RecordRef::order);
        records
    }
}

/// Writes all parts of a sample.
pub(crate) fn write_pack<W: Write>(sample: &Sample, out: W) -> (PackSummary, W) {
    let records = sample.records();
    let mut pack = PackWriter::new(out, ORIGIN, &sample.schema, sample.profile).expect("memory takes all");
    for records in records.chunk_by(|a, b| a.part() == b.part()) {
        let part: Part = records[0].part();
        pack.add_part(part, records).expect("records in order");
    }
    pack.finish().expect("memory takes all")
}

pub(crate) fn build_pack(sample: &Sample) -> (PackSummary, Vec<u8>) {
    write_pack(sample, Vec::new())
}

/// A full form of one layer.
pub(crate) fn form_of(schema: &Schema, packs: &[(&str, &PackSummary)]) -> Form {
    let mut layer = Layer::default();
    for (path, pack) in packs {
        layer.add_pack(path, pack).expect("each part once");
    }
    let content = content_id_full(ORIGIN.uid, schema, AS_OF, &layer.digests());
    let (uid, schema) = (ORIGIN.uid, schema.clone());
    Form { uid, content, schema, profile: Profile::CURRENT, as_of: AS_OF, layers: vec![layer] }
}
