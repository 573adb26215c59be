//! One part: header and data that say anything, with sums that are right.
//!
//! ```text
//!   base u8 │ patches u8 │ cut u8 │ [cut at] │ patches (crate::patch) │ hashes to look up, u64 each
//!
//!   base     a part of a golden pack, or beyond the last one raw:
//!            part u16 │ header, 64 bytes │ data
//!   patches  how many, at most 31; bit 7: runs are left unsealed
//!   cut      255: the data is cut off, 254: a zero block is added
//! ```

use std::collections::{BTreeMap, BTreeSet};

use fkv_formats::hash::unhash_u64;
use fkv_formats::id::{PART_COUNT, Part};
use fkv_formats::record::{Key, RecordRef};
use fkv_formats::route::part_of;
use fkv_formats::schema::KeyType;
use fkv_formats::table::disk::{BLOCK_BYTES, BlockRead, Run};
use fkv_formats::table::{Found, PartHeader, PartLayout};

use crate::base::{self, ORIGIN};
use crate::choices::Choices;
use crate::patch::patch;
use crate::seal::seal_runs;

/// Most hashes looked up beside those of the records.
const HASHES_MAX: usize = 16;

/// Reads a part of a table of this kind's number, made of `bytes`.
pub fn run(kind: u8, bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let bases = base::parts(kind);
    let which = usize::from(choices.u8());
    let (mut header, mut data, part, patches) = match bases.get(which) {
        Some(base) => (base.header, base.data.to_vec(), base.part, choices.u8()),
        None => {
            let part = Part(choices.u16() % PART_COUNT);
            let header: PartHeader = choices.array();
            (header, choices.take(usize::MAX).to_vec(), part, 0)
        }
    };
    if let Some(base) = bases.get(which) {
        match choices.u8() {
            255 => data.truncate(choices.below(data.len().max(1))),
            254 => data.extend_from_slice(&[0; BLOCK_BYTES]),
            _ => {}
        }
        // The header, where blocks end and what is resident, and the beginning of the data are worth most.
        let blocks = PartLayout::parse(&base.header).expect("a golden header").block_len() as usize;
        let behind = blocks.min(data.len());
        let mut all = [&header[..], &data[..]].concat();
        let regions = [0..64, 64..64 + behind.min(256), 64 + behind..64 + data.len(), 64..64 + behind];
        patch(&mut all, &regions, patches & 31, &mut choices);
        header.copy_from_slice(&all[..64]);
        data.copy_from_slice(&all[64..]);
    }
    let layout = match (PartLayout::parse(&header), bases.get(which)) {
        (Ok(layout), _) => layout,
        // Data patches count whatever became of the header.
        (Err(_), Some(base)) => PartLayout::parse(&base.header).expect("a golden header"),
        (Err(_), None) => return,
    };
    assert_eq!(layout.header(), PartLayout::parse(&layout.header()).expect("its own header").header());
    if patches & 0x80 == 0 {
        let section = usize::try_from(layout.block_len()).unwrap_or(usize::MAX).min(data.len());
        seal_runs(&mut data[..section], ORIGIN, part);
    }
    let is_sound = check(&layout, &data, part, &mut choices);
    let is_untouched = patches & 31 == 0 && bases.get(which).is_some_and(|base| base.data == data);
    assert!(is_sound || !is_untouched, "a golden part is sound");
}

/// Lists all records and looks up all of them and others. Gives whether the part is sound: all records can be listed, and
/// each is found. Then no other key may be found.
pub fn check(layout: &PartLayout, data: &[u8], part: Part, choices: &mut Choices<'_>) -> bool {
    let mut listed: Vec<RecordRef<'_>> = Vec::new();
    let mut is_sound = true;
    for record in layout.iter(data, part, ORIGIN) {
        match record {
            Ok(record) => listed.push(record),
            Err(error) => {
                assert!(!error.to_string().is_empty());
                is_sound = false;
            }
        }
    }
    let count = listed.len() as u64;
    assert!(if is_sound { count == layout.records() } else { count <= layout.records() }, "{count} records");
    assert!(listed.is_sorted_by(|a, b| a.order() < b.order()), "records come in order");
    let mut reader = Reader::new(layout, data, part);
    for record in &listed {
        assert_eq!((record.h, record.part()), (record.key.hash(), part), "{record:?}");
        let value = record.value.expect("a full form has no tombstones");
        let width = value_width(layout);
        assert!(width.is_none_or(|width| width == value.len()) && (layout.has_expiry() || record.expiry == 0));
        let found = reader.look_up(record.h, record.key);
        is_sound &= found == Some((value, record.expiry));
    }
    let keys: BTreeSet<Key<'_>> = listed.iter().map(|record| record.key).collect();
    let mut strangers = Vec::new();
    for _ in 0..HASHES_MAX {
        if choices.is_empty() {
            break;
        }
        strangers.push(within(part, choices.u64()));
    }
    // Next to what is there, and what shares low bits with it.
    for record in listed.iter().take(4) {
        strangers.extend([record.h.wrapping_add(1), record.h.wrapping_sub(1), record.h ^ 1 << 40, record.h ^ 1 << 51]);
    }
    for h in strangers {
        let text = h.to_le_bytes();
        for key in [Key::U64(unhash_u64(h)), Key::Bytes(&text[..(h % 9) as usize])] {
            let found = reader.look_up(key.hash(), key);
            // Inline and dense slots tell keys of one part apart, no others; nobody asks a part for those.
            let may_ask = key.key_type() == key_type(layout) && part_of(key.hash()) == part;
            assert!(!is_sound || !may_ask || found.is_some() == keys.contains(&key), "{key:?} of hash {h:016x}");
        }
        prefetch(layout, data, h);
    }
    is_sound
}

/// A hash of this part.
fn within(part: Part, number: u64) -> u64 {
    let first = (u128::from(part.0) << 64).div_ceil(u128::from(PART_COUNT)) as u64;
    first + number % (u64::MAX / u64::from(PART_COUNT))
}

const fn key_type(layout: &PartLayout) -> KeyType {
    match layout {
        PartLayout::Mem(layout) => layout.key_type(),
        PartLayout::Idx(layout) => layout.record_spec().key_type(),
        PartLayout::Blk(layout) => layout.record_spec().key_type(),
    }
}

fn value_width(layout: &PartLayout) -> Option<usize> {
    match layout {
        PartLayout::Mem(layout) => layout.value_width(),
        PartLayout::Idx(layout) => layout.record_spec().value_width(),
        PartLayout::Blk(layout) => layout.record_spec().value_width(),
    }
}

/// Looks keys up as servers do. Runs that were read are kept: to verify them is most of the work.
struct Reader<'a> {
    layout: PartLayout,
    blocks: &'a [u8],
    resident: &'a [u8],
    part: Part,
    runs: BTreeMap<BlockRead, Option<Run<'a>>>,
}

impl<'a> Reader<'a> {
    fn new(layout: &PartLayout, data: &'a [u8], part: Part) -> Self {
        let behind_blocks = usize::try_from(layout.block_len()).unwrap_or(usize::MAX).min(data.len());
        let (blocks, resident) = data.split_at(behind_blocks);
        Self { layout: *layout, blocks, resident, part, runs: BTreeMap::new() }
    }

    /// Value and expiry of a key.
    fn look_up(&mut self, h: u64, key: Key<'_>) -> Option<(&'a [u8], u32)> {
        let found = match self.layout {
            PartLayout::Mem(layout) => layout.find(self.resident, h, key),
            PartLayout::Idx(layout) => {
                // Every candidate has a slot of its own.
                let most = self.resident.len() / 5 + 1;
                assert!(layout.candidates(self.resident, h).count() <= most);
                layout.candidates(self.resident, h).find_map(|read| self.find(read, h, key))
            }
            PartLayout::Blk(layout) => layout.locate(self.resident, h).and_then(|read| self.find(read, h, key)),
        }?;
        let data = if self.blocks.is_empty() { self.resident } else { self.blocks };
        assert!(!found.tombstone && (found.value.is_empty() || data.as_ptr_range().contains(&found.value.as_ptr())));
        Some((found.value, found.expiry))
    }

    fn find(&mut self, read: BlockRead, h: u64, key: Key<'_>) -> Option<Found<'a>> {
        let range = read.range();
        assert!(range.end <= self.layout.block_len() && !range.is_empty(), "{read:?} leaves the section");
        let bytes = self.blocks.get(range.start as usize..(range.end as usize).min(self.blocks.len()));
        let verify = || Run::verify(bytes.unwrap_or_default(), ORIGIN, self.part, read.first).ok();
        let run = (*self.runs.entry(read).or_insert_with(verify))?;
        run.find(&self.layout.record_spec().expect("a part with blocks"), h, key)
    }
}

/// What a batch asks for beforehand lies within the data, where that is as long as it should be.
fn prefetch(layout: &PartLayout, data: &[u8], h: u64) {
    let resident = data.get(usize::try_from(layout.block_len()).unwrap_or(usize::MAX)..).unwrap_or_default();
    let is_whole = data.len() as u64 >= layout.data_len();
    let within = |at: usize| assert!(!is_whole || at < resident.len(), "{at} of {}", resident.len());
    match layout {
        PartLayout::Mem(layout) => {
            within(layout.first_line(h));
            if let Some(format) = layout.line_format()
                && is_whole
                && let Some(line) = data[layout.first_line(h)..].first_chunk()
            {
                let _ = (format.matching(line, h & format.mask()), format.distance_max(line), format.ends(line));
                for slot in 0..format.slots() {
                    let _ = (format.holds(line, slot, h & format.mask()), format.stride(), format.h_bytes());
                    match format.shape() {
                        fkv_formats::table::mem::Shape::Inline => drop(format.inline_value(line, slot)),
                        _ => drop(
                            usize::try_from(format.record_at(line, slot))
                                .ok()
                                .and_then(|at| data.get(at..))
                                .and_then(|record| format.read_record(record)),
                        ),
                    }
                }
            }
        }
        PartLayout::Idx(layout) => within(layout.first_line(h)),
        PartLayout::Blk(layout) => {
            within(layout.directory_number(h));
            layout.first_entry(resident, h).into_iter().for_each(within);
            layout.fingerprints(h).into_iter().flatten().for_each(within);
        }
    }
}
