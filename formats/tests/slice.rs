//! Slices: what is written is read back part by part, no altered byte is taken for the original, and bytes that were never
//! written by a builder, but carry good checksums, make nothing panic.

#![allow(clippy::disallowed_methods, reason = "golden files are files")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use fkv_formats::error::{BuildError, FormatError};
use fkv_formats::hash::{hash_u64, unhash_u64};
use fkv_formats::id::{PART_COUNT, Part, TableUid, TaskId};
use fkv_formats::inspect::{Inspection, inspect};
use fkv_formats::record::{Key, RecordRef, VALUE_BYTES_MAX};
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::slice::{
    CHUNK_HEAD_BYTES, SliceDirectory, SliceId, SlicePart, SliceRecord, SliceSpec, SliceSummary, SliceWriter, Walked,
    encode_part,
};
use proptest::prelude::*;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const ID: SliceId = SliceId { uid: TableUid(0x1234_5678_9abc), task: TaskId(17), plan: 1, number: 3, piece: 0 };

fn spec(key: KeyType, value: ValueType, ttl: bool, tombstones: bool, places: bool) -> SliceSpec {
    let (kind, storage, f16_overflow) = (TableKind::Mem, Storage::Native, F16Overflow::Reject);
    SliceSpec { schema: Schema { kind, key, value, storage, f16_overflow, ttl }, tombstones, places }
}

/// Every way to write records.
fn specs() -> Vec<SliceSpec> {
    let mut all = Vec::new();
    for key in [KeyType::U64, KeyType::Bytes] {
        for value in [ValueType::F32(1), ValueType::Bytes] {
            for flags in 0..8 {
                all.push(spec(key, value, flags & 1 != 0, flags & 2 != 0, flags & 4 != 0));
            }
        }
    }
    all
}

/// A record that owns its bytes.
#[derive(Clone, Debug)]
struct Row {
    number: u64,
    key: Vec<u8>,
    place: u32,
    expiry: u32,
    value: Option<Vec<u8>>,
}

impl Row {
    fn new(spec: &SliceSpec, number: u64) -> Self {
        let value = match spec.schema.value {
            ValueType::Bytes => format!("value {number} ").repeat(number as usize % 23).into_bytes(),
            _ => (number as f32).to_le_bytes().to_vec(),
        };
        let value = (!spec.tombstones || number % 4 != 1).then_some(value);
        Self {
            number,
            key: format!("user:{number}").into_bytes(),
            place: if spec.places { number as u32 ^ 0x5a5a } else { 0 },
            expiry: if spec.schema.ttl && value.is_some() { 1_700_000_000 + number as u32 % 3 } else { 0 },
            value,
        }
    }

    fn record(&self, key: KeyType) -> SliceRecord<'_> {
        let key = match key {
            KeyType::U64 => Key::U64(self.number),
            KeyType::Bytes => Key::Bytes(&self.key),
        };
        SliceRecord { record: RecordRef::new(key, self.expiry, self.value.as_deref()), place: self.place }
    }
}

fn sorted<'a>(spec: &SliceSpec, rows: &'a [Row]) -> Vec<SliceRecord<'a>> {
    let mut records: Vec<SliceRecord<'_>> = rows.iter().map(|row| row.record(spec.schema.key)).collect();
    records.sort_by_key(|record| record.record.order());
    records
}

fn write(id: SliceId, spec: &SliceSpec, records: &[SliceRecord<'_>]) -> (SliceSummary, Vec<u8>) {
    let mut writer = SliceWriter::new(Vec::new(), id, spec).expect("memory takes all");
    records.iter().for_each(|record| writer.push(record).expect("records in order"));
    writer.finish().expect("memory takes all")
}

fn bytes_of<'a>(object: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    &object[range.start as usize..range.end as usize]
}

fn parse(object: &[u8]) -> Result<SliceDirectory, FormatError> {
    let tail = object.len().saturating_sub(SliceDirectory::TAIL_BYTES as usize);
    SliceDirectory::parse(&object[tail..], object.len() as u64)
}

/// All records, read part by part as a part job does; the first thing that is wrong.
fn read_all(object: &[u8]) -> Result<Vec<SliceRecord<'_>>, FormatError> {
    let directory = parse(object)?;
    directory.check(&ID, directory.spec())?;
    let mut records = Vec::new();
    for number in 0..PART_COUNT {
        let part = directory.part(Part(number));
        for record in part.read(bytes_of(object, &part.range())) {
            records.push(record?);
        }
    }
    Ok(records)
}

#[test]
fn a_slice_is_read_back_whole_and_by_ranges_of_parts() {
    for spec in specs() {
        let rows: Vec<Row> = (0..5000).map(|number| Row::new(&spec, number)).collect();
        let records = sorted(&spec, &rows);
        let (summary, object) = write(ID, &spec, &records);
        assert_eq!(summary.len, object.len() as u64);
        let directory = parse(&object).expect("as written");
        assert_eq!(directory, summary.directory);
        assert_eq!((directory.id(), directory.spec(), directory.records()), (ID, &spec, 5000));
        assert_eq!(read_all(&object).expect("as written"), records, "{spec:?}");
        // A range of parts, as a part job reads it: each part is found in it by its offset.
        let parts = 700..1431;
        let range = directory.range(parts.clone());
        let held = bytes_of(&object, &range);
        let mut read = Vec::new();
        for number in parts.clone() {
            let part = directory.part(Part(number));
            let at = part.range().start - range.start..part.range().end - range.start;
            read.extend(part.read(bytes_of(held, &at)).map(|record| record.expect("as written")));
        }
        let expected: Vec<_> =
            records.iter().copied().filter(|record| parts.contains(&record.record.part().0)).collect();
        assert_eq!(read, expected);
        assert_eq!(directory.records_in(parts), expected.len() as u64);
        assert!(directory.range(2400..2500).is_empty() && directory.part(Part(2400)).is_empty());
    }
}

#[test]
fn fixed_records_of_u64_keys_take_12_bytes() {
    let spec = spec(KeyType::U64, ValueType::F32(1), false, false, false);
    let rows: Vec<Row> = (0..1_000_000).map(|number| Row::new(&spec, number)).collect();
    let (summary, _) = write(ID, &spec, &sorted(&spec, &rows));
    let per_record = summary.len as f64 / 1e6;
    assert!((12.0..12.1).contains(&per_record), "{per_record} bytes a record");
}

#[test]
fn parts_encoded_by_themselves_make_the_same_slice() {
    for spec in specs() {
        let rows: Vec<Row> = (0..3000).map(|number| Row::new(&spec, number)).collect();
        let records = sorted(&spec, &rows);
        let (summary, object) = write(ID, &spec, &records);
        let mut writer = SliceWriter::new(Vec::new(), ID, &spec).expect("memory takes all");
        for records in records.chunk_by(|a, b| a.record.part() == b.record.part()) {
            let part = records[0].record.part();
            let encoded = encode_part(ID, &spec, part, records.iter().copied()).expect("records in order");
            assert_eq!(encoded.records() as usize, records.len());
            writer.append(&encoded).expect("parts in order");
            assert!(matches!(writer.append(&encoded), Err(BuildError::PartOrder { .. })));
        }
        assert_eq!(writer.bytes_written() + SliceDirectory::TAIL_BYTES, summary.len);
        assert_eq!(writer.finish().expect("memory takes all"), (summary, object));
    }
}

#[test]
fn a_slice_without_records_is_a_slice() {
    let spec = spec(KeyType::Bytes, ValueType::Bytes, true, true, true);
    let (summary, object) = write(ID, &spec, &[]);
    assert_eq!(summary.len, SliceDirectory::TAIL_BYTES + 8);
    assert!(read_all(&object).expect("as written").is_empty());
    assert!(summary.directory.part(Part(7)).is_empty());
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let plain = spec(KeyType::U64, ValueType::F32(1), false, false, false);
    let strings = spec(KeyType::Bytes, ValueType::Bytes, false, true, false);
    let number =
        |key, expiry, value, place| SliceRecord { record: RecordRef::new(Key::U64(key), expiry, value), place };
    let text = |key, value, place| SliceRecord { record: RecordRef::new(Key::Bytes(key), 0, value), place };
    let long = vec![0; VALUE_BYTES_MAX + 1];
    for (spec, record, why) in [
        (&plain, number(1, 0, None, 0), "no tombstones"),
        (&plain, number(1, 7, Some(&[0; 4][..]), 0), "no TTL"),
        (&plain, number(1, 0, Some(&[0; 5]), 0), "5 bytes, not 4"),
        (&plain, number(1, 0, Some(&[0; 4]), 9), "keeps none"),
        (&plain, text(b"a", Some(&[0; 4]), 0), "another type"),
        (&strings, text(&[b'k'; 1025], Some(b""), 0), "1025 bytes"),
        (&strings, text(b"a", Some(&long), 0), "the limit"),
        (&strings, SliceRecord { record: RecordRef::new(Key::Bytes(b"a"), 5, None), place: 0 }, "does not expire"),
    ] {
        let mut writer = SliceWriter::new(Vec::new(), ID, spec).expect("memory takes all");
        let refused = writer.push(&record).expect_err(why).to_string();
        assert!(refused.contains(why), "{refused}");
    }
    // Out of order, or twice.
    let rows: Vec<Row> = (0..40).map(|number| Row::new(&strings, number)).collect();
    let records = sorted(&strings, &rows);
    for (a, b) in [(7, 6), (7, 7)] {
        let mut writer = SliceWriter::new(Vec::new(), ID, &strings).expect("memory takes all");
        writer.push(&records[a]).expect("the first");
        let refused = writer.push(&records[b]);
        assert!(matches!(refused, Err(BuildError::OutOfOrder { .. } | BuildError::PartOrder { .. })), "{refused:?}");
    }
    let (part, twice) = (records[7].record.part(), [records[7], records[7]]);
    assert!(matches!(encode_part(ID, &strings, part, twice), Err(BuildError::OutOfOrder { index: 1 })));
    assert!(matches!(encode_part(ID, &strings, Part(2399), [records[0]]), Err(BuildError::WrongPart { .. })));
    let other = encode_part(SliceId { number: 4, ..ID }, &strings, part, [records[7]]).expect("encoded");
    let mut writer = SliceWriter::new(Vec::new(), ID, &strings).expect("memory takes all");
    assert!(matches!(writer.append(&other), Err(BuildError::Limit(_))));
    // A full disk.
    let (_, object) = write(ID, &strings, &records);
    for room in [0, 7, 8, 100, object.len() - 1] {
        let mut disk = vec![0; room];
        let written = SliceWriter::new(&mut disk[..], ID, &strings).and_then(|mut writer| {
            records.iter().try_for_each(|record| writer.push(record))?;
            writer.finish()
        });
        assert!(matches!(written, Err(BuildError::Io(_))), "room for {room} bytes");
    }
}

/// A part that is read a little at a time, and what is held at most.
fn walk_in_pieces(part: &SlicePart, bytes: &[u8], piece: usize) -> (Vec<(u64, u32)>, usize) {
    let (mut walk, mut held, mut at, mut most) = (part.walk(), 0..0usize, Vec::new(), 0);
    loop {
        match walk.step(&bytes[held.clone()]).expect("as written") {
            Walked::End => return (at, most),
            Walked::Needs(needed) => {
                assert!(needed > held.len(), "a step that cannot be made asks for more");
                held.end = bytes.len().min(held.start + needed.next_multiple_of(piece));
                most = most.max(held.len());
            }
            Walked::Chunk(chunk) => {
                let mut records = chunk.iter();
                let mut begin = records.position();
                while let Some(record) = records.next() {
                    let record = record.expect("as written");
                    let place = held.start + CHUNK_HEAD_BYTES + begin;
                    let (again, len) = part.layout().decode(&bytes[place..]).expect("as written");
                    assert_eq!((again, begin + len), (record, records.position()));
                    at.push((record.record.h, record.place));
                    begin = records.position();
                }
                held.start += chunk.len();
            }
        }
    }
}

#[test]
fn a_part_is_read_a_chunk_at_a_time_in_bounded_memory() {
    let spec = spec(KeyType::U64, ValueType::Bytes, false, false, true);
    // All in one part, and one record longer than a chunk.
    let width = u64::MAX / u64::from(PART_COUNT);
    let rows: Vec<Row> = (0..20_000)
        .map(|n| Row { number: unhash_u64(7 * width + 1000 + n * 1000), ..Row::new(&spec, n) })
        .map(|row| if row.place == 333 ^ 0x5a5a { Row { value: Some(vec![7; 200_000]), ..row } } else { row })
        .collect();
    let records = sorted(&spec, &rows);
    let (summary, object) = write(ID, &spec, &records);
    let part = summary.directory.part(Part(7));
    assert_eq!(part.records(), 20_000);
    let bytes = bytes_of(&object, &part.range());
    let expected: Vec<(u64, u32)> = records.iter().map(|record| (record.record.h, record.place)).collect();
    for piece in [1, 1000, 4096, 70_000] {
        let (read, most) = walk_in_pieces(&part, bytes, piece);
        assert_eq!(read, expected);
        assert!(most < 200_100 + 70_000, "{most} bytes held");
    }
}

#[test]
fn a_chunk_from_another_place_does_not_pass() {
    let spec = spec(KeyType::U64, ValueType::F32(1), false, false, false);
    let rows: Vec<Row> = (0..2000).map(|number| Row::new(&spec, number)).collect();
    let records = sorted(&spec, &rows);
    let (summary, object) = write(ID, &spec, &records);
    let part = summary.directory.part(records[0].record.part());
    let bytes = bytes_of(&object, &part.range());
    assert!(part.read(bytes).all(|record| record.is_ok()));
    for id in [
        SliceId { uid: TableUid(1), ..ID },
        SliceId { task: TaskId(18), ..ID },
        SliceId { plan: 2, ..ID },
        SliceId { number: 4, ..ID },
        SliceId { piece: 1, ..ID },
    ] {
        let (other, _) = write(id, &spec, &records);
        let part = other.directory.part(part.part());
        assert!(matches!(part.read(bytes).next(), Some(Err(FormatError::Checksum { .. }))), "{id:?}");
        assert!(matches!(other.directory.check(&ID, &spec), Err(FormatError::Foreign { .. })));
    }
    let other = SliceSpec { places: true, ..spec.clone() };
    assert!(matches!(summary.directory.check(&ID, &other), Err(FormatError::Foreign { .. })));
    assert_eq!(summary.directory.check(&ID, &spec), Ok(()));
    // Another part of the same slice, with as many bytes and records.
    let mut same_size = (0..PART_COUNT).map(|number| summary.directory.part(Part(number)));
    let twin = same_size.find(|other| other.part() != part.part() && other.records() == part.records());
    let twin = twin.expect("parts are of few sizes");
    assert!(matches!(twin.read(bytes).next(), Some(Err(FormatError::Checksum { .. }))));
}

/// A slice of a few parts, small enough to flip every bit of it.
fn small(spec: &SliceSpec) -> (SliceSummary, Vec<u8>) {
    let wanted = [0, 1, 1200, 2399];
    let mut rows: Vec<Row> = Vec::new();
    for part in wanted {
        let all = (0..).map(|number| Row::new(spec, number));
        rows.extend(all.filter(|row| row.record(spec.schema.key).record.part().0 == part).take(9));
    }
    write(ID, spec, &sorted(spec, &rows))
}

#[test]
fn no_flipped_bit_or_cut_of_a_slice_goes_unnoticed() {
    for (which, spec) in specs().into_iter().enumerate() {
        let (summary, object) = small(&spec);
        let data_end = object.len() - SliceDirectory::TAIL_BYTES as usize;
        let records = read_all(&object).expect("as written");
        let mut altered = object.clone();
        for at in 0..object.len() {
            for bit in 0..8 {
                altered[at] ^= 1 << bit;
                if at < 8 {
                    // Only whoever does not know what the object is looks at its header.
                    assert_eq!(read_all(&altered).as_ref(), Ok(&records));
                } else if at < data_end {
                    let number =
                        (0..PART_COUNT).find(|part| summary.directory.part(Part(*part)).range().contains(&(at as u64)));
                    let part = summary.directory.part(Part(number.expect("parts are dense")));
                    let read: Result<Vec<_>, _> = part.read(bytes_of(&altered, &part.range())).collect();
                    assert!(read.is_err(), "bit {bit} of byte {at} of {spec:?}");
                } else if which % 11 == 0 || at >= object.len() - 80 {
                    // Directories are all alike: the whole of a few.
                    assert!(parse(&altered).is_err(), "bit {bit} of byte {at} of {spec:?}");
                }
                altered[at] ^= 1 << bit;
            }
        }
        for cut in (0..object.len()).filter(|cut| which % 11 == 0 || cut % 97 == 0) {
            assert!(parse(&object[..cut]).is_err(), "cut at {cut}");
            assert!(SliceDirectory::parse(&object[..cut], object.len() as u64).is_err(), "cut at {cut}");
        }
        // A part that is cut, or has more behind it.
        let part = summary.directory.part(Part(1200));
        let range = part.range().start as usize..part.range().end as usize;
        for cut in range.clone() {
            assert!(part.read(&object[range.start..cut]).any(|record| record.is_err()), "cut at {cut}");
        }
        assert!(part.read(&object[range.start..=range.end]).any(|record| record.is_err()));
    }
}

/// The seed of a chunk, as the documentation gives it.
fn seed(part: u32, chunk: u32) -> u64 {
    let mut place = b"fkvslice".to_vec();
    place.extend(ID.uid.0.to_le_bytes());
    place.extend(ID.task.0.to_le_bytes());
    for word in [ID.plan, ID.number, ID.piece, part, chunk] {
        place.extend(word.to_le_bytes());
    }
    xxh3_64(&place)
}

fn sealed(part: u16, chunk: u32, records: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(records.to_le_bytes());
    bytes.extend(payload);
    let sum = xxh3_64_with_seed(&bytes[8..], seed(u32::from(part), chunk));
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// A slice of one part, 5, which has these bytes and this many records, whatever they hold.
fn forged(spec: &SliceSpec, data: &[u8], records: u32) -> Vec<u8> {
    let (_, empty) = write(ID, spec, &[]);
    let mut object = empty[..8].to_vec();
    object.extend_from_slice(data);
    let directory_at = object.len();
    for part in 0..PART_COUNT {
        let (end, records) = if part < 5 { (8, 0) } else { (directory_at as u64, if part == 5 { records } else { 0 }) };
        object.extend(end.to_le_bytes());
        object.extend(records.to_le_bytes());
    }
    let mut footer = empty[empty.len() - 80..].to_vec();
    footer[40..48].copy_from_slice(&u64::from(records).to_le_bytes());
    footer[48..56].copy_from_slice(&(directory_at as u64).to_le_bytes());
    footer[56..64].copy_from_slice(&xxh3_64(&object[directory_at..]).to_le_bytes());
    let sum = xxh3_64(&footer[..64]);
    footer[64..72].copy_from_slice(&sum.to_le_bytes());
    object.extend(footer);
    object
}

#[test]
fn what_the_documentation_says_is_what_is_read() {
    let spec = spec(KeyType::U64, ValueType::F32(1), false, false, false);
    let hashes: Vec<u64> = (0u64..).map(hash_u64).filter(|h| (u128::from(*h) * 2400) >> 64 == 5).take(4).collect();
    let mut hashes = hashes;
    hashes.sort_unstable();
    let payload: Vec<u8> = hashes.iter().flat_map(|h| h.to_le_bytes().into_iter().chain([0, 0, 128, 63])).collect();
    let [first, second] = [&payload[..24], &payload[24..]];
    let data = [sealed(5, 0, 2, first), sealed(5, 1, 2, second)].concat();
    let object = forged(&spec, &data, 4);
    let read = read_all(&object).expect("a sound slice");
    let expected: Vec<RecordRef<'_>> =
        hashes.iter().map(|h| RecordRef::new(Key::U64(unhash_u64(*h)), 0, Some(&[0, 0, 128, 63]))).collect();
    assert_eq!(read.iter().map(|read| read.record).collect::<Vec<_>>(), expected);
    // Sound checksums over what contradicts itself.
    let lost = [sealed(5, 0, 2, first), sealed(5, 1, 2, first)].concat();
    let swapped = [sealed(5, 0, 2, second), sealed(5, 1, 2, first)].concat();
    for (data, records, why) in [
        (&lost, 4, "not above"),
        (&swapped, 4, "not above"),
        (&data, 5, "missing"),
        (&data, 3, "not there"),
        (&sealed(5, 0, 1, first), 1, "left behind"),
        (&sealed(5, 0, 3, first), 3, "cut short"),
        (&sealed(5, 0, 0, first), 0, ""),
        (&sealed(5, 0, 2, &[first, &[0]].concat()), 2, "left behind"),
        (&sealed(5, 0, 2, &[&first[12..], &first[..12]].concat()), 2, "not above"),
        (&[sealed(5, 0, 2, first), vec![0; 16]].concat(), 2, "no chunk"),
        (&[sealed(5, 0, 2, first), vec![0; 17]].concat(), 2, "cannot have"),
        (&sealed(5, 0, 1, &[0; 12]), 1, "does not belong"),
    ] {
        let error = read_all(&forged(&spec, data, records)).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn slices_hold_what_was_written(
        which in 0..32usize,
        numbers in prop::collection::btree_map(any::<u64>(), 0usize..300, 0..400),
        crowded: bool,
    ) {
        let spec = &specs()[which];
        let rows: Vec<Row> = numbers.iter().map(|(number, len)| {
            // Neighbouring hashes share a part, and many chunks.
            let number = if crowded { unhash_u64(number >> 20) } else { *number };
            let row = Row { number, key: number.to_string().into_bytes(), ..Row::new(spec, number % 1000) };
            match (spec.schema.value, &row.value) {
                (ValueType::Bytes, Some(_)) => Row { value: Some(vec![number as u8; len * len]), ..row },
                _ => row,
            }
        }).collect();
        let unique: BTreeMap<u64, Row> = rows.into_iter().map(|row| (row.number, row)).collect();
        let rows: Vec<Row> = unique.into_values().collect();
        let records = sorted(spec, &rows);
        let (_, object) = write(ID, spec, &records);
        prop_assert_eq!(read_all(&object), Ok(records));
    }

    /// Any bytes under good checksums: records, or an error; never a panic, and never more records than were announced.
    #[test]
    fn forged_slices_never_panic(
        which in 0..32usize,
        chunks in prop::collection::vec((0u32..6, prop::collection::vec(any::<u8>(), 0..60)), 0..4),
        records in 0u32..12,
        noise in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let spec = &specs()[which];
        let mut data: Vec<u8> = (0..).zip(&chunks).flat_map(|(at, (n, bytes))| sealed(5, at, *n, bytes)).collect();
        data.extend(noise);
        let object = forged(spec, &data, records);
        if let Ok(read) = read_all(&object) {
            prop_assert_eq!(read.len(), records as usize);
        }
    }

    #[test]
    fn damaged_tails_never_panic(
        which in 0..32usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (_, mut object) = small(&specs()[which]);
        let tail = object.len() - SliceDirectory::TAIL_BYTES as usize;
        for (place, byte) in changes {
            let at = tail + place.index(SliceDirectory::TAIL_BYTES as usize - 16);
            object[at] = byte;
        }
        let footer = object.len() - 80;
        let sum = xxh3_64(&object[tail..footer]);
        object[footer + 56..footer + 64].copy_from_slice(&sum.to_le_bytes());
        let sum = xxh3_64(&object[footer..footer + 64]);
        object[footer + 64..footer + 72].copy_from_slice(&sum.to_le_bytes());
        if let Ok(directory) = parse(&object) {
            for number in 0..PART_COUNT {
                let part = directory.part(Part(number));
                prop_assert!(part.range().end <= tail as u64);
                let _ = part.read(bytes_of(&object, &part.range())).count();
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), object_len: u64, which in 0..32usize) {
        prop_assert!(SliceDirectory::parse(&bytes, object_len).is_err());
        let (summary, _) = small(&specs()[which]);
        let part = summary.directory.part(Part(1200));
        prop_assert!(part.read(&bytes).any(|record| record.is_err()));
        let _ = part.layout().decode(&bytes);
        let _ = part.walk().step(&bytes);
    }
}

/// The golden file pins format version 1; made anew with `FKV_BLESS=1`.
#[test]
fn slices_are_written_as_before_and_read() {
    let cases = [
        ("u64-f32.slice", spec(KeyType::U64, ValueType::F32(1), false, false, false)),
        ("bytes-bytes-ttl.slice", spec(KeyType::Bytes, ValueType::Bytes, true, true, true)),
    ];
    for (name, spec) in cases {
        let (summary, built) = small(&spec);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name);
        if std::env::var_os("FKV_BLESS").is_some() {
            std::fs::write(&path, &built).expect("the golden file can be written");
        }
        let stored = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let differs = stored.iter().zip(&built).position(|(a, b)| a != b);
        assert!(stored == built, "{name}: the writer's bytes differ, first at {differs:?}");
        assert_eq!(parse(&stored), Ok(summary.directory));
        assert_eq!(read_all(&stored).expect("a sound slice").len(), 36);
        let Ok(Inspection::Slice(slice)) = inspect(&stored) else { panic!("{name} is a slice") };
        assert!(slice.damage.is_empty() && slice.first.len() == 5, "{slice:?}");
        let mut damaged = stored.clone();
        damaged[100] ^= 1;
        let Ok(Inspection::Slice(slice)) = inspect(&damaged) else { panic!("{name} is a slice") };
        assert_eq!(slice.damage.iter().map(|(part, _)| part.0).collect::<Vec<_>>(), [0]);
    }
}
