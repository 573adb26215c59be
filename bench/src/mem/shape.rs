//! The two data sets: what their keys and values are, and the tables of them.

use fkv_env::Env;
use fkv_formats::hash::hash_u64;
use fkv_formats::id::{PART_COUNT, Part, TableUid};
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::route::part_of;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::Profile;
use fkv_formats::table::mem::{self, MemLayout, build_part};
use fkv_kvsvr::measure::Table;
use fkv_rpc::packed::{
    KeyStatus, Request, RequestHeader, RequestWriter, SectionHeader, Selector, ValueForm, bytes_section_bytes,
    u64_section_bytes,
};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::{BATCH, parse, ratio};
use crate::huge::HugeAllocator;

const HEADER: SectionHeader =
    SectionHeader { table: TableUid(1), selector: Selector::Aligned, form: ValueForm::Native };

/// A data set. Its keys are numbered; those below the count are in the table.
pub(super) trait Shape {
    const NAME: &'static str;
    /// Bytes of a key and its value.
    const RAW_BYTES: f64;
    const MEMORY_GOAL: f64;
    const GATHER_GOAL: f64;
    type Key: Copy + Eq + std::hash::Hash + Send + Sync;
    type Value: Copy + Default + PartialEq + AsRef<[u8]> + Send + Sync;

    fn schema() -> Schema;
    fn key(number: u64) -> Self::Key;
    fn as_key(key: &Self::Key) -> Key<'_>;
    fn value(number: u64) -> Self::Value;
    /// A request for the keys of these numbers.
    fn request(numbers: &[u64]) -> Request;
}

fn schema(key: KeyType, value: ValueType) -> Schema {
    let (storage, f16_overflow) = (Storage::Native, F16Overflow::Reject);
    Schema { kind: TableKind::Mem, key, value, storage, f16_overflow, ttl: false }
}

fn request(section_bytes: usize, write: impl FnOnce(&mut RequestWriter)) -> Request {
    let mut writer = RequestWriter::new(RequestHeader { canary: false, generation: 0, read_ts_ms: 0 }, section_bytes);
    write(&mut writer);
    Request::parse(writer.finish()).expect("a request that was just written")
}

/// One `f32` per `u64`.
pub(super) enum Floats {}

impl Shape for Floats {
    const NAME: &'static str = "floats";
    const RAW_BYTES: f64 = 12.0;
    const MEMORY_GOAL: f64 = 1.0;
    const GATHER_GOAL: f64 = 0.85;
    type Key = u64;
    type Value = [u8; 4];

    fn schema() -> Schema {
        schema(KeyType::U64, ValueType::F32(1))
    }

    fn key(number: u64) -> u64 {
        number
    }

    fn as_key(key: &u64) -> Key<'_> {
        Key::U64(*key)
    }

    fn value(number: u64) -> [u8; 4] {
        ((hash_u64(number) >> 40) as f32).to_le_bytes()
    }

    fn request(numbers: &[u64]) -> Request {
        request(u64_section_bytes(numbers.len()), |writer| writer.u64_section(HEADER, numbers.iter().copied()))
    }
}

/// 100 bytes per key of 16 bytes.
pub(super) enum Records {}

/// [`Default`] is not there for arrays of this length.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Hundred([u8; 100]);

impl Default for Hundred {
    fn default() -> Self {
        Self([0; 100])
    }
}

impl AsRef<[u8]> for Hundred {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Shape for Records {
    const NAME: &'static str = "records";
    const RAW_BYTES: f64 = 116.0;
    const MEMORY_GOAL: f64 = 1.15;
    const GATHER_GOAL: f64 = 0.75;
    type Key = [u8; 16];
    type Value = Hundred;

    fn schema() -> Schema {
        schema(KeyType::Bytes, ValueType::Bytes)
    }

    /// `user:` and eleven digits.
    fn key(number: u64) -> [u8; 16] {
        let mut key = *b"user:00000000000";
        let mut left = number;
        for digit in key[5..].iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
        }
        key
    }

    fn as_key(key: &[u8; 16]) -> Key<'_> {
        Key::Bytes(key)
    }

    fn value(number: u64) -> Hundred {
        let mut value = [0; 100];
        for (index, eight) in value.chunks_mut(8).enumerate() {
            eight.copy_from_slice(&hash_u64(number ^ (index as u64) << 56).to_le_bytes()[..eight.len()]);
        }
        Hundred(value)
    }

    fn request(numbers: &[u64]) -> Request {
        let keys: Vec<[u8; 16]> = numbers.iter().map(|number| Self::key(*number)).collect();
        let bytes = 16 * keys.len();
        request(bytes_section_bytes(keys.len(), bytes), |writer| {
            writer.bytes_section(HEADER, bytes, keys.iter().map(<[u8; 16]>::as_slice));
        })
    }
}

type Rival<S> =
    hashbrown::HashMap<<S as Shape>::Key, <S as Shape>::Value, hashbrown::DefaultHashBuilder, HugeAllocator>;

/// The tables of one data set.
pub(super) struct Data<S: Shape> {
    pub(super) table: Table,
    layouts: Vec<Option<(usize, MemLayout)>>,
    rival: Rival<S>,
    count: usize,
}

impl<S: Shape> Data<S> {
    /// The tables of the keys below `count`.
    pub(super) fn build(env: &Env, count: usize) -> Result<Self, String> {
        let mut keys: Vec<(u64, u32)> = (0..u32::try_from(count).map_err(|_| "too many keys")?)
            .into_par_iter()
            .map(|number| (S::as_key(&S::key(number.into())).hash(), number))
            .collect();
        keys.par_sort_unstable();
        let schema = S::schema();
        let built: Vec<Option<(Part, MemLayout, Vec<u8>)>> = (0..PART_COUNT)
            .into_par_iter()
            .map(|number| {
                let part = Part(number);
                let mine = &keys[keys.partition_point(|(h, _)| part_of(*h) < part)..];
                let mine = &mine[..mine.partition_point(|(h, _)| part_of(*h) == part)];
                if mine.is_empty() {
                    return Ok(None);
                }
                let rows: Vec<(u64, S::Key, S::Value)> =
                    mine.iter().map(|(h, number)| (*h, S::key((*number).into()), S::value((*number).into()))).collect();
                let records: Vec<RecordRef<'_>> = rows
                    .iter()
                    .map(|(h, key, value)| RecordRef {
                        h: *h,
                        key: S::as_key(key),
                        expiry: 0,
                        value: Some(value.as_ref()),
                    })
                    .collect();
                let (layout, bytes) = build_part(&schema, Profile::CURRENT, part, &records, Vec::new())
                    .map_err(|error| error.to_string())?;
                // Records of any length begin parts; the index begins at a line.
                Ok(Some((part, layout, bytes)))
            })
            .collect::<Result<_, String>>()?;
        drop(keys);
        let mut layouts = vec![None; usize::from(PART_COUNT)];
        let mut start = 0;
        let built: Vec<(Part, MemLayout, Vec<u8>)> = built.into_iter().flatten().collect();
        for (part, layout, bytes) in &built {
            layouts[usize::from(part.0)] = Some((start, *layout));
            start += bytes.len();
        }
        let table = Table::new(env, schema, &built).map_err(|error| error.to_string())?;
        drop(built);
        let mut rival = Rival::<S>::with_capacity_and_hasher_in(count, Default::default(), HugeAllocator);
        for number in 0..count as u64 {
            rival.insert(S::key(number), S::value(number));
        }
        Ok(Self { table, layouts, rival, count })
    }

    /// The numbers of `len` keys, `hit_percent` of them in the table.
    pub(super) fn questions(&self, hit_percent: u64, len: usize) -> Vec<u64> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            hash_u64(state)
        };
        (0..len)
            .map(|_| {
                let number = ((u128::from(next()) * self.count as u128) >> 64) as u64;
                if next() % 100 < hit_percent { number } else { number + self.count as u64 }
            })
            .collect()
    }

    /// Checks every answer.
    pub(super) fn check(&self, numbers: &[u64], requests: &[Request]) -> Result<(), String> {
        for (numbers, request) in numbers.chunks(BATCH).zip(requests) {
            let reply = parse(self.table.answer(request))?;
            let section = reply.section(0).ok_or("a reply without a section")?;
            let mut answers = section.answers();
            for number in numbers {
                let (status, value) = answers.next().ok_or("too few answers")?;
                let found = (status == KeyStatus::Found).then_some(value);
                let expected = self.rival.get(&S::key(*number)).map(AsRef::as_ref);
                if found != expected {
                    return Err(format!("key {number} has {found:?}, not {expected:?}"));
                }
            }
        }
        Ok(())
    }

    /// How many cache lines a lookup has to read, on average: index lines up to the one that has the key or proves it
    /// absent, and the lines of its record.
    pub(super) fn lines_per_key(&self, numbers: &[u64]) -> f64 {
        let lines = numbers.iter().map(|number| self.lines_of(*number)).sum();
        ratio(lines, numbers.len())
    }

    fn lines_of(&self, number: u64) -> usize {
        let key = S::key(number);
        let h = S::as_key(&key).hash();
        let Some((start, layout)) = &self.layouts[usize::from(part_of(h).0)] else { return 0 };
        let Some(format) = layout.line_format() else { return 0 };
        let image = &self.table.bytes()[*start..*start + layout.data_len() as usize];
        let (lines, _) = image[layout.first_line(h)..].as_chunks::<64>();
        let distance = format.distance_max(&lines[0]) as usize;
        let wanted = h & format.mask();
        let is_there = number < self.count as u64;
        for (behind, line) in lines.iter().enumerate().take(distance + 1) {
            let slots = format.matching(line, wanted);
            if slots != 0 && is_there {
                let is_outside = format.shape() != mem::Shape::Inline;
                let record = if is_outside {
                    let at = format.record_at(line, slots.trailing_zeros() as u8) as usize;
                    let record = format.read_record(&image[at..]);
                    // Two lengths of one byte, the key and the value.
                    let len = record.map_or(0, |(key, found)| 2 + key.len() + found.value.len());
                    let end = at + len;
                    (*start + end).div_ceil(64) - (*start + at) / 64
                } else {
                    0
                };
                return behind + 1 + record;
            }
            if behind > 0 && format.ends(line) {
                return behind + 1;
            }
        }
        distance + 1
    }

    pub(super) fn look_up_rival(&self, numbers: &[u64]) {
        let mut values = vec![S::Value::default(); BATCH];
        for batch in numbers.chunks(BATCH) {
            for (value, number) in values.iter_mut().zip(batch) {
                if let Some(stored) = self.rival.get(&S::key(*number)) {
                    *value = *stored;
                }
            }
            std::hint::black_box(&values);
        }
    }
}
