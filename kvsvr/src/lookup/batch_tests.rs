//! Whole batches against a model, by the server's own path and whatever instructions this CPU has: keys there and not
//! there, of the home line, the next one and those far behind, of sorted, empty and absent parts, and those that look like
//! a slot not in use.

use std::collections::BTreeMap;

use fkv_env::Env;
use fkv_formats::hash::{hash_bytes, hash_u64, unhash_u64};
use fkv_formats::id::{Part, TableUid};
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::route::part_of;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::Profile;
use fkv_formats::table::mem::{Probe, build_part};
use fkv_rpc::packed::{
    KeyStatus, Reply, Request, RequestHeader, RequestWriter, SectionHeader, Selector, ValueForm, bytes_section_bytes,
    u64_section_bytes,
};

use crate::measure::Table;

const PARTS: u16 = 40;
/// A part that is not in the image.
const ABSENT: Part = Part(7);
/// A part so full of one place that it is sorted.
const CROWDED: u16 = 9;
const LENGTHS: [usize; 10] = [1, 2, 63, 64, 65, 127, 128, 129, 300, 4096];

fn is_here(h: u64) -> bool {
    part_of(h) < Part(PARTS) && part_of(h) != ABSENT
}

fn schema(key: KeyType, value: ValueType, ttl: bool) -> Schema {
    let (storage, f16_overflow) = (Storage::Native, F16Overflow::Reject);
    Schema { kind: TableKind::Mem, key, value, storage, f16_overflow, ttl }
}

/// A value that tells its key.
fn value(h: u64, len: usize) -> Vec<u8> {
    hash_u64(h).to_le_bytes().iter().cycle().take(len).copied().collect()
}

/// Random hashes; ones that share a home, so that they spill over many lines; ones whose stored bits are zero.
fn number_hashes() -> Vec<u64> {
    let per_part = u64::MAX / 2400;
    let mut hashes = Vec::new();
    for part in 0..PARTS {
        let start = u64::from(part) * per_part + per_part / 1000;
        let mut random = 0x5eed ^ u64::from(part);
        for i in 0..900 {
            random = hash_u64(random.wrapping_add(i));
            hashes.push(start + ((u128::from(random) * u128::from(per_part / 1000 * 990)) >> 64) as u64);
        }
        let crowd = if part == CROWDED { 5000 } else { 25 };
        hashes.extend((0..crowd).map(|i| start + per_part / 2 + i));
        hashes.extend((1..4).map(|i| (start + i * (per_part / 5)) >> 48 << 48));
    }
    hashes.sort_unstable();
    hashes.dedup();
    hashes.retain(|h| is_here(*h));
    hashes
}

/// The table of `model`: by hash, its key's record.
fn table<'m>(
    env: &Env,
    schema: &Schema,
    records: impl Iterator<Item = (u64, RecordRef<'m>)>,
) -> (Table, Vec<(Part, Probe)>) {
    let mut parts: BTreeMap<Part, Vec<RecordRef<'m>>> = BTreeMap::new();
    for (h, record) in records {
        parts.entry(part_of(h)).or_default().push(record);
    }
    let (mut built, mut probes) = (Vec::new(), Vec::new());
    for (part, mut records) in parts {
        records.sort_by_key(RecordRef::order);
        let (layout, bytes) = build_part(schema, Profile::CURRENT, part, &records, Vec::new()).expect("built");
        probes.push((part, layout.probe()));
        built.push((part, layout, bytes));
    }
    (Table::new(env, schema.clone(), &built).expect("an image"), probes)
}

const HEADER: SectionHeader =
    SectionHeader { table: TableUid(1), selector: Selector::Aligned, form: ValueForm::Native };

fn request(section_bytes: usize, write: impl FnOnce(&mut RequestWriter)) -> Request {
    let mut writer = RequestWriter::new(RequestHeader { canary: false, generation: 0, read_ts_ms: 0 }, section_bytes);
    write(&mut writer);
    Request::parse(writer.finish()).expect("a request")
}

/// The answers to `request` must be `expected`.
fn check<'e>(table: &Table, request: &Request, expected: impl Iterator<Item = (KeyStatus, &'e [u8])>) {
    let reply = Reply::parse(table.answer(request)).expect("a reply");
    let section = reply.section(0).expect("one section");
    let mut answers = section.answers();
    for (index, expected) in expected.enumerate() {
        assert_eq!(answers.next(), Some(expected), "key {index}");
    }
    assert_eq!(answers.next(), None);
}

fn expected(h: u64, found: Option<&Vec<u8>>) -> (KeyStatus, &[u8]) {
    match found {
        Some(value) => (KeyStatus::Found, value),
        None if is_here(h) => (KeyStatus::Absent, &[]),
        None => (KeyStatus::NotHere, &[]),
    }
}

#[tokio::test]
async fn every_number_has_the_answer_of_the_model() {
    let env = Env::real(1).expect("threads");
    let hashes = number_hashes();
    let mut asked: Vec<u64> = hashes.iter().flat_map(|h| [*h, *h ^ 1, h.wrapping_add(1 << 50)]).collect();
    asked.extend([0, u64::MAX, u64::MAX / 2]);
    let values = [
        ValueType::F16(1),
        ValueType::F32(1),
        ValueType::I64,
        ValueType::F32(2),
        ValueType::F32(3),
        ValueType::F32(4),
        ValueType::F32(16),
        ValueType::Bytes,
    ];
    for (value_type, ttl) in values.into_iter().flat_map(|value| [(value, false), (value, true)]) {
        let schema = schema(KeyType::U64, value_type, ttl);
        let len = |h: u64| value_type.fixed_width().unwrap_or((h % 200) as usize);
        let model: BTreeMap<u64, Vec<u8>> = hashes.iter().map(|h| (*h, value(*h, len(*h)))).collect();
        // What expires beyond the time of reading, which is 0 here, is as if it never did.
        let records = model.iter().map(|(h, value)| {
            let expiry = if ttl { (h % 2) as u32 } else { 0 };
            (*h, RecordRef::new(Key::U64(unhash_u64(*h)), expiry, Some(value)))
        });
        let (table, probes) = table(&env, &schema, records);
        assert!(probes.iter().all(|(part, probe)| (*probe == Probe::Sorted) == (part.0 == CROWDED)), "{value_type}");
        for length in LENGTHS {
            for hashes in asked.chunks(length).take(if length < 300 { 40 } else { usize::MAX }) {
                let request = request(u64_section_bytes(hashes.len()), |writer| {
                    writer.u64_section(HEADER, hashes.iter().map(|h| unhash_u64(*h)));
                });
                check(&table, &request, hashes.iter().map(|h| expected(*h, model.get(h))));
            }
        }
    }
}

#[tokio::test]
async fn every_name_has_the_answer_of_the_model() {
    let env = Env::real(1).expect("threads");
    // Of all lengths around those of registers; many enough that some share the stored bits of their home.
    let name = |number: u64| -> Vec<u8> {
        let len = 1 + (hash_u64(number) % 140) as usize;
        format!("{number:x}:").into_bytes().into_iter().cycle().take(len.max(6)).collect()
    };
    let model: BTreeMap<Vec<u8>, Vec<u8>> = (0..1_500_000)
        .map(|number| (name(number), number))
        .filter(|(name, _)| is_here(hash_bytes(name)))
        .map(|(name, number)| (name, value(number, (number % 300) as usize)))
        .collect();
    assert!(model.len() > 20_000, "{}", model.len());
    let others: Vec<Vec<u8>> =
        (1_500_000..1_800_000).map(name).filter(|name| part_of(hash_bytes(name)) < Part(PARTS)).collect();
    let asked: Vec<&Vec<u8>> = model.keys().chain(&others).chain(model.keys().step_by(7)).collect();
    for value_type in [ValueType::Bytes, ValueType::F32(1)] {
        let schema = schema(KeyType::Bytes, value_type, false);
        let cut = |value: &Vec<u8>| match value_type.fixed_width() {
            Some(width) => value.iter().copied().chain([1, 2, 3, 4]).take(width).collect(),
            None => value.clone(),
        };
        let model: BTreeMap<&Vec<u8>, Vec<u8>> = model.iter().map(|(key, value)| (key, cut(value))).collect();
        let records =
            model.iter().map(|(key, value)| (hash_bytes(key), RecordRef::new(Key::Bytes(key), 0, Some(value))));
        let (table, _) = table(&env, &schema, records);
        for length in LENGTHS {
            for keys in asked.chunks(length).take(if length < 300 { 40 } else { usize::MAX }) {
                let bytes = keys.iter().map(|key| key.len()).sum();
                let request = request(bytes_section_bytes(keys.len(), bytes), |writer| {
                    writer.bytes_section(HEADER, bytes, keys.iter().map(|key| key.as_slice()));
                });
                check(&table, &request, keys.iter().map(|key| expected(hash_bytes(key), model.get(*key))));
            }
        }
    }
}
