//! Lookups in images that lie alone in memory. `tests/asan.sh` builds this with AddressSanitizer: then the bytes before
//! and behind every part are forbidden ground, and reading one of them ends the test.

use std::collections::BTreeMap;
use std::sync::Arc;

use fkv_env::{Env, TaskHandle};
use fkv_formats::hash::unhash_u64;
use fkv_formats::id::{ContentId, PART_COUNT, Part, TableUid, Version};
use fkv_formats::record::RecordRef;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_formats::table::Profile;
use fkv_formats::table::mem::{MemLayout, build_part};
use fkv_rpc::packed::{
    Reply, ReplyHeader, ReplyWriter, Request, RequestHeader, RequestWriter, SectionHeader, SectionLabel, Selector,
    Shown, ValueForm, bytes_section_bytes, u64_section_bytes,
};

use super::*;
use crate::image::arena::ArenaBuilder;
use crate::image::{Group, ImageBuilder, Placed, Reaper};
use crate::ledger::Ledger;
use crate::lookup::{Conversion, answer_keys};

/// Bytes of forbidden ground.
const FENCE_BYTES: usize = 64;
const AS_OF: u32 = 100;
const READ_TS: u32 = 200;

#[cfg(fkv_asan)]
unsafe extern "C" {
    fn __asan_poison_memory_region(start: *const std::ffi::c_void, len: usize);
    fn __asan_unpoison_memory_region(start: *const std::ffi::c_void, len: usize);
}

/// Memory that nothing may read or write.
struct Fence(
    #[cfg_attr(not(fkv_asan), allow(dead_code, reason = "only AddressSanitizer can forbid memory"))] &'static [u8],
);

impl Fence {
    /// # Safety
    /// The bytes must stay mapped until this is dropped.
    unsafe fn around(bytes: &[u8]) -> Self {
        // SAFETY: they stay there as long as this value, the caller promises, and this value gives them to nobody.
        let bytes: &'static [u8] = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
        #[cfg(fkv_asan)]
        // SAFETY: this changes only what AddressSanitizer knows of the bytes.
        unsafe {
            __asan_poison_memory_region(bytes.as_ptr().cast(), bytes.len());
        }
        Self(bytes)
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        #[cfg(fkv_asan)]
        // SAFETY: as above.
        unsafe {
            __asan_unpoison_memory_region(self.0.as_ptr().cast(), self.0.len());
        }
    }
}

/// An image whose parts have fences around them.
struct Fenced {
    // Fields are dropped in this order: the fences go while the memory is still there.
    fences: Vec<Fence>,
    image: Image,
    _reaper: TaskHandle,
}

impl Fenced {
    fn new(env: &Env, parts: &[(Part, MemLayout, Vec<u8>)], empty: &[Part]) -> Self {
        let (reaper, task) = Reaper::start(env);
        let fence = [FENCE_BYTES];
        let lens: Vec<usize> = parts.iter().flat_map(|(_, _, bytes)| [FENCE_BYTES, bytes.len()]).chain(fence).collect();
        let mut arena = ArenaBuilder::new(lens.iter().sum()).expect("memory");
        for (region, (_, _, bytes)) in arena.regions(&lens).iter_mut().skip(1).step_by(2).zip(parts) {
            region.copy_from_slice(bytes);
        }
        let reservation = Ledger::new(u64::MAX, 0).reserve(0, 0).expect("nothing is asked for");
        let group = Arc::new(Group::new(arena.freeze().expect("read-only"), reservation, reaper));
        let mut builder = ImageBuilder::new(ContentId([1; 32]), Version(1), AS_OF, None);
        let mut start = 0;
        let placed = parts.iter().map(|(part, layout, bytes)| {
            start += FENCE_BYTES;
            let placed = Placed { group: 0, start, len: bytes.len(), layout: *layout };
            start += bytes.len();
            (*part, placed)
        });
        builder.add_group(Arc::clone(&group), placed.collect::<Vec<_>>());
        empty.iter().for_each(|part| builder.add_empty(*part));
        let image = builder.finish();
        let mut fences = Vec::new();
        let mut start = 0;
        for (number, len) in lens.iter().enumerate() {
            if number % 2 == 0 {
                // SAFETY: the memory is the group's, which the image holds; it is dropped after the fences.
                fences.push(unsafe { Fence::around(&group.bytes()[start..start + len]) });
            }
            start += len;
        }
        Self { fences, image, _reaper: task }
    }

    /// Whether bytes handed out are an image's.
    fn has(&self, bytes: &[u8]) -> bool {
        let range = bytes.as_ptr_range();
        let mut groups = self.image.groups().map(|group| group.bytes().as_ptr_range());
        bytes.is_empty() || groups.any(|group| group.start <= range.start && range.end <= group.end)
    }
}

/// A table of some parts: what it must answer, by key.
struct Table {
    schema: Schema,
    parts: Vec<(Part, MemLayout, Vec<u8>)>,
    empty: Vec<Part>,
    model: BTreeMap<OwnedKey, (u32, Vec<u8>)>,
    absent: Vec<OwnedKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum OwnedKey {
    U64(u64),
    Bytes(Vec<u8>),
}

impl OwnedKey {
    fn as_key(&self) -> Key<'_> {
        match self {
            Self::U64(key) => Key::U64(*key),
            Self::Bytes(key) => Key::Bytes(key),
        }
    }
}

fn schema(key: KeyType, value: ValueType, ttl: bool) -> Schema {
    let (storage, f16_overflow) = (Storage::Native, F16Overflow::Reject);
    Schema { kind: TableKind::Mem, key, value, storage, f16_overflow, ttl }
}

/// All shapes, the widths that have code of their own, and those that have none.
fn schemas() -> Vec<Schema> {
    let mut schemas = Vec::new();
    for ttl in [false, true] {
        for value in [
            ValueType::F16(1),
            ValueType::F32(1),
            ValueType::I64,
            ValueType::F32(4),
            ValueType::F16(3),
            ValueType::F32(5),
            ValueType::F32(40),
            ValueType::Bytes,
        ] {
            schemas.push(schema(KeyType::U64, value, ttl));
        }
        schemas.extend([ValueType::Bytes, ValueType::F32(2)].map(|value| schema(KeyType::Bytes, value, ttl)));
    }
    schemas
}

/// The first hash of a part, and how many it has.
fn hashes(part: Part) -> (u64, u64) {
    let first = (u128::from(part.0) << 64).div_ceil(u128::from(PART_COUNT)) as u64;
    (first, u64::MAX / u64::from(PART_COUNT) - 1)
}

/// Random numbers of a test, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash_u64(self.0)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

impl Table {
    /// Parts of one record and of many, a sorted one, one whose slots are of another width, an empty one, and one that is not
    /// there.
    fn new(schema: &Schema) -> Self {
        let mut random = Random(7);
        let mut keys: Vec<OwnedKey> = Vec::new();
        let mut absent: Vec<OwnedKey> = Vec::new();
        let (empty, missing) = (Part(9), Part(10));
        match schema.key {
            KeyType::U64 => {
                let uniform = [(0, 1), (1, 7), (2, 60), (3, 900), (2399, 300), (4, 6000)];
                for (part, count) in uniform {
                    let (first, width) = hashes(Part(part));
                    // To the very ends of the part.
                    let places = (0..count - 1).map(|_| random.next() % width).chain([width - 1]);
                    let here: Vec<u64> = places.map(|place| first + place).collect();
                    for h in &here {
                        absent.extend(
                            [h.wrapping_add(1), h.wrapping_sub(1), h ^ 1 << 33].map(|h| OwnedKey::U64(unhash_u64(h))),
                        );
                    }
                    keys.extend(here.into_iter().map(|h| OwnedKey::U64(unhash_u64(h))));
                }
                // So close together that the part is sorted.
                let (first, _) = hashes(Part(8));
                keys.extend((0..500).map(|at| OwnedKey::U64(unhash_u64(first + at))));
                for part in [empty, missing] {
                    let (first, width) = hashes(part);
                    absent.extend((0..50).map(|at| OwnedKey::U64(unhash_u64(first + at * (width / 50)))));
                }
                // Slots that are not in use look as if they held these.
                absent.extend((0..6).map(|part| OwnedKey::U64(unhash_u64(hashes(Part(part)).0 >> 48 << 48 | 1 << 50))));
            }
            KeyType::Bytes => {
                let parts = [0u16, 3, 700, 2399];
                let mut key =
                    |number: u64| OwnedKey::Bytes(format!("{number}:{}", "k".repeat(random.below(30))).into_bytes());
                for number in 0..400_000 {
                    let key = key(number);
                    let part = part_of(key.as_key().hash());
                    if part == empty || part == missing || number % 3 == 0 && parts.contains(&part.0) {
                        absent.push(key);
                    } else if parts.contains(&part.0) {
                        keys.push(key);
                    }
                }
            }
        }
        let mut model = BTreeMap::new();
        for key in keys {
            let len = schema.value.fixed_width().unwrap_or_else(|| random.below(90));
            let expiry = if schema.ttl { [0, 50, 150, 250][random.below(4)] } else { 0 };
            model.insert(key, (expiry, (0..len).map(|_| random.next() as u8).collect::<Vec<u8>>()));
        }
        absent.retain(|key| !model.contains_key(key));
        let mut records: Vec<RecordRef<'_>> =
            model.iter().map(|(key, (expiry, value))| RecordRef::new(key.as_key(), *expiry, Some(value))).collect();
        records.sort_by_key(RecordRef::order);
        let parts = records
            .chunk_by(|a, b| a.part() == b.part())
            .map(|records| {
                let part = records[0].part();
                let (layout, bytes) = build_part(schema, Profile::CURRENT, part, records, Vec::new()).expect("built");
                (part, layout, bytes)
            })
            .collect();
        Self { schema: schema.clone(), parts, empty: vec![empty], model, absent }
    }

    /// All keys, shuffled, packed as a request has them.
    fn requests(&self, random: &mut Random) -> Vec<(Vec<&OwnedKey>, Request)> {
        let mut keys: Vec<&OwnedKey> = self.model.keys().chain(&self.absent).collect();
        for at in (1..keys.len()).rev() {
            keys.swap(at, random.below(at + 1));
        }
        let mut requests = Vec::new();
        let mut rest = &keys[..];
        while !rest.is_empty() {
            // Of every length modulo the windows, now and then of a single key.
            let len = (1 + random.below(700)).min(rest.len());
            let (now, later) = rest.split_at(if len.is_multiple_of(13) { 1 } else { len });
            requests.push((now.to_vec(), request(now)));
            rest = later;
        }
        requests
    }

    /// What a key must be answered.
    fn expected(&self, key: &OwnedKey) -> Answer<'_> {
        let part = part_of(key.as_key().hash());
        match self.model.get(key) {
            Some((expiry, value)) if *expiry == 0 || *expiry > READ_TS => Answer::Found(value),
            Some((expiry, _)) if *expiry > AS_OF => Answer::Missing(KeyStatus::Expired),
            Some(_) => Answer::Missing(KeyStatus::Absent),
            None if self.empty.contains(&part) || self.parts.iter().any(|(other, ..)| *other == part) => {
                Answer::Missing(KeyStatus::Absent)
            }
            None => NOT_HERE,
        }
    }
}

fn request(keys: &[&OwnedKey]) -> Request {
    let section = SectionHeader { table: TableUid(1), selector: Selector::Aligned, form: ValueForm::Native };
    let numbers: Vec<u64> =
        keys.iter().filter_map(|key| if let OwnedKey::U64(key) = key { Some(*key) } else { None }).collect();
    let names: Vec<&[u8]> =
        keys.iter().filter_map(|key| if let OwnedKey::Bytes(key) = key { Some(&key[..]) } else { None }).collect();
    let key_bytes = names.iter().map(|key| key.len()).sum();
    let header = RequestHeader { canary: false, generation: 1, read_ts_ms: u64::from(READ_TS) * 1000 };
    let mut writer =
        RequestWriter::new(header, u64_section_bytes(numbers.len()) + bytes_section_bytes(names.len(), key_bytes));
    if names.is_empty() {
        writer.u64_section(section, numbers.into_iter());
    } else {
        writer.bytes_section(section, key_bytes, names.into_iter());
    }
    Request::parse(writer.finish()).expect("a request")
}

/// Calls `sink` with every answer, in every way to compare that this CPU has; `which` numbers the ways.
fn run_every_way<'a>(batch: Batch<'a>, mut sink: impl FnMut(usize, Answer<'a>)) -> usize {
    let mut sink = |way, answer| -> Result<(), SectionStatus> {
        sink(way, answer);
        Ok(())
    };
    let lines = batch.image.lines();
    let Some(format) = lines.format() else {
        batch.run(|answer| sink(0, answer)).expect("nobody objects");
        return 1;
    };
    let mut ways = 0;
    macro_rules! way {
        ($probe:expr) => {{
            let probe = $probe;
            let one = One { batch: &batch, format, sink: |answer| sink(ways, answer) };
            if format.shape() == Shape::Inline {
                pass::<_, _, LINES_WINDOW>(lines, batch.keys, format, probe, one).expect("nobody objects");
            } else {
                pass::<_, _, RECORDS_WINDOW>(lines, batch.keys, format, probe, one).expect("nobody objects");
            }
            ways += 1;
        }};
    }
    way!(Words(format));
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(pairs) = Pairs::new(&format) {
            way!(pairs);
        }
        if let Some(permuted) = Permuted::<false>::new(format) {
            way!(permuted);
        }
        if let Some(permuted) = Permuted::<true>::new(format) {
            way!(permuted);
        }
    }
    // The way the server takes.
    batch.run(|answer| sink(ways, answer)).expect("nobody objects");
    ways + 1
}

#[tokio::test]
async fn no_lookup_leaves_its_image_and_all_ways_to_compare_answer_alike() {
    let env = Env::real(1).expect("an environment");
    let mut most_ways = 0;
    for schema in schemas() {
        let table = Table::new(&schema);
        let fenced = Fenced::new(&env, &table.parts, &table.empty);
        assert_eq!(fenced.fences.len(), table.parts.len() + 1);
        for (keys, request) in table.requests(&mut Random(1)) {
            let section = request.sections().next().expect("one section");
            let batch = Batch { image: &fenced.image, keys: section.keys, as_of: AS_OF, read_ts_s: READ_TS };
            let mut seen = [0; 8];
            let ways = run_every_way(batch, |way, answer| {
                let key = keys[seen[way]];
                assert_eq!(answer, table.expected(key), "{schema:?}, way {way}: {key:?}");
                seen[way] += 1;
            });
            assert!(seen[..ways].iter().all(|seen| *seen == keys.len()), "every key has an answer");
            most_ways = most_ways.max(ways);
            check_reply(&table, &keys, batch);
        }
    }
    #[cfg(target_arch = "x86_64")]
    assert!(most_ways >= 3, "the commonest stride is compared in pairs too");
}

/// The whole of a section, as it goes into the reply.
fn check_reply(table: &Table, keys: &[&OwnedKey], batch: Batch<'_>) {
    let shown = Shown { version: Version(1), content: ContentId([1; 32]), epoch: fkv_formats::id::Epoch(1) };
    let label = SectionLabel { served: Some(shown), ..SectionLabel::unknown(TableUid(1)) };
    let conversion = Conversion::new(&table.schema, ValueForm::Native).expect("the native form is always there");
    let mut writer = ReplyWriter::new(ReplyHeader::default(), 100, 1 << 24);
    answer_keys(&mut writer, label, batch, conversion).expect("the reply is small");
    let reply = Reply::parse(writer.finish()).expect("a reply");
    let section = reply.section(0).expect("one section");
    assert_eq!((section.status(), section.key_count()), (SectionStatus::Ok, keys.len()));
    for (key, (status, value)) in keys.iter().zip(section.answers()) {
        let answer = if status == KeyStatus::Found { Answer::Found(value) } else { Answer::Missing(status) };
        assert_eq!(answer, table.expected(key), "{key:?}");
    }
}

/// Images are verified when they are loaded. Should one be damaged all the same, lookups may find something wrong, but
/// nothing outside of it.
#[tokio::test]
async fn no_lookup_leaves_an_image_that_is_damaged() {
    let env = Env::real(1).expect("an environment");
    let mut random = Random(3);
    for schema in schemas() {
        let table = Table::new(&schema);
        let requests = table.requests(&mut random);
        for round in 0..12 {
            let mut parts = table.parts.clone();
            for (_, _, bytes) in &mut parts {
                damage(bytes, round, &mut random);
            }
            let fenced = Fenced::new(&env, &parts, &table.empty);
            for (keys, request) in requests.iter().take(8) {
                let section = request.sections().next().expect("one section");
                let batch = Batch { image: &fenced.image, keys: section.keys, as_of: AS_OF, read_ts_s: READ_TS };
                let mut answers = 0;
                let ways = run_every_way(batch, |_, answer| {
                    answers += 1;
                    if let Answer::Found(value) = answer {
                        assert!(fenced.has(value), "values are part of the image");
                        assert!(schema.value.fixed_width().is_none_or(|width| width == value.len()));
                    }
                });
                assert_eq!(answers, ways * keys.len());
            }
        }
    }
}

/// Changes an image: in a few places, in all meta bytes, or everywhere.
fn damage(bytes: &mut [u8], round: usize, random: &mut Random) {
    match round % 4 {
        0 => {
            for _ in 0..bytes.len() / 20 {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
        }
        // More slots in use than there are, the farthest reach.
        1 => bytes.iter_mut().skip(63).step_by(64).for_each(|meta| *meta = 0xff),
        2 => bytes.iter_mut().skip(63).step_by(64).for_each(|meta| *meta = random.next() as u8),
        _ => bytes.fill_with(|| if random.below(3) == 0 { 0xff } else { random.next() as u8 }),
    }
}
