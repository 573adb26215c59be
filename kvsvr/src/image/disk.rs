//! The base of an image whose records are on SSD (idx, blk): what is resident, and where the blocks are.
//!
//! ```text
//!   DiskBase ── parts: 2400 × { group, start, length, layout │ file, where its blocks begin, origin }
//!            ├─ groups: arenas with resident sections, back to back
//!            └─ files:  local packs, open for reads
//! ```

use std::sync::Arc;

use fkv_formats::checksum::Origin;
use fkv_formats::id::{PART_COUNT, Part};
use fkv_formats::table::PartLayout;
use fkv_formats::table::blk::BlkLayout;
use fkv_formats::table::disk::{BlockRead, RecordSpec};
use fkv_formats::table::idx::{Candidate, IdxLayout};

use super::{Group, LocalFile, keep_used};
use crate::cache::CacheScope;
use crate::io::{FileHandle, ReadOp};

/// A local pack whose blocks are read. It stays readable until the image is gone, though it may be unlinked before.
#[derive(Clone, Debug)]
pub(crate) struct DiskFile {
    pub(crate) handle: FileHandle,
    /// Its name, and its share of the ledger.
    pub(crate) local: Arc<LocalFile>,
}

/// The layout of a part whose blocks are on SSD.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DiskLayout {
    Idx(IdxLayout),
    Blk(BlkLayout),
}

impl DiskLayout {
    pub(crate) const fn of(layout: PartLayout) -> Option<Self> {
        match layout {
            PartLayout::Mem(_) => None,
            PartLayout::Idx(layout) => Some(Self::Idx(layout)),
            PartLayout::Blk(layout) => Some(Self::Blk(layout)),
        }
    }

    pub(crate) const fn record_spec(&self) -> RecordSpec {
        match self {
            Self::Idx(layout) => layout.record_spec(),
            Self::Blk(layout) => layout.record_spec(),
        }
    }

    const fn records(&self) -> u64 {
        match self {
            Self::Idx(layout) => layout.records(),
            Self::Blk(layout) => layout.records(),
        }
    }

    const fn resident_len(&self) -> u64 {
        match self {
            Self::Idx(layout) => layout.resident_len(),
            Self::Blk(layout) => layout.resident_len(),
        }
    }
}

/// Where a part's two sections are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskPlaced {
    /// Index into the base's groups; filled in when the group is added.
    pub(crate) group: u32,
    /// The resident section in its group.
    pub(crate) start: usize,
    pub(crate) layout: DiskLayout,
    /// Index into the files the group is added with, later into the base's.
    pub(crate) file: u32,
    /// Where the part's data, and with it its blocks, begin in the file.
    pub(crate) blocks_at: u64,
    pub(crate) origin: Origin,
}

#[derive(Clone, Copy, Debug, Default)]
enum Slot {
    #[default]
    Not,
    Empty,
    Data(DiskPlaced),
}

/// The base of an image of an idx or blk table.
#[derive(Clone, Debug)]
pub(crate) struct DiskBase {
    groups: Vec<Arc<Group>>,
    files: Vec<DiskFile>,
    slots: Box<[Slot]>,
    /// What the record cache has of this content.
    scope: CacheScope,
}

/// A part as lookups see it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum HeldOnDisk<'a> {
    /// The image does not have it and says nothing about its keys.
    Not,
    /// The part has no records.
    Empty,
    /// It is here.
    Data(DiskPart<'a>),
}

/// A part whose blocks can be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskPart<'a> {
    pub(crate) resident: &'a [u8],
    pub(crate) placed: &'a DiskPlaced,
}

/// Where to look for a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whereabouts {
    pub(crate) read: BlockRead,
    candidate: Option<Candidate>,
}

impl DiskPart<'_> {
    /// Where the resident bytes are that a lookup reads first; up to three.
    #[inline]
    pub(crate) fn first_bytes(&self, h: u64) -> [usize; 3] {
        match &self.placed.layout {
            DiskLayout::Idx(layout) => [layout.first_line(h); 3],
            DiskLayout::Blk(layout) => layout.fingerprints(h).unwrap_or([layout.directory_number(h); 3]),
        }
    }

    /// The run that may have the key; `None` proves that it is absent.
    #[inline]
    pub(crate) fn locate(&self, h: u64) -> Option<Whereabouts> {
        match &self.placed.layout {
            DiskLayout::Idx(layout) => {
                let candidate = layout.locate(self.resident, h)?;
                Some(Whereabouts { read: candidate.read, candidate: Some(candidate) })
            }
            DiskLayout::Blk(layout) => Some(Whereabouts { read: layout.locate(self.resident, h)?, candidate: None }),
        }
    }

    /// The next run that may have the key, after one that does not.
    pub(crate) fn locate_next(&self, h: u64, after: Whereabouts) -> Option<Whereabouts> {
        match (&self.placed.layout, after.candidate) {
            (DiskLayout::Idx(layout), Some(candidate)) => {
                let candidate = layout.locate_next(self.resident, h, candidate)?;
                Some(Whereabouts { read: candidate.read, candidate: Some(candidate) })
            }
            _ => None,
        }
    }
}

impl DiskBase {
    pub(super) fn new(scope: CacheScope) -> Self {
        let slots = vec![Slot::Not; usize::from(PART_COUNT)].into_boxed_slice();
        Self { groups: Vec::new(), files: Vec::new(), slots, scope }
    }

    pub(crate) const fn scope(&self) -> &CacheScope {
        &self.scope
    }

    pub(super) fn add_empty(&mut self, part: Part) {
        self.slots[usize::from(part.0)] = Slot::Empty;
    }

    /// Adds a group of resident sections whose blocks are in `files`, as numbered by the parts; gives the number of
    /// records added.
    pub(super) fn add_group(&mut self, group: Arc<Group>, files: Vec<DiskFile>, parts: &[(Part, DiskPlaced)]) -> u64 {
        let number = |len: usize| u32::try_from(len).expect("far fewer groups and files than 2^32");
        let (group_number, first_file) = (number(self.groups.len()), number(self.files.len()));
        let mut records = 0;
        for (part, placed) in parts {
            let end = usize::try_from(placed.layout.resident_len()).ok().and_then(|len| placed.start.checked_add(len));
            assert!(end.is_some_and(|end| end <= group.bytes().len()), "a part lies in its group");
            assert!((placed.file as usize) < files.len(), "a part's blocks are in one of the files");
            records += placed.layout.records();
            let placed = DiskPlaced { group: group_number, file: first_file + placed.file, ..*placed };
            self.slots[usize::from(part.0)] = Slot::Data(placed);
        }
        self.groups.push(group);
        self.files.extend(files);
        records
    }

    /// Forgets a part; gives the number of its records.
    pub(super) fn forget(&mut self, part: Part) -> u64 {
        match self.slots.get_mut(usize::from(part.0)).map(std::mem::take) {
            Some(Slot::Data(placed)) => placed.layout.records(),
            Some(Slot::Not | Slot::Empty) | None => 0,
        }
    }

    /// Lets go of the groups and closes the files that no part is in any more.
    pub(super) fn let_go_of_unused(&mut self) {
        let placed = |slot: &Slot| if let Slot::Data(placed) = slot { Some(*placed) } else { None };
        let groups = keep_used(&mut self.groups, self.slots.iter().filter_map(placed).map(|placed| placed.group));
        let files = keep_used(&mut self.files, self.slots.iter().filter_map(placed).map(|placed| placed.file));
        for slot in &mut self.slots {
            if let Slot::Data(placed) = slot {
                (placed.group, placed.file) = (groups[placed.group as usize], files[placed.file as usize]);
            }
        }
    }

    pub(super) fn reserved_bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.reserved_bytes()).sum()
    }

    /// A part, as far as it is here.
    #[inline]
    pub(crate) fn part(&self, part: Part) -> HeldOnDisk<'_> {
        match self.slots.get(usize::from(part.0)) {
            None | Some(Slot::Not) => HeldOnDisk::Not,
            Some(Slot::Empty) => HeldOnDisk::Empty,
            Some(Slot::Data(placed)) => match self.groups.get(placed.group as usize) {
                Some(group) => {
                    let len = placed.layout.resident_len() as usize;
                    let resident = group.bytes().get(placed.start..placed.start + len).unwrap_or_default();
                    HeldOnDisk::Data(DiskPart { resident, placed })
                }
                None => HeldOnDisk::Not,
            },
        }
    }

    /// The file with a part's blocks, if it has records.
    pub(crate) fn file_of(&self, part: Part) -> Option<&DiskFile> {
        match self.slots.get(usize::from(part.0)) {
            Some(Slot::Data(placed)) => self.files.get(placed.file as usize),
            None | Some(Slot::Not | Slot::Empty) => None,
        }
    }

    /// The file of this name, if parts are read from it.
    pub(super) fn file(&self, name: &str) -> Option<&DiskFile> {
        self.files.iter().find(|file| file.local.name == name)
    }

    /// The read of a run of a part that this base gave.
    pub(crate) fn read(&self, placed: &DiskPlaced, run: BlockRead) -> Option<ReadOp> {
        let file = self.files.get(placed.file as usize)?.handle.clone();
        let offset = placed.blocks_at.checked_add(run.range().start)?;
        Some(ReadOp { file, offset, len: u32::try_from(run.len()).ok()? })
    }
}
