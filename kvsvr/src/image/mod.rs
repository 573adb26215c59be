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

use fkv_formats::id::{ContentId, PART_COUNT, Part, Version};
use fkv_formats::table::mem::MemLayout;

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
    /// Of the parts of `groups`, for lookups.
    lines: Lines,
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

    /// Forgets parts whose records are on SSD, to add them anew.
    pub(crate) fn forget(&mut self, parts: impl IntoIterator<Item = Part>) {
        let Some(disk) = &mut self.image.disk else { return };
        for part in parts {
            self.image.records -= disk.forget(part);
            self.image.parts.remove(part);
        }
    }

    pub(crate) const fn parts(&self) -> &PartSet {
        &self.image.parts
    }

    /// Adds a part that has no records.
    pub(crate) fn add_empty(&mut self, part: Part) {
        self.set(part, Slot::Empty);
        self.image.base.lines.add_empty(part);
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
            let bytes = &group.bytes()[placed.start..placed.start + placed.len];
            // SAFETY: the group's memory is read-only and stays mapped until the last `Arc` of it is gone; the base, and
            // each clone of it, holds one next to its lines and never gives it away. Lengths were compared above.
            unsafe { self.image.base.lines.add(part, bytes, &placed.layout) };
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

    pub(crate) fn finish(self) -> Image {
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
