//! Every way a key in memory can be found or missed, asked of the batch lookup that requests use.

use std::collections::{BTreeMap, BTreeSet};

use fkv_env::Env;
use fkv_formats::hash::unhash_u64;
use fkv_formats::id::PART_COUNT;
use fkv_formats::schema::{KeyType, Schema, ValueType};
use fkv_formats::table::mem::LineFormat;
use fkv_rpc::packed::{Reply, Shown, ValueForm};

use super::*;
use crate::image::{HeldPart, ImageBuilder};
use crate::testing::{self, OwnedKey, Row, add_memory, keys_of, memory};

/// What is known of a key: its status, and its value if it is found.
type Known = (KeyStatus, Vec<u8>);

const AS_OF: u32 = 1000;
const READ_TS_S: u32 = 2000;

fn mem(key: KeyType, value: ValueType) -> Schema {
    testing::schema(TableKind::Mem, key, value)
}

/// The answers to `keys`, in all ways that a section is answered on some CPU.
fn answers(image: &Image, schema: &Schema, keys: &[OwnedKey]) -> Vec<Known> {
    let request = testing::request(keys);
    let section = request.sections().next().expect("one section");
    let batch = Batch { image, keys: section.keys, as_of: image.as_of(), read_ts_s: READ_TS_S };
    let known = |answer: Answer<'_>| match answer {
        Answer::Found(value) => (KeyStatus::Found, value.to_vec()),
        Answer::Missing(status) => (status, Vec::new()),
    };
    let mut answers = Vec::new();
    let run = batch.run(|answer| {
        answers.push(known(answer));
        Ok(())
    });
    assert_eq!(run, Ok(()));
    for by_words in [false, true] {
        let mut plainly = Vec::new();
        let run = batch.run_plainly(by_words, |answer| {
            plainly.push(known(answer));
            Ok(())
        });
        if let Some(run) = run {
            assert_eq!(run, Ok(()));
            assert!(plainly == answers, "all ways to compare agree");
        }
    }

    let conversion = Conversion::new(schema, ValueForm::Native).expect("the native form is always there");
    let replied = replied(|writer| answer_keys(writer, label(), batch, conversion).expect("it fits"));
    assert_eq!(replied, answers, "both ways to answer agree");
    if let Some(width) = schema.stored_width().filter(|width| batch.is_plain(*width)) {
        let fill = match width {
            2 => Batch::fill_plainly::<2>,
            4 => Batch::fill_plainly::<4>,
            8 => Batch::fill_plainly::<8>,
            16 => Batch::fill_plainly::<16>,
            _ => return answers,
        };
        let filled = self::replied(|writer| {
            let mut dense = writer.dense(label(), schema.value, keys.len()).expect("it fits");
            fill(&batch, &mut dense).expect("filled");
            dense.finish();
        });
        assert!(filled == answers, "all ways to fill agree");
    }
    answers
}

fn label() -> SectionLabel {
    let shown = Shown { version: testing::VERSION, content: testing::CONTENT, epoch: Default::default() };
    SectionLabel { served: Some(shown), ..SectionLabel::unknown(testing::UID) }
}

/// The answers of a section that is written so.
fn replied(write: impl FnOnce(&mut ReplyWriter)) -> Vec<Known> {
    let mut writer = ReplyWriter::new(ReplyHeader::default(), 0, 64 << 20);
    write(&mut writer);
    let reply = Reply::parse(writer.finish()).expect("a good reply");
    let section = reply.section(0).expect("one section");
    assert_eq!(section.status(), SectionStatus::Ok);
    section.answers().map(|(status, value)| (status, value.to_vec())).collect()
}

/// Asks for `keys` many times over, in batches that end anywhere in a window, and compares every answer.
fn check(image: &Image, schema: &Schema, keys: &[OwnedKey], known: impl Fn(&OwnedKey) -> Known) {
    let short =
        [1, 2, 63, 64, 65, 127, 128, 129, 300].into_iter().flat_map(|len| keys.chunks(len).take(300 / len.min(30)));
    for batch in keys.chunks(10_000).chain(short) {
        for (key, found) in batch.iter().zip(answers(image, schema, batch)) {
            assert_eq!(found, known(key), "{key:?} with hash {:x}", key.borrow().hash());
        }
    }
}

/// A value that tells its key.
fn value_of(schema: &Schema, key: &OwnedKey) -> Vec<u8> {
    let h = key.borrow().hash();
    let len = schema.stored_width().unwrap_or(h as usize % 40);
    h.to_le_bytes().into_iter().cycle().take(len).collect()
}

fn row(schema: &Schema, key: OwnedKey) -> Row {
    let value = value_of(schema, &key);
    Row { key, expiry: 0, value }
}

/// When a record of this number expires, and what that makes of it.
fn expiry(number: usize) -> (u32, KeyStatus) {
    match number % 5 {
        0 => (AS_OF, KeyStatus::Absent),
        1 => (AS_OF + 1, KeyStatus::Expired),
        2 => (READ_TS_S, KeyStatus::Expired),
        3 => (READ_TS_S + 1, KeyStatus::Found),
        _ => (0, KeyStatus::Found),
    }
}

/// An image, and what is known of keys that were put into it.
struct Model {
    image: Image,
    here: BTreeMap<OwnedKey, Known>,
    held: PartSet,
}

impl Model {
    /// An image of parts with `keys`, and of parts without records.
    fn new(schema: &Schema, keys: impl Iterator<Item = OwnedKey>, empty: &[u16]) -> Self {
        let env = Env::real(1).expect("threads start");
        let (mut rows, mut here) = (Vec::new(), BTreeMap::new());
        for (number, key) in keys.enumerate() {
            let (expiry, status) = if schema.ttl { expiry(number) } else { (0, KeyStatus::Found) };
            let value = value_of(schema, &key);
            let known = if status == KeyStatus::Found { value.clone() } else { Vec::new() };
            assert!(here.insert(key.clone(), (status, known)).is_none(), "{key:?} is there once");
            rows.push(Row { key, expiry, value });
        }
        let mut builder = memory(AS_OF);
        add_memory(&env, &mut builder, schema, &rows);
        empty.iter().for_each(|part| builder.add_empty(Part(*part)));
        let image = builder.finish();
        let held = image.parts().clone();
        Self { image, here, held }
    }

    fn known(&self, key: &OwnedKey) -> Known {
        let nothing = |status| (status, Vec::new());
        if !self.held.contains(part_of(key.borrow().hash())) {
            return nothing(KeyStatus::NotHere);
        }
        self.here.get(key).cloned().unwrap_or_else(|| nothing(KeyStatus::Absent))
    }

    /// Asks for the keys that are there, and for `others`.
    fn check(&self, schema: &Schema, others: impl IntoIterator<Item = OwnedKey>) {
        let keys: Vec<OwnedKey> = self.here.keys().cloned().chain(others).collect();
        check(&self.image, schema, &keys, |key| self.known(key));
    }

    /// The reach of every key's home.
    fn reaches(&self) -> BTreeSet<u8> {
        let lines = self.image.lines();
        self.here.keys().map(|key| LineFormat::reach(lines.home(key.borrow().hash()).line())).collect()
    }
}

/// Hashes of a part: `count` evenly spread, and crowds that spill over one line and more.
fn crowded(part: u16, count: u64) -> BTreeSet<u64> {
    const CROWDS: [u64; 8] = [7, 12, 18, 24, 30, 40, 60, 90];
    let mut hashes: BTreeSet<u64> = keys_of(Part(part), count).map(hash_u64).collect();
    let even: Vec<u64> = hashes.iter().copied().collect();
    for (number, size) in CROWDS.into_iter().enumerate() {
        let begin = even[even.len() * number / CROWDS.len() + 3] + 1;
        hashes.extend(begin..begin + size);
    }
    hashes
}

/// The hash that ends in seven bytes of zeros, as do slots not in use, and the part it is in.
fn vague(number: u64) -> (u64, u16) {
    let h = number << 56;
    (h, part_of(h).0)
}

#[tokio::test]
async fn numbers_are_found_wherever_they_are_and_missed_wherever_they_are_not() {
    for value in [
        ValueType::F16(1),
        ValueType::F32(1),
        ValueType::I64,
        ValueType::F32(3),
        ValueType::F32(4),
        ValueType::F32(16),
        ValueType::Bytes,
    ] {
        for ttl in [false, true] {
            let schema = Schema { ttl, ..mem(KeyType::U64, value) };
            // A crowd that begins with a vague hash, one that ends with one, and one without any.
            let ((first, first_part), (last, last_part), (lacking, lacking_part)) = (vague(1), vague(2), vague(3));
            let mut hashes = crowded(first_part, 1500);
            hashes.extend((first..first + 60).chain(crowded(last_part, 1500)).chain(last - 59..=last));
            hashes.extend(crowded(lacking_part, 1500).into_iter().filter(|h| *h != lacking));
            // A part of another format, two that are sorted, one of them with a vague hash.
            let (in_sorted, sorted_part) = vague(4);
            hashes.extend(keys_of(Part(2300), 3).map(hash_u64));
            hashes
                .extend((in_sorted..in_sorted + 400).chain(keys_of(Part(8), 1).map(hash_u64).flat_map(|h| h..h + 400)));
            let (in_empty, empty_part) = vague(5);
            let (elsewhere, _) = vague(6);

            let numbers = hashes.iter().map(|h| OwnedKey::U64(unhash_u64(*h)));
            let model = Model::new(&schema, numbers, &[empty_part, 11]);
            let formats = formats(&model.image);
            assert_eq!(model.image.lines().format(), formats[&first_part], "{schema:?}");
            assert_eq!((formats[&sorted_part], formats[&8]), (None, None), "these crowds are searched");
            assert!(formats[&2300].is_some() && formats[&2300] != formats[&first_part]);
            assert!(model.reaches().is_superset(&(0..=7).collect()), "{:?}", model.reaches());

            // Beside those that are there, and where nothing is.
            let beside = hashes.iter().flat_map(|h| [h + 1, h - 1, h ^ 1 << 40, h ^ 1 << 63]);
            let nowhere = [11, 12].into_iter().flat_map(|part| keys_of(Part(part), 100).map(hash_u64));
            let others: BTreeSet<u64> = beside.chain(nowhere).chain([lacking, in_empty, elsewhere]).collect();
            let others = others.difference(&hashes).map(|h| OwnedKey::U64(unhash_u64(*h)));
            model.check(&schema, others.collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn names_whose_bits_are_equal_are_told_apart() {
    // Few parts, so that some lines are crowded by chance.
    let names = (0..8_000_000_u32).map(|number| OwnedKey::Bytes(format!("name {number}").into_bytes()));
    let names: Vec<OwnedKey> = names.filter(|key| part_of(key.borrow().hash()).0 % 40 == 7).collect();
    let is_held = |key: &OwnedKey| part_of(key.borrow().hash()).0 % 80 == 7;
    for (value, ttl) in [(ValueType::Bytes, false), (ValueType::Bytes, true), (ValueType::F32(2), false)] {
        let schema = Schema { ttl, ..mem(KeyType::Bytes, value) };
        let half = names.len() / 2;
        let model = Model::new(&schema, names[..half].iter().filter(|key| is_held(key)).cloned(), &[8, 16]);
        let others: Vec<OwnedKey> = names.iter().filter(|key| !model.here.contains_key(key)).cloned().collect();

        let (image, format) = (&model.image, model.image.lines().format().expect("nothing is sorted"));
        let bits = |key: &OwnedKey| key.borrow().hash() & format.mask();
        // The first slot with a key's bits belongs to another key.
        let misleads = |key: &&OwnedKey| {
            let (h, home) = (key.borrow().hash(), image.lines().home(key.borrow().hash()));
            let of = |line| (line, format.matching(line, bits(key)));
            let hit = [of(home.line()), of(home.next())].into_iter().find(|(_, slots)| *slots != 0);
            hit.is_some_and(|(line, slots)| {
                let record = format.record_at(line, slots.trailing_zeros() as u8);
                let stored = image.lines().image(h).get(record as usize..).and_then(|bytes| format.read_record(bytes));
                stored.is_some_and(|(stored, _)| Key::Bytes(stored) != key.borrow())
            })
        };
        let is_vague = |key: &&OwnedKey| format.is_vague(bits(key));
        let absent = others.iter().filter(|key| is_held(key)).collect();
        for keys in [model.here.keys().collect::<Vec<_>>(), absent] {
            assert!(keys.iter().copied().filter(misleads).count() > 3, "some bits are equal");
            assert!(keys.iter().copied().filter(is_vague).count() > 0, "some are those of slots not in use");
        }
        assert!(model.reaches().is_superset(&(0..=3).collect()), "{:?}", model.reaches());
        model.check(&schema, others);
    }
}

#[tokio::test]
async fn an_image_without_records_tells_what_it_has_from_what_it_has_not() {
    let schema = mem(KeyType::U64, ValueType::F32(1));
    let mut builder = memory(AS_OF);
    builder.add_empty(Part(1));
    let image = builder.finish();
    assert_eq!(image.lines().format(), None);
    let keys: Vec<OwnedKey> = keys_of(Part(1), 5).chain(keys_of(Part(2), 5)).map(OwnedKey::U64).collect();
    let statuses: Vec<KeyStatus> = answers(&image, &schema, &keys).into_iter().map(|(status, _)| status).collect();
    assert_eq!((&statuses[..5], &statuses[5..]), (&[KeyStatus::Absent; 5][..], &[KeyStatus::NotHere; 5][..]));
}

/// The line formats of an image's parts.
fn formats(image: &Image) -> BTreeMap<u16, Option<LineFormat>> {
    let format = |part: u16| match image.part(Part(part)) {
        HeldPart::Data(_, layout) => Some((part, layout.line_format())),
        HeldPart::Not | HeldPart::Empty => None,
    };
    (0..PART_COUNT).filter_map(format).collect()
}

/// Near 8 million keys of a table of floats, parts lie on both sides of the number from which on one stored byte less
/// tells the keys of a line apart. Once, the part loaded first decided which of them were looked up quickly.
#[tokio::test]
async fn the_format_of_most_records_is_looked_up_quickly_whichever_part_comes_first() {
    let env = Env::real(1).expect("threads start");
    let schema = mem(KeyType::U64, ValueType::F32(1));
    // (records of the few parts, records of the many): one stored byte more for the few, then one less.
    for (few, many) in [(3200, 3600), (3600, 3200)] {
        let rows = |parts: &[u16], count| -> Vec<Row> {
            let keys = parts.iter().flat_map(|part| keys_of(Part(*part), count));
            keys.map(|key| row(&schema, OwnedKey::U64(key))).collect()
        };
        let (first, then) = (rows(&[3, 700], few), rows(&[4, 5, 6, 1200, 2399], many));
        let mut builder = memory(0);
        add_memory(&env, &mut builder, &schema, &first);
        add_memory(&env, &mut builder, &schema, &then);
        builder.add_empty(Part(10));
        let image = builder.finish();
        let formats = formats(&image);
        assert_ne!(formats[&3], formats[&4], "the parts have different formats");
        assert_eq!(image.lines().format(), formats[&4], "that of the many");
        assert!(formats[&4].is_some());

        let here: BTreeSet<u64> = first.iter().chain(&then).map(|row| row.key.borrow().hash()).collect();
        // Next to those that are there.
        let absent = [3, 4, 10, 11].into_iter().flat_map(|part| keys_of(Part(part), many));
        let absent = absent.map(|key| OwnedKey::U64(unhash_u64(hash_u64(key) + 1)));
        let keys: Vec<OwnedKey> = first.iter().chain(&then).map(|row| row.key.clone()).chain(absent).collect();
        let held = [3, 700, 4, 5, 6, 1200, 2399, 10].map(Part);
        let known = |key: &OwnedKey| {
            let h = key.borrow().hash();
            match (held.contains(&part_of(h)), here.contains(&h)) {
                (false, _) => (KeyStatus::NotHere, Vec::new()),
                (true, false) => (KeyStatus::Absent, Vec::new()),
                (true, true) => (KeyStatus::Found, value_of(&schema, key)),
            }
        };
        check(&image, &schema, &keys, known);

        // An image that goes on from this one decides anew.
        let mut builder = ImageBuilder::extending(&image);
        add_memory(&env, &mut builder, &schema, &rows(&[20, 21, 22, 23, 24, 25, 26], few));
        assert_eq!(builder.finish().lines().format(), formats[&3], "the many are the few now");
    }
}

/// Changes a part: in a few places, in the last byte of every line, or everywhere.
fn damage(bytes: &mut [u8], round: usize, seed: &mut u64) {
    let mut random = || {
        *seed = hash_u64(seed.wrapping_add(1));
        *seed as usize
    };
    match round % 4 {
        0 => {
            for _ in 0..bytes.len() / 20 {
                bytes[random() % bytes.len()] = random() as u8;
            }
        }
        // More slots in use than there are, the farthest reach.
        1 => bytes.iter_mut().skip(63).step_by(64).for_each(|meta| *meta = 0xff),
        2 => bytes.iter_mut().skip(63).step_by(64).for_each(|meta| *meta = random() as u8),
        _ => bytes.fill_with(|| if random() % 3 == 0 { 0xff } else { random() as u8 }),
    }
}

/// Images are verified when they are loaded. Should one be damaged all the same, lookups may find something wrong, but
/// nothing outside of it.
#[tokio::test]
async fn no_lookup_leaves_an_image_that_is_damaged() {
    let env = Env::real(1).expect("threads start");
    let mut seed = 3;
    for (key, value) in [
        (KeyType::U64, ValueType::F16(1)),
        (KeyType::U64, ValueType::F32(1)),
        (KeyType::U64, ValueType::F32(4)),
        (KeyType::U64, ValueType::F32(40)),
        (KeyType::U64, ValueType::Bytes),
        (KeyType::Bytes, ValueType::Bytes),
        (KeyType::Bytes, ValueType::F32(2)),
    ] {
        for (ttl, round) in [false, true].into_iter().flat_map(|ttl| (0..8).map(move |round| (ttl, round))) {
            let schema = Schema { ttl, ..mem(key, value) };
            let numbers: Vec<u64> = [0, 1, 700, 2399].into_iter().flat_map(|part| keys_of(Part(part), 700)).collect();
            let key_of = |number: u64| match key {
                KeyType::U64 => OwnedKey::U64(number),
                KeyType::Bytes => OwnedKey::Bytes(format!("name {number}").into_bytes()),
            };
            let rows: Vec<Row> = numbers.iter().map(|number| row(&schema, key_of(*number))).collect();
            let mut builder = memory(AS_OF);
            testing::add_changed_memory(&env, &mut builder, &schema, &rows, |bytes| damage(bytes, round, &mut seed));
            let image = builder.finish();
            let absent = numbers.iter().map(|number| key_of(number + 1));
            let keys: Vec<OwnedKey> = rows.iter().map(|row| row.key.clone()).chain(absent).collect();
            for keys in keys.chunks(1000).chain(keys.chunks(61).take(9)) {
                let request = testing::request(keys);
                let section = request.sections().next().expect("one section");
                let batch = Batch { image: &image, keys: section.keys, as_of: AS_OF, read_ts_s: READ_TS_S };
                let (mut answers, mut ways) = (0, 1);
                let mut sink = |answer: Answer<'_>| {
                    answers += 1;
                    if let Answer::Found(value) = answer {
                        assert!(is_part_of(&image, value), "values are part of the image");
                        assert!(schema.stored_width().is_none_or(|width| width == value.len()));
                    }
                    Ok(())
                };
                assert_eq!(batch.run(&mut sink), Ok(()));
                for by_words in [false, true] {
                    ways += usize::from(batch.run_plainly(by_words, &mut sink).is_some());
                }
                assert_eq!(answers, ways * keys.len(), "every key has an answer");
                let conversion = Conversion::new(&schema, ValueForm::Native).expect("the native form");
                let mut writer = ReplyWriter::new(ReplyHeader::default(), 0, 64 << 20);
                // What is wrong with a value may be told instead.
                let _ = answer_keys(&mut writer, label(), batch, conversion);
            }
        }
    }
}

/// Whether bytes handed out are an image's.
fn is_part_of(image: &Image, bytes: &[u8]) -> bool {
    let range = bytes.as_ptr_range();
    let mut groups = image.groups().map(|group| group.bytes().as_ptr_range());
    bytes.is_empty() || groups.any(|group| group.start <= range.start && range.end <= group.end)
}
