//! What one server holds of one content: an immutable base.
//!
//! ```text
//!   Image ── Base ── lines: 2400 × { first index line, buckets }        what lookups read, one flat array
//!                 ├─ parts: 2400 × { group, start, length, layout }
//!                 └─ groups: arenas of 64 MiB and more, shared between images by reference
//!         └ DiskBase  instead, of tables whose records are on SSD: see [`disk`]
//! ```
//!
//! An overlay of increments stands beside the base: a version that is a chain is refused until overlays are built.

pub(crate) mod arena;
mod disk;
mod lines;
mod local;
mod pair;
mod parts;
mod reaper;
mod registry;

use std::sync::Arc;

use fkv_env::Clock;
use fkv_formats::id::{ContentId, PART_COUNT, Part, Version};
use fkv_formats::table::mem::{LineFormat, MemLayout};

pub(crate) use self::arena::HUGE_PAGE_BYTES;
pub(crate) use self::disk::{DiskBase, DiskFile, DiskLayout, DiskPart, DiskPlaced, HeldOnDisk, Whereabouts};
pub(crate) use self::lines::{Home, Lines};
pub(crate) use self::local::{Discarded, LocalFile, LocalImage};
pub(crate) use self::pair::{Labelled, Pair, ServedTable};
pub(crate) use self::parts::PartSet;
pub(crate) use self::reaper::Reaper;
pub(crate) use self::registry::{Entry, Picture, Registry};
use crate::cache::CacheScope;
use crate::image::arena::Arena;
use crate::ledger::Reservation;
use crate::lookup::Level;

/// An immutable piece of memory with its share of the ledger. Images of one table may share it.
#[derive(Debug)]
pub(crate) struct Group {
    memory: Option<(Arena, Reservation)>,
    reaper: Reaper,
}

impl Group {
    pub(crate) const fn new(arena: Arena, reservation: Reservation, reaper: Reaper) -> Self {
        Self { memory: Some((arena, reservation)), reaper }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |(arena, _)| arena)
    }

    fn reserved_bytes(&self) -> u64 {
        self.memory.as_ref().map_or(0, |(_, reservation)| reservation.amounts().memory)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some((arena, reservation)) = self.memory.take() {
            self.reaper.take(arena, reservation);
        }
    }
}

/// Where a part's data lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    /// Index into the base's groups.
    pub(crate) group: u32,
    pub(crate) start: usize,
    pub(crate) len: usize,
    pub(crate) layout: MemLayout,
}

/// What an image has of a part.
#[derive(Clone, Copy, Debug, Default)]
enum Slot {
    #[default]
    Not,
    Empty,
    Data(Placed),
}

/// A part as lookups see it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HeldPart<'a> {
    /// The image does not have it and says nothing about its keys.
    Not,
    /// The part has no records.
    Empty,
    /// Its data.
    Data(&'a [u8], &'a MemLayout),
}

/// One content of one table, immutable.
#[derive(Debug)]
pub(crate) struct Image {
    content: ContentId,
    version: Version,
    as_of: u32,
    base: Base,
    /// The base of a table whose records are on SSD; `base` is empty then.
    disk: Option<DiskBase>,
    parts: PartSet,
    records: u64,
}

#[derive(Clone, Debug)]
struct Base {
    groups: Vec<Arc<Group>>,
    slots: Box<[Slot]>,
    /// Of the parts of `groups`, for lookups; made when the image is finished.
    lines: Lines,
}

/// Keeps the items whose numbers are among `used`; gives the new number of each by its old one.
fn keep_used<T>(items: &mut Vec<T>, used: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut is_used = vec![false; items.len()];
    used.for_each(|number| is_used[number as usize] = true);
    let mut next = 0;
    let number = |is_used: &bool| {
        let number = next;
        next += u32::from(*is_used);
        number
    };
    let numbers = is_used.iter().map(number).collect();
    let mut is_used = is_used.into_iter();
    items.retain(|_| is_used.next() == Some(true));
    numbers
}

impl Base {
    /// Forgets a part; gives the number of its records.
    fn forget(&mut self, part: Part) -> u64 {
        match self.slots.get_mut(usize::from(part.0)).map(std::mem::take) {
            Some(Slot::Data(placed)) => placed.layout.records(),
            Some(Slot::Not | Slot::Empty) | None => 0,
        }
    }

    /// Lets go of the groups that no part is in any more.
    fn let_go_of_unused(&mut self) {
        let placed = |slot: &Slot| if let Slot::Data(placed) = slot { Some(placed.group) } else { None };
        let numbers = keep_used(&mut self.groups, self.slots.iter().filter_map(placed));
        for slot in &mut self.slots {
            if let Slot::Data(placed) = slot {
                placed.group = numbers[placed.group as usize];
            }
        }
    }

    /// Makes the lines of all parts. They are of one format, and parts of another one are looked up slowly: the format
    /// with the most records is theirs, whatever the order in which parts came.
    fn find_lines(&mut self) {
        let mut formats: Vec<(LineFormat, u64)> = Vec::new();
        for slot in &self.slots {
            let Slot::Data(placed) = slot else { continue };
            let Some(format) = placed.layout.line_format() else { continue };
            match formats.iter_mut().find(|(known, _)| *known == format) {
                Some((_, records)) => *records += placed.layout.records(),
                None => formats.push((format, placed.layout.records())),
            }
        }
        // Of equals, the one that comes first.
        let most = formats.iter().rev().max_by_key(|(_, records)| *records).map(|(format, _)| *format);
        let mut lines = Lines::new();
        for (part, slot) in (0..PART_COUNT).map(Part).zip(&self.slots) {
            match slot {
                Slot::Not => {}
                Slot::Empty => lines.add_empty(part),
                Slot::Data(placed) => {
                    if most.is_none() || placed.layout.line_format() != most {
                        continue;
                    }
                    let group = &self.groups[placed.group as usize];
                    let bytes = &group.bytes()[placed.start..placed.start + placed.len];
                    // SAFETY: the group's memory is read-only and stays mapped until the last `Arc` of it is gone; the
                    // base, and each clone of it, holds one next to its lines and never gives it away. Lengths were
                    // compared when the part was added.
                    unsafe { lines.add(part, bytes, &placed.layout) };
                }
            }
        }
        self.lines = lines;
    }
}

/// Builds an image, from nothing or from one that lacks parts.
#[derive(Debug)]
pub(crate) struct ImageBuilder {
    image: Image,
}

impl ImageBuilder {
    /// An image without parts; of a table whose records are on SSD if there is a scope in the record cache for it.
    pub(crate) fn new(content: ContentId, version: Version, as_of: u32, disk: Option<CacheScope>) -> Self {
        let slots = vec![Slot::Not; usize::from(PART_COUNT)].into_boxed_slice();
        let base = Base { groups: Vec::new(), slots, lines: Lines::new() };
        let disk = disk.map(DiskBase::new);
        Self { image: Image { content, version, as_of, base, disk, parts: PartSet::EMPTY, records: 0 } }
    }

    /// An image with the parts of `image`, in the same memory.
    pub(crate) fn extending(image: &Image) -> Self {
        let Image { content, version, as_of, ref base, ref disk, ref parts, records } = *image;
        let (base, disk, parts) = (base.clone(), disk.clone(), parts.clone());
        Self { image: Image { content, version, as_of, base, disk, parts, records } }
    }

    /// Forgets parts, as far as they are there, to add them anew.
    pub(crate) fn forget(&mut self, parts: impl IntoIterator<Item = Part>) {
        for part in parts {
            let on_disk = self.image.disk.as_mut().map_or(0, |disk| disk.forget(part));
            self.image.records -= self.image.base.forget(part) + on_disk;
            self.image.parts.remove(part);
        }
    }

    pub(crate) const fn parts(&self) -> &PartSet {
        &self.image.parts
    }

    /// Adds a part that has no records.
    pub(crate) fn add_empty(&mut self, part: Part) {
        self.set(part, Slot::Empty);
        if let Some(disk) = &mut self.image.disk {
            disk.add_empty(part);
        }
    }

    /// Adds a group of resident sections, with the files that have the blocks of its parts.
    pub(crate) fn add_disk_group(&mut self, group: Arc<Group>, files: Vec<DiskFile>, parts: &[(Part, DiskPlaced)]) {
        for (part, _) in parts {
            self.note(*part);
        }
        let disk = self.image.disk.as_mut().expect("an image is of one kind of table from the start");
        self.image.records += disk.add_group(group, files, parts);
    }

    /// Adds a group with its parts; their `group` is filled in here.
    pub(crate) fn add_group(&mut self, group: Arc<Group>, parts: impl IntoIterator<Item = (Part, Placed)>) {
        let number = u32::try_from(self.image.base.groups.len()).expect("far fewer groups than 2^32");
        for (part, placed) in parts {
            let end = placed.start.checked_add(placed.len);
            assert!(end.is_some_and(|end| end <= group.bytes().len()), "a part lies in its group");
            assert_eq!(placed.len as u64, placed.layout.data_len(), "a part is as long as its layout says");
            self.image.records += placed.layout.records();
            self.set(part, Slot::Data(Placed { group: number, ..placed }));
        }
        self.image.base.groups.push(group);
    }

    fn note(&mut self, part: Part) {
        assert!(!self.image.parts.contains(part), "a part is added once");
        self.image.parts.insert(part);
    }

    fn set(&mut self, part: Part, slot: Slot) {
        self.note(part);
        self.image.base.slots[usize::from(part.0)] = slot;
    }

    /// Finds out, unless it is known, how this machine looks up best what has been loaded; see [`Level`].
    pub(crate) fn learn(&self, clock: &dyn Clock) {
        if let Some(largest) = self.image.groups().max_by_key(|group| group.bytes().len()) {
            Level::learn(clock, largest.bytes());
        }
    }

    /// The image. What parts were in that were forgotten goes with the images that still use it.
    pub(crate) fn finish(mut self) -> Image {
        self.image.base.let_go_of_unused();
        if let Some(disk) = &mut self.image.disk {
            disk.let_go_of_unused();
        }
        self.image.base.find_lines();
        self.image
    }
}

impl Image {
    pub(crate) const fn content(&self) -> ContentId {
        self.content
    }

    /// The version it was loaded as; a release may have given its content another one since.
    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    /// What expired by this Unix second is absent.
    pub(crate) const fn as_of(&self) -> u32 {
        self.as_of
    }

    /// The parts it has.
    pub(crate) const fn parts(&self) -> &PartSet {
        &self.parts
    }

    pub(crate) const fn records(&self) -> u64 {
        self.records
    }

    /// Memory of its groups, those shared with another image included.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let disk = self.disk.as_ref().map_or(0, DiskBase::reserved_bytes);
        disk + self.base.groups.iter().map(|group| group.reserved_bytes()).sum::<u64>()
    }

    /// The base of an image of a table whose records are on SSD.
    #[inline]
    pub(crate) const fn disk(&self) -> Option<&DiskBase> {
        self.disk.as_ref()
    }

    /// The memory it is made of.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Group> {
        self.base.groups.iter().map(AsRef::as_ref)
    }

    /// The index lines of its parts, as lookups read them.
    #[inline]
    pub(crate) const fn lines(&self) -> &Lines {
        &self.base.lines
    }

    /// Whether it reads the records of a part from the local file of this name.
    pub(crate) fn reads(&self, part: Part, file: &str) -> bool {
        self.disk.as_ref().and_then(|disk| disk.file_of(part)).is_some_and(|found| found.local.name == file)
    }

    /// Whether it reads anything from the local file of this name.
    pub(crate) fn reads_any(&self, file: &str) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.file(file).is_some())
    }

    /// The local file of this name, with the parts that are read from it.
    pub(crate) fn parts_of(&self, file: &str) -> Option<(DiskFile, PartSet)> {
        let parts = self.parts.iter().filter(|part| self.reads(*part, file)).collect();
        Some((self.disk.as_ref()?.file(file)?.clone(), parts))
    }

    /// The same without some of its parts.
    pub(crate) fn without(&self, parts: impl IntoIterator<Item = Part>) -> Self {
        let mut builder = ImageBuilder::extending(self);
        builder.forget(parts);
        builder.finish()
    }

    /// A part, as far as it is here.
    #[inline]
    pub(crate) fn part(&self, part: Part) -> HeldPart<'_> {
        match self.base.slots.get(usize::from(part.0)) {
            None | Some(Slot::Not) => HeldPart::Not,
            Some(Slot::Empty) => HeldPart::Empty,
            Some(Slot::Data(placed)) => match self.base.groups.get(placed.group as usize) {
                Some(group) => HeldPart::Data(&group.bytes()[placed.start..placed.start + placed.len], &placed.layout),
                None => HeldPart::Not,
            },
        }
    }
}
