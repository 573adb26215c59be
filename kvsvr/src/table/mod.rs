//! One table on this server: its images, its load in progress, its files on disk.
//!
//! ```text
//!   step(wanted) ── plan ──▶ drop │ shelve │ flip │ load          all in memory, at once
//!   load ended   ── images, files, trouble
//! ```

mod plan;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fkv_env::TaskHandle;
use fkv_formats::id::{ContentId, Part, Slot};
use fkv_meta::record::{Canary, Held as HeldRecord, Label, RetainOld, TableRecord};

pub(crate) use self::plan::Wanted;
use self::plan::{Held, HeldImage, IMAGES_MAX, plan};
pub(crate) use self::trouble::{Trouble, TroubleKind};
use crate::faults::DamagedPart;
pub(crate) use crate::image::Discarded;
use crate::image::{Image, Labelled, LocalFile, LocalImage, Pair, PartSet, ServedTable};
use crate::ledger::Ledger;
use crate::load::{Loaded, ScrubStart};
use crate::state_file::{ImageState, TableState};

/// Whether reports name an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reporting {
    Never,
    Named,
    /// Not any more since the desired reports of this number.
    Withdrawn(u64),
}

/// An image in memory.
#[derive(Debug)]
struct InMemory {
    label: Label,
    image: Arc<Image>,
    local: LocalImage,
    served: bool,
    reporting: Reporting,
}

/// An image on disk only.
#[derive(Debug)]
pub(crate) struct Shelved {
    pub(crate) label: Label,
    pub(crate) local: LocalImage,
    pub(crate) served: bool,
    /// Set when bringing it back into memory failed though nothing needs it: it stays where it is.
    pub(crate) resting: bool,
}

/// A load in progress. Dropping it cancels the load.
#[derive(Debug)]
struct Loading {
    id: u64,
    label: Label,
    _task: TaskHandle,
}

/// What a load starts from.
#[derive(Debug)]
pub(crate) struct LoadStart {
    pub(crate) label: Label,
    /// An image of the same content that lacks parts.
    pub(crate) existing: Option<Arc<Image>>,
    /// Files of the same content.
    pub(crate) local: Option<LocalImage>,
    /// Whether an earlier attempt missed an object: what is known of the version may be out of date.
    pub(crate) reread: bool,
    /// Parts whose local data proved damaged: they are fetched, whatever local files say.
    pub(crate) distrusted: PartSet,
}

/// What a step asks the caller to do.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Images let go of; their memory goes when the last request is done with them.
    pub(crate) retired: Vec<Arc<Image>>,
    /// Files that nothing needs any more.
    pub(crate) discarded: Vec<Arc<LocalFile>>,
    /// A load to start.
    pub(crate) load: Option<LoadStart>,
    /// Local files to read once more, because a part of each proved damaged.
    pub(crate) scrubs: Vec<ScrubStart>,
    /// Set if default reads get another content now.
    pub(crate) flipped_to: Option<Label>,
}

/// What a step depends on beside the table itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) wanted: Wanted,
    /// The parts to load.
    pub(crate) parts: &'a PartSet,
    /// The sects this server has slots of.
    pub(crate) sects: &'a BTreeSet<String>,
    /// Reports up to this number are acknowledged.
    pub(crate) settled: u64,
    /// Monotonic time.
    pub(crate) now: Duration,
}

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    record: Arc<TableRecord>,
    served: Arc<ServedTable>,
    images: Vec<InMemory>,
    shelf: Vec<Shelved>,
    serving: Option<ContentId>,
    shown: Option<Label>,
    loading: Option<Loading>,
    /// What loads failed on, by content.
    troubles: BTreeMap<ContentId, Trouble>,
    /// Parts whose data in a local file proved damaged and was not replaced yet, by content.
    distrusted: BTreeMap<ContentId, BTreeSet<DamagedPart>>,
    /// Scrubs under way, by the names of the local files they read. Dropping one cancels it.
    scrubs: BTreeMap<String, TaskHandle>,
    /// When the last step was.
    stepped_at: Duration,
    /// The contents to report after the last step.
    report: BTreeSet<ContentId>,
}

impl Table {
    pub(crate) fn new(record: TableRecord, shown: Option<Label>, shelf: Vec<Shelved>) -> Self {
        Self {
            served: Arc::new(ServedTable::new(record.schema.clone())),
            record: Arc::new(record),
            images: Vec::new(),
            shelf,
            serving: None,
            shown,
            loading: None,
            troubles: BTreeMap::new(),
            distrusted: BTreeMap::new(),
            scrubs: BTreeMap::new(),
            stepped_at: Duration::ZERO,
            report: BTreeSet::new(),
        }
    }

    pub(crate) const fn record(&self) -> &Arc<TableRecord> {
        &self.record
    }

    pub(crate) const fn served(&self) -> &Arc<ServedTable> {
        &self.served
    }

    pub(crate) fn set_record(&mut self, record: &TableRecord) {
        if *self.record != *record {
            self.record = Arc::new(record.clone());
        }
    }

    /// What is wrong with loading what is wanted; empty if nothing is.
    pub(crate) fn problem(&self) -> &str {
        let wanted = [self.record.aligned, self.record.target].into_iter().flatten();
        let worst = wanted.filter_map(|label| self.troubles.get(&label.content)).next();
        worst.or(self.troubles.values().next()).map_or("", Trouble::text)
    }

    /// When the next failed load is due again; those that were due at the last step had their turn then.
    pub(crate) fn retry_at(&self) -> Option<Duration> {
        if self.loading.is_some() {
            return None;
        }
        self.troubles.values().filter_map(Trouble::retry_at).filter(|at| *at > self.stepped_at).min()
    }

    /// Room was made: a load that did not fit may be tried soon.
    pub(crate) fn room_was_made(&mut self, ledger: &Ledger) {
        self.troubles.values_mut().for_each(|trouble| trouble.room_was_made(ledger));
    }

    /// Whether a load failed because it did not fit.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.troubles.values().any(Trouble::waits_for_room)
    }

    /// Whether it shows what is shown everywhere, or cannot: in either case there is nothing to wait for.
    pub(crate) fn is_settled(&self) -> bool {
        self.record.aligned.is_none() || self.serving.is_some() || !self.problem().is_empty()
    }

    /// Whether nothing of it is left on this server.
    pub(crate) fn is_gone(&self) -> bool {
        self.images.is_empty() && self.shelf.is_empty() && self.loading.is_none()
    }

    /// Closes the gap between what is wanted and what is held, as far as that can be done at once.
    pub(crate) fn step(&mut self, around: Surroundings<'_>) -> Effects {
        let mut effects = Effects::default();
        self.stepped_at = around.now;
        let Self { scrubs, images, .. } = self;
        scrubs.retain(|file, _| images.iter().any(|held| held.image.reads_any(file)));
        self.relabel(around.wanted);
        self.forget_troubles(around);
        let mut plan = plan(around.wanted, &self.held(around));
        // What was dropped makes room for what comes next, and no event would say so.
        while !plan.drop.is_empty() {
            for content in &plan.drop {
                self.drop_image(*content, around.wanted, &mut effects);
            }
            plan = self::plan::plan(around.wanted, &self.held(around));
        }
        self.trim_shelf(around.wanted, plan.load, &mut effects);
        self.publish(plan.serve, around, &mut effects);
        self.report = plan.report;
        self.load(plan.load, around, &mut effects);
        effects
    }

    /// The contents to report for a slot with these parts.
    pub(crate) fn report_for(&self, parts: &PartSet) -> Vec<HeldRecord> {
        let named = self.images.iter().filter(|held| self.report.contains(&held.image.content()));
        named
            .filter(|held| !parts.is_empty() && parts.is_subset(held.image.parts()))
            .map(|held| HeldRecord { content: held.image.content(), version: held.label.version })
            .collect()
    }

    /// Notes which contents the desired reports of this number name.
    pub(crate) fn note_reported(&mut self, number: u64, named: &BTreeSet<ContentId>) {
        for held in &mut self.images {
            held.reporting = match held.reporting {
                _ if named.contains(&held.image.content()) => Reporting::Named,
                Reporting::Named => Reporting::Withdrawn(number),
                other => other,
            };
        }
    }

    /// What STATE says of it.
    pub(crate) fn state(&self) -> TableState {
        let in_memory = self.images.iter().map(|held| held.local.state(held.label, held.served));
        let shelved = self.shelf.iter().map(|image| image.local.state(image.label, image.served));
        let mut images: Vec<ImageState> = in_memory.chain(shelved).collect();
        images.sort_by_key(|image| image.label.content);
        TableState { record: (*self.record).clone(), shown: self.shown, images }
    }

    /// Notes that parts of an image cannot be read any more as they were written: it goes on without them until they
    /// have been fetched again. What was read from a file that the image does not use any more is no news. A load of
    /// the same content goes on; what it takes over of these parts is left out when it ends, and is fetched next: with
    /// damage coming all the time, each load would otherwise be cut short by the next. Gives the number of parts.
    pub(crate) fn note_damage(
        &mut self,
        content: ContentId,
        damaged: &BTreeSet<DamagedPart>,
        effects: &mut Effects,
    ) -> usize {
        let Some(held) = self.images.iter_mut().find(|held| held.image.content() == content) else { return 0 };
        let damaged: Vec<&DamagedPart> = damaged.iter().filter(|(part, file)| held.image.reads(*part, file)).collect();
        if damaged.is_empty() {
            return 0;
        }
        let lacking = Arc::new(held.image.without(damaged.iter().map(|(part, _)| *part)));
        effects.retired.push(std::mem::replace(&mut held.image, lacking));
        self.distrusted.entry(content).or_default().extend(damaged.iter().copied().cloned());
        let files: BTreeSet<&str> = damaged.iter().map(|(_, file)| file.as_str()).collect();
        files.into_iter().for_each(|file| self.suspect(content, file, effects));
        damaged.len()
    }

    /// Has what is left of a local file read once more, unless that is under way.
    fn suspect(&self, content: ContentId, file: &str, effects: &mut Effects) {
        let held = self.images.iter().find(|held| held.image.content() == content);
        if !self.scrubs.contains_key(file)
            && let Some((file, parts)) = held.and_then(|held| held.image.parts_of(file))
        {
            effects.scrubs.push(ScrubStart { content, file, parts });
        }
    }

    /// Notes that a local file is being read once more.
    pub(crate) fn scrub_began(&mut self, file: String, task: TaskHandle) {
        self.scrubs.insert(file, task);
    }

    /// Notes that this has ended, after what was found was noted.
    pub(crate) fn scrub_ended(&mut self, file: &str) {
        self.scrubs.remove(file);
    }

    /// Notes that the load `id` has begun.
    pub(crate) fn load_began(&mut self, id: u64, label: Label, task: TaskHandle) {
        self.loading = Some(Loading { id, label, _task: task });
    }

    /// Takes over what a load brought; gives the files that are not needed, and the image it replaced.
    pub(crate) fn load_ended(
        &mut self,
        id: u64,
        outcome: Result<Loaded, Trouble>,
        now: Duration,
        effects: &mut Effects,
    ) {
        let Some(loading) = self.loading.take_if(|loading| loading.id == id) else {
            // It was cancelled: its files go.
            if let Ok(loaded) = outcome {
                effects.discarded.extend(loaded.fresh_files);
            }
            return;
        };
        let content = loading.label.content;
        match outcome {
            Ok(loaded) => {
                effects.discarded.extend(loaded.unusable_files);
                let on_shelf = self.shelf.iter().position(|shelved| shelved.label.content == content);
                let shelved = on_shelf.map(|at| self.shelf.remove(at));
                let before = self.images.iter().position(|held| held.image.content() == content);
                let (served, reporting) = match before.map(|at| self.images.remove(at)) {
                    Some(held) => {
                        effects.retired.push(Arc::clone(&held.image));
                        (held.served, held.reporting)
                    }
                    None => (shelved.is_some_and(|shelved| shelved.served), Reporting::Never),
                };
                assert!(self.images.len() < IMAGES_MAX, "a load begins only where its image has a place");
                let image = Arc::new(self.trusted(loaded.image));
                self.images.push(InMemory { label: loading.label, image, local: loaded.local, served, reporting });
                loaded.suspects.iter().for_each(|file| self.suspect(content, file, effects));
                let before = self.troubles.remove(&content);
                if let Some(trouble) = loaded.missing {
                    self.troubles.insert(content, trouble.after(before, now));
                }
            }
            Err(trouble) => {
                let Self { record, shelf, serving, .. } = self;
                let is_needed = serving.is_none()
                    || [record.aligned, record.target].into_iter().flatten().any(|label| label.content == content);
                match shelf.iter_mut().find(|shelved| shelved.label.content == content) {
                    Some(shelved) if !is_needed => shelved.resting = true,
                    _ => {
                        let before = self.troubles.remove(&content);
                        self.troubles.insert(content, trouble.after(before, now));
                    }
                }
            }
        }
    }

    /// An image that was loaded, without the parts that proved damaged meanwhile in the very files they are read from.
    /// Those that are read from another file now are not distrusted any more; those that are missing still are, lest
    /// they are taken from the damaged file again.
    fn trusted(&mut self, image: Image) -> Image {
        let content = image.content();
        let Some(distrusted) = self.distrusted.remove(&content) else { return image };
        let damaged: Vec<Part> =
            distrusted.iter().filter(|(part, file)| image.reads(*part, file)).map(|(part, _)| *part).collect();
        let image = if damaged.is_empty() { image } else { image.without(damaged) };
        let still: BTreeSet<DamagedPart> =
            distrusted.into_iter().filter(|(part, _)| !image.parts().contains(*part)).collect();
        if !still.is_empty() {
            self.distrusted.insert(content, still);
        }
        image
    }

    /// Forgets what went wrong with contents that nobody waits for any more.
    fn forget_troubles(&mut self, around: Surroundings<'_>) {
        let Wanted::Table { target, aligned, .. } = around.wanted else { return self.troubles.clear() };
        let Self { troubles, images, shelf, serving, distrusted, .. } = self;
        distrusted.retain(|content, _| {
            let is_held = images.iter().any(|held| held.image.content() == *content);
            is_held || shelf.iter().any(|image| image.label.content == *content)
        });
        troubles.retain(|content, _| {
            let is_wanted = [aligned, target].into_iter().flatten().any(|label| label.content == *content);
            let is_whole = images
                .iter()
                .any(|held| held.image.content() == *content && around.parts.is_subset(held.image.parts()));
            let stands_in = serving.is_none() && shelf.iter().any(|image| image.label.content == *content);
            !around.parts.is_empty() && !is_whole && (is_wanted || stands_in)
        });
    }

    fn held(&self, around: Surroundings<'_>) -> Held {
        let serving = self.images.iter().find(|held| Some(held.image.content()) == self.serving);
        let images = self.images.iter().map(|held| HeldImage {
            content: held.image.content(),
            complete: around.parts.is_subset(held.image.parts()),
            covers: serving.is_some_and(|serving| serving.image.parts().is_subset(held.image.parts())),
            served: held.served,
            reported: match held.reporting {
                Reporting::Never => false,
                Reporting::Named => true,
                Reporting::Withdrawn(number) => around.settled < number,
            },
        });
        let is_wanted = |label: Label| match around.wanted {
            Wanted::Table { target, aligned, .. } => {
                [aligned, target].into_iter().flatten().any(|wanted| wanted.content == label.content)
            }
            Wanted::Nothing => false,
        };
        let shelved = self.shelf.iter().filter(|image| image.served && (!image.resting || self.serving.is_none()));
        let shelved = shelved.map(|image| image.label).filter(|label| !is_wanted(*label));
        Held {
            images: images.collect(),
            serving: self.serving,
            shelved: shelved.max_by_key(|label| (label.epoch, label.version)),
            loading: self.loading.as_ref().map(|loading| loading.label.content),
            troubled: self.troubles.iter().map(|(content, trouble)| (*content, trouble.is_due(around.now))).collect(),
        }
    }

    /// Images go by the newest label of their content.
    fn relabel(&mut self, wanted: Wanted) {
        let Wanted::Table { target, aligned, .. } = wanted else { return };
        let newest = |content| [aligned, target].into_iter().flatten().find(|label| label.content == content);
        for held in &mut self.images {
            held.label = newest(held.image.content()).unwrap_or(held.label);
        }
        for shelved in &mut self.shelf {
            shelved.label = newest(shelved.label.content).unwrap_or(shelved.label);
        }
    }

    fn drop_image(&mut self, content: ContentId, wanted: Wanted, effects: &mut Effects) {
        let Some(at) = self.images.iter().position(|held| held.image.content() == content) else { return };
        let held = self.images.remove(at);
        tracing::info!(
            table = %self.record.name, version = %held.label.version, content = %content.short(),
            bytes = held.image.memory_bytes(), "image dropped"
        );
        effects.retired.push(held.image);
        if matches!(wanted, Wanted::Table { retain: RetainOld::Disk, .. }) && held.served {
            self.shelf.push(Shelved { label: held.label, local: held.local, served: true, resting: false });
        } else {
            effects.discarded.extend(held.local.files().cloned());
        }
    }

    /// Files of at most one image beside those wanted, and of two images in all, stay.
    fn trim_shelf(&mut self, wanted: Wanted, load: Option<Label>, effects: &mut Effects) {
        let needed: BTreeSet<ContentId> = match wanted {
            Wanted::Table { target, aligned, .. } => {
                [aligned, target].into_iter().flatten().map(|label| label.content).collect()
            }
            Wanted::Nothing => BTreeSet::new(),
        };
        let exists = matches!(wanted, Wanted::Table { .. });
        let coming = load.is_some_and(|label| {
            self.shelf.iter().all(|image| image.label.content != label.content)
                && self.images.iter().all(|held| held.image.content() != label.content)
        });
        let mut room = if exists { IMAGES_MAX.saturating_sub(self.images.len() + usize::from(coming)) } else { 0 };
        // The newest come last; those wanted come first.
        let mut shelf = std::mem::take(&mut self.shelf);
        shelf.reverse();
        shelf.sort_by_key(|image| !needed.contains(&image.label.content));
        for image in shelf {
            // What is being loaded from these files cannot lose them.
            let loading = self.loading.as_ref().is_some_and(|loading| loading.label.content == image.label.content);
            if room > 0 || (loading && exists) {
                room = room.saturating_sub(1);
                self.shelf.insert(0, image);
            } else {
                effects.discarded.extend(image.local.files().cloned());
            }
        }
    }

    /// Gives requests the pair that the plan says: one pointer store.
    fn publish(&mut self, serve: Option<ContentId>, around: Surroundings<'_>, effects: &mut Effects) {
        let labelled = |held: &InMemory| Labelled {
            label: held.label,
            image: Arc::clone(&held.image),
            complete: around.parts.is_subset(held.image.parts()),
        };
        let mut pair = Pair { canary: canary(&self.record, around.sects), ..Pair::default() };
        if let Wanted::Table { aligned, .. } = around.wanted {
            pair.aligned = aligned;
            for held in &mut self.images {
                if Some(held.image.content()) == serve {
                    held.served = true;
                    self.shown = Some(held.label);
                    pair.serving = Some(labelled(held));
                } else {
                    pair.other = Some(labelled(held));
                }
            }
        }
        self.serving = serve;
        let label = pair.serving.as_ref().map(|serving| serving.label);
        let before = self.served.pair().serving.as_ref().map(|serving| serving.label.content);
        self.served.replace(pair);
        effects.flipped_to = label.filter(|label| before != Some(label.content));
    }

    fn load(&mut self, wish: Option<Label>, around: Surroundings<'_>, effects: &mut Effects) {
        let wish = wish.filter(|_| !around.parts.is_empty());
        if self.loading.as_ref().is_some_and(|loading| Some(loading.label.content) != wish.map(|label| label.content)) {
            // Nobody wants it any more.
            self.loading = None;
        }
        let Some(label) = wish.filter(|_| self.loading.is_none()) else { return };
        let held = self.images.iter().find(|held| held.image.content() == label.content);
        let shelved = self.shelf.iter().find(|shelved| shelved.label.content == label.content);
        effects.load = Some(LoadStart {
            label,
            existing: held.map(|held| Arc::clone(&held.image)),
            local: held.map(|held| &held.local).or(shelved.map(|shelved| &shelved.local)).cloned(),
            reread: self.troubles.get(&label.content).is_some_and(Trouble::wants_reread),
            distrusted: self.distrusted.get(&label.content).into_iter().flatten().map(|(part, _)| *part).collect(),
        });
    }
}

/// The content that requests flagged canary get, if a slot here is of a canary sect.
fn canary(record: &TableRecord, sects: &BTreeSet<String>) -> Option<ContentId> {
    let Canary { content, sects: showing, .. } = record.canary.as_ref()?;
    showing.iter().any(|sect| sects.contains(sect)).then_some(*content)
}

/// A slot and its parts.
#[derive(Clone, Debug)]
pub(crate) struct OwnedSlot {
    pub(crate) slot: Slot,
    pub(crate) parts: PartSet,
}

#[cfg(test)]
mod tests {
    use fkv_env::Env;
    use fkv_formats::id::{Digest, Epoch, PART_COUNT, Version};
    use fkv_formats::schema::{KeyType, TableKind, ValueType};
    use fkv_meta::record::{FormKind, FormRef, ObjectRef};

    use super::*;
    use crate::cache::RecordCache;
    use crate::image::ImageBuilder;
    use crate::io::BlockIo;
    use crate::io::stuck::StuckIo;
    use crate::testing::{self, OwnedKey, Row, add_pack, keys_of, on_disk};

    fn label(number: u8) -> Label {
        let content = ContentId([number; 32]);
        Label { version: Version(number.into()), content, epoch: Epoch(number.into()) }
    }

    fn record() -> TableRecord {
        testing::table_record(&testing::schema(TableKind::Mem, KeyType::U64, ValueType::I64))
    }

    fn loaded(number: u8) -> Loaded {
        let mut builder = ImageBuilder::new(label(number).content, Version(number.into()), 0, None);
        (0..PART_COUNT).for_each(|part| builder.add_empty(Part(part)));
        loaded_as(number, builder.finish())
    }

    fn loaded_as(number: u8, image: Image) -> Loaded {
        let file = |name: &str| {
            let reservation = Ledger::new(0, 1).reserve(0, 1).expect("fits");
            Arc::new(LocalFile::new(format!("{number}.{name}"), 1, reservation))
        };
        let object = ObjectRef { path: "form".into(), len: 1, sha256: Digest([0; 32]) };
        let form = FormRef { kind: FormKind::Full, object };
        let local = LocalImage { form, form_file: file("form"), packs: vec![file("pack")] };
        let fresh_files = local.files().cloned().collect();
        Loaded { image, local, missing: None, unusable_files: Vec::new(), fresh_files, suspects: BTreeSet::new() }
    }

    /// A table and what surrounds it.
    struct World {
        table: Table,
        parts: PartSet,
        number: u64,
        settled: u64,
        next_load: u64,
    }

    impl World {
        fn new() -> Self {
            let parts = (0..PART_COUNT).map(Part).collect();
            let table = Table::new(record(), None, Vec::new());
            Self { table, parts, number: 0, settled: 0, next_load: 1 }
        }

        fn step(&mut self, target: u8, aligned: Option<u8>) -> Effects {
            let wanted =
                Wanted::Table { target: Some(label(target)), aligned: aligned.map(label), retain: RetainOld::Ram };
            let around = Surroundings {
                wanted,
                parts: &self.parts,
                sects: &BTreeSet::new(),
                settled: self.settled,
                now: Duration::ZERO,
            };
            let effects = self.table.step(around);
            self.number += 1;
            let named = self.table.report_for(&self.parts).into_iter().map(|held| held.content).collect();
            self.table.note_reported(self.number, &named);
            effects
        }

        fn begin_load(&mut self, number: u8) -> u64 {
            let task = {
                #[allow(clippy::disallowed_methods, reason = "a task that stands for a load")]
                TaskHandle::new(tokio::spawn(std::future::pending()))
            };
            let id = self.next_load;
            self.next_load += 1;
            self.table.load_began(id, label(number), task);
            id
        }

        fn end_load(&mut self, id: u64, loaded: Loaded) -> Effects {
            let mut effects = Effects::default();
            self.table.load_ended(id, Ok(loaded), Duration::ZERO, &mut effects);
            effects
        }

        async fn load(&mut self, number: u8) -> Effects {
            let id = self.begin_load(number);
            self.end_load(id, loaded(number))
        }

        /// Word of damage from lookups; the number of parts that it is news of.
        fn damage(&mut self, damaged: &[(u16, &str)]) -> usize {
            let damaged = damaged.iter().map(|(part, file)| (Part(*part), (*file).to_owned())).collect();
            self.table.note_damage(testing::CONTENT, &damaged, &mut Effects::default())
        }

        /// The parts that requests get.
        fn served(&self) -> Vec<u16> {
            let pair = self.table.served.pair();
            pair.serving
                .as_ref()
                .map_or(Vec::new(), |serving| serving.image.parts().iter().map(|part| part.0).collect())
        }
    }

    /// Packs of a table on SSD, for images of [`testing::CONTENT`].
    struct Packs {
        env: Env,
        io: Arc<StuckIo>,
        cache: Arc<RecordCache>,
        dir: tempfile::TempDir,
    }

    impl Packs {
        fn new() -> Self {
            let env = Env::real(1).expect("threads start");
            let cache = RecordCache::new(0).expect("no memory is taken");
            Self { env, io: StuckIo::new(), cache, dir: tempfile::tempdir().expect("a temporary directory") }
        }

        /// `image`, or a new one, with parts from a new pack.
        fn image(&self, image: Option<&Image>, name: &str, parts: &[u16]) -> Image {
            let mut builder = image.map_or_else(|| on_disk(&self.cache), ImageBuilder::extending);
            let schema = testing::schema(TableKind::Blk, KeyType::U64, ValueType::I64);
            let keys = parts.iter().flat_map(|part| keys_of(Part(*part), 10));
            let row = |key| Row { key: OwnedKey::U64(key), expiry: 0, value: vec![1; 8] };
            let rows: Vec<Row> = keys.map(row).collect();
            let io: &dyn BlockIo = self.io.as_ref();
            add_pack(&self.env, &mut builder, io, self.dir.path(), name, &schema, &rows);
            builder.finish()
        }
    }

    fn names(files: &[Arc<LocalFile>]) -> Vec<&str> {
        files.iter().map(|file| file.name.as_str()).collect()
    }

    /// Once, a server stopped for good: the last event it got was that the withdrawal of its oldest image was
    /// acknowledged. It dropped the image, and nothing made it look again whether the next version had room now.
    #[tokio::test]
    async fn the_step_that_drops_an_image_begins_the_load_that_waited_for_its_place() {
        let mut world = World::new();
        assert_eq!(world.step(1, None).load.expect("wanted").label, label(1));
        world.load(1).await;
        assert_eq!(world.step(1, Some(1)).flipped_to, Some(label(1)));
        world.load(2).await;
        assert_eq!(world.step(2, Some(2)).flipped_to, Some(label(2)));

        let full = world.step(3, Some(2));
        assert!(full.load.is_none() && full.retired.is_empty(), "the oldest is still reported");
        world.settled = world.number - 1;
        assert!(world.step(3, Some(2)).retired.is_empty(), "an older report is not enough");
        world.settled = world.number;
        let dropped = world.step(3, Some(2));
        assert_eq!(dropped.retired.len(), 1);
        assert_eq!(names(&dropped.discarded), ["1.form", "1.pack"]);
        assert_eq!(dropped.load.expect("it has a place now").label, label(3));
    }

    #[tokio::test]
    async fn a_load_that_nobody_wants_any_more_leaves_no_files() {
        let mut world = World::new();
        world.step(1, None);
        let task = {
            #[allow(clippy::disallowed_methods, reason = "a task that stands for a load")]
            TaskHandle::new(tokio::spawn(std::future::pending()))
        };
        world.table.load_began(7, label(1), task);
        assert_eq!(world.step(2, None).load.expect("wanted").label, label(2), "the other load is cancelled");
        let mut effects = Effects::default();
        world.table.load_ended(7, Ok(loaded(1)), Duration::ZERO, &mut effects);
        assert_eq!(names(&effects.discarded), ["1.form", "1.pack"]);
        assert!(world.table.report_for(&world.parts).is_empty());
    }

    /// Once, damage noted while a load ran cancelled it: with damage coming all the time, no load ever ended.
    #[tokio::test]
    async fn damage_met_during_a_repair_waits_for_its_end_and_is_repaired_next() {
        let (packs, mut world) = (Packs::new(), World::new());
        world.parts = [1, 2, 3].map(Part).into_iter().collect();
        world.step(1, None);
        let id = world.begin_load(1);
        let whole = packs.image(None, "a.pack", &[1, 2, 3]);
        world.end_load(id, loaded_as(1, whole));
        world.step(1, Some(1));
        assert_eq!(world.served(), [1, 2, 3]);

        assert_eq!(world.damage(&[(1, "a.pack")]), 1);
        let repair = world.step(1, Some(1)).load.expect("the part is fetched again");
        let existing = repair.existing.expect("the rest is here");
        assert_eq!(repair.distrusted.iter().collect::<Vec<_>>(), [Part(1)]);
        let id = world.begin_load(1);
        // The load goes on from an image that has part 2.
        assert_eq!(world.damage(&[(2, "a.pack")]), 1);
        assert!(world.step(1, Some(1)).load.is_none(), "the load under way goes on");
        assert_eq!(world.served(), [3]);
        let repaired = packs.image(Some(&existing), "b.pack", &[1]);
        world.end_load(id, loaded_as(1, repaired));
        let next = world.step(1, Some(1)).load.expect("what was met meanwhile is next");
        assert_eq!(world.served(), [1, 3], "what the load took over of part 2 is damaged");
        assert_eq!(next.distrusted.iter().collect::<Vec<_>>(), [Part(2)], "part 1 is good again");

        // Whoever still reads from the image before tells nothing new.
        assert_eq!(world.damage(&[(1, "a.pack"), (2, "a.pack")]), 0);
        let id = world.begin_load(1);
        let whole = packs.image(next.existing.as_deref(), "c.pack", &[2]);
        world.end_load(id, loaded_as(1, whole));
        assert!(world.step(1, Some(1)).load.is_none(), "nothing is missing");
        assert_eq!(world.served(), [1, 2, 3]);
        assert_eq!(world.damage(&[(1, "b.pack"), (3, "c.pack")]), 1, "another damage is news, of the file it is in");
    }
}
