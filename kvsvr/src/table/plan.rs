//! What a server should do about one table next: a pure function of what metadata wants and what the server holds.
//!
//! ```text
//!              ┌───────────── wanted: aligned, target ─────────────┐
//!   held ──────┤                                                   ├──▶ Plan { serve, report, load, drop, withdraw }
//!              └── acknowledged reports ── loads in progress ──────┘
//! ```
//!
//! The plan is declarative and level-triggered: whatever event comes, the caller asks for the plan again and closes
//! the gap. At most two images of a table exist at any time, one that is being loaded included. Default reads are
//! answered by the aligned content, or by the one aligned before while the newer is not there; never by a target. An
//! image is dropped only after the report without it was acknowledged. A content that cannot be loaded does not keep
//! the others from it: while its next try is not due, the next content has its turn.

use std::collections::{BTreeMap, BTreeSet};

use fkv_formats::id::ContentId;
use fkv_meta::record::{Label, RetainOld};

/// Most images of one table on one server.
pub(crate) const IMAGES_MAX: usize = 2;

/// What metadata says about a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The table exists.
    Table {
        /// What servers shall load.
        target: Option<Label>,
        /// What servers show.
        aligned: Option<Label>,
        /// What becomes of the image that a flip replaced.
        retain: RetainOld,
    },
    /// The table is gone, or this server has nothing to do with it any more.
    Nothing,
}

/// An image the server holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldImage {
    pub(crate) content: ContentId,
    /// Whether it has every part the server's slots own.
    pub(crate) complete: bool,
    /// Whether it has every part that the image default reads get at present has.
    pub(crate) covers: bool,
    /// Whether default reads ever got it: such an image is worth keeping for a rollback.
    pub(crate) served: bool,
    /// Whether a report that counts, or may come to count, names it.
    pub(crate) reported: bool,
}

/// What the server does at present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) images: Vec<HeldImage>,
    pub(crate) serving: Option<ContentId>,
    /// An image that was shown and is on disk only, neither aligned nor the target.
    pub(crate) shelved: Option<Label>,
    /// The content that is being loaded.
    pub(crate) loading: Option<ContentId>,
    /// Contents whose last load failed or brought only a part, and whether the next try is due.
    pub(crate) troubled: BTreeMap<ContentId, bool>,
}

/// What should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The held image that default reads get.
    pub(crate) serve: Option<ContentId>,
    /// The held contents to report, each for the slots whose parts it has.
    pub(crate) report: BTreeSet<ContentId>,
    /// What should be loading: a content that is not held, or held in part.
    pub(crate) load: Option<Label>,
    /// Held contents to drop now: no report names them any more.
    pub(crate) drop: Vec<ContentId>,
    /// Held contents that wait for a report without them before they are dropped.
    pub(crate) withdraw: Vec<ContentId>,
}

/// What should be, given what is wanted and held.
pub(crate) fn plan(wanted: Wanted, held: &Held) -> Plan {
    debug_assert!(held.images.len() <= IMAGES_MAX, "at most two images per table");
    let (target, aligned, retain) = match wanted {
        Wanted::Table { target, aligned, retain } => (target, aligned, retain),
        Wanted::Nothing => (None, None, RetainOld::Disk),
    };
    let serve = match wanted {
        Wanted::Nothing => None,
        Wanted::Table { .. } => serve(aligned, held),
    };
    let needed: BTreeSet<ContentId> = [aligned, target].into_iter().flatten().map(|label| label.content).collect();
    // Nobody needs these any more. One that was shown stays while there is room, for SyncVersion and rollback.
    let idle = |image: &&HeldImage| !needed.contains(&image.content) && serve != Some(image.content);
    let mut leaving: BTreeSet<ContentId> = held
        .images
        .iter()
        .filter(idle)
        .filter(|image| retain == RetainOld::Disk || !image.served)
        .map(|image| image.content)
        .collect();

    let load = next_load(wanted, held, serve);
    let mut load_now = load;
    // A load of something new needs a place in the pair.
    if let Some(label) = load
        && needs_place(held, label.content)
    {
        leaving.extend(victim(held, serve, &needed).map(|victim| victim.content));
        load_now = None;
    }

    let mut plan = Plan { serve, load: load_now, ..Plan::default() };
    for image in &held.images {
        if leaving.contains(&image.content) {
            if image.reported { plan.withdraw.push(image.content) } else { plan.drop.push(image.content) }
        } else {
            plan.report.insert(image.content);
        }
    }
    plan
}

/// What to load next: aligned content first, then the target, then what is kept for a rollback. What was shown before
/// comes ahead of the target while nothing is shown.
fn next_load(wanted: Wanted, held: &Held, serve: Option<ContentId>) -> Option<Label> {
    let Wanted::Table { target, aligned, retain } = wanted else { return None };
    let is_whole = |content| held.images.iter().any(|image| image.content == content && image.complete);
    let has_room = held.images.len() < IMAGES_MAX;
    let shelved =
        held.shelved.filter(|_| has_room || held.shelved.is_some_and(|label| !needs_place(held, label.content)));
    let candidates: Vec<Label> = [
        aligned,
        shelved.filter(|_| serve.is_none() && aligned.is_some()),
        target,
        shelved.filter(|_| serve.is_some() && retain == RetainOld::Ram),
    ]
    .into_iter()
    .flatten()
    .filter(|label| !is_whole(label.content))
    .collect();
    let needed: BTreeSet<ContentId> = [aligned, target].into_iter().flatten().map(|label| label.content).collect();
    let is_untried = |label: &Label| !held.troubled.contains_key(&label.content);
    let may_load = |label: &Label| {
        let due = held.troubled.get(&label.content).copied();
        // An image that something needs gives way to what was tried in vain only if it is no better itself.
        let gives_way = |image: &HeldImage| {
            !needed.contains(&image.content) || (!image.complete && held.troubled.contains_key(&image.content))
        };
        due.unwrap_or(true)
            && (due.is_none()
                || !needs_place(held, label.content)
                || victim(held, serve, &needed).is_some_and(gives_way))
    };
    // A load under way goes on, lest another try of something else cut it short again and again.
    if let Some(at) = candidates.iter().position(|label| Some(label.content) == held.loading) {
        return candidates[..at].iter().find(|label| is_untried(label)).or(candidates.get(at)).copied();
    }
    candidates.into_iter().find(may_load)
}

/// Whether the image of `content` has no place in the pair.
fn needs_place(held: &Held, content: ContentId) -> bool {
    held.images.len() >= IMAGES_MAX && held.images.iter().all(|image| image.content != content)
}

/// Which image gives way to another: one that nothing needs; otherwise the one on the other side of the pair, because
/// aligned content comes before a target.
fn victim<'h>(held: &'h Held, serve: Option<ContentId>, needed: &BTreeSet<ContentId>) -> Option<&'h HeldImage> {
    let victims = held.images.iter().filter(|image| serve != Some(image.content));
    victims.min_by_key(|image| (needed.contains(&image.content), image.content))
}

/// Default reads: the aligned content if it answers for all that is answered now; else what was shown before; else
/// what there is of the aligned; else what an earlier life of the server showed.
fn serve(aligned: Option<Label>, held: &Held) -> Option<ContentId> {
    let aligned = aligned?;
    let image = held.images.iter().find(|image| image.content == aligned.content);
    if image.is_some_and(|image| image.complete || image.covers) {
        return Some(aligned.content);
    }
    let before = held.serving.filter(|content| held.images.iter().any(|image| image.content == *content));
    let earlier = || held.images.iter().find(|image| image.served).map(|image| image.content);
    before.or(image.map(|image| image.content)).or_else(earlier)
}

#[cfg(test)]
mod tests {
    use fkv_formats::id::{Epoch, Version};
    use proptest::prelude::*;

    use super::*;

    fn content(number: u8) -> ContentId {
        ContentId([number; 32])
    }

    fn label(number: u8) -> Label {
        Label { version: Version(number.into()), content: content(number), epoch: Epoch(number.into()) }
    }

    fn table(target: u8, aligned: Option<u8>) -> Wanted {
        Wanted::Table { target: Some(label(target)), aligned: aligned.map(label), retain: RetainOld::Ram }
    }

    fn whole(number: u8) -> HeldImage {
        HeldImage { content: content(number), complete: true, covers: true, served: true, reported: true }
    }

    fn holding(images: &[HeldImage], serving: Option<u8>) -> Held {
        Held { images: images.to_vec(), serving: serving.map(content), ..Held::default() }
    }

    #[test]
    fn a_target_is_loaded_and_reported_but_not_shown_before_it_is_aligned() {
        let first = plan(table(1, None), &Held::default());
        assert_eq!(first, Plan { load: Some(label(1)), ..Plan::default() });
        let preloaded = HeldImage { served: false, ..whole(1) };
        let held = holding(&[preloaded], None);
        let loaded = plan(table(1, None), &held);
        assert_eq!((loaded.serve, loaded.load), (None, None));
        assert_eq!(loaded.report, BTreeSet::from([content(1)]));
        assert_eq!(plan(table(1, Some(1)), &held).serve, Some(content(1)));
    }

    #[test]
    fn the_second_version_loads_beside_the_first_and_the_third_replaces_the_oldest() {
        let one = holding(&[whole(1)], Some(1));
        let loading = plan(table(2, Some(1)), &one);
        assert_eq!((loading.serve, loading.load), (Some(content(1)), Some(label(2))));

        let two = holding(&[whole(1), whole(2)], Some(1));
        let flip = plan(table(2, Some(2)), &two);
        assert_eq!(flip.serve, Some(content(2)));
        assert_eq!(flip.report, BTreeSet::from([content(1), content(2)]), "the old image stays for rollback");

        let flipped = holding(&[whole(1), whole(2)], Some(2));
        let third = plan(table(3, Some(2)), &flipped);
        assert_eq!((third.load, &third.withdraw), (None, &vec![content(1)]), "no place before the oldest is gone");
        assert!(third.drop.is_empty(), "the report still names it");
        let withdrawn = holding(&[HeldImage { reported: false, ..whole(1) }, whole(2)], Some(2));
        assert_eq!(plan(table(3, Some(2)), &withdrawn).drop, vec![content(1)]);
        assert_eq!(plan(table(3, Some(2)), &holding(&[whole(2)], Some(2))).load, Some(label(3)));
    }

    #[test]
    fn a_rollback_to_the_retained_image_loads_nothing() {
        let held = holding(&[whole(1), whole(2)], Some(2));
        let rollback = plan(table(1, Some(2)), &held);
        assert_eq!((rollback.serve, rollback.load), (Some(content(2)), None));
        assert!(rollback.withdraw.is_empty() && rollback.drop.is_empty());
        assert_eq!(plan(table(1, Some(1)), &held).serve, Some(content(1)));
    }

    #[test]
    fn after_a_restart_the_image_kept_for_a_rollback_comes_back_last() {
        let shelved = |images: &[HeldImage], serving| Held { shelved: Some(label(1)), ..holding(images, serving) };
        assert_eq!(plan(table(2, Some(2)), &shelved(&[], None)).load, Some(label(2)));
        assert_eq!(plan(table(2, Some(2)), &shelved(&[whole(2)], Some(2))).load, Some(label(1)));
        assert_eq!(plan(table(3, Some(2)), &shelved(&[whole(2)], Some(2))).load, Some(label(3)));
        let disk = Wanted::Table { target: Some(label(2)), aligned: Some(label(2)), retain: RetainOld::Disk };
        assert_eq!(plan(disk, &shelved(&[whole(2)], Some(2))).load, None);
    }

    fn in_trouble(contents: &[(u8, bool)]) -> BTreeMap<ContentId, bool> {
        contents.iter().map(|(number, due)| (content(*number), *due)).collect()
    }

    #[test]
    fn a_damaged_aligned_version_does_not_keep_the_next_from_loading() {
        let wanted = table(2, Some(1));
        let troubled = |images: &[HeldImage], due| Held { troubled: in_trouble(&[(1, due)]), ..holding(images, None) };
        assert_eq!(plan(wanted, &troubled(&[], false)).load, Some(label(2)));
        assert_eq!(plan(wanted, &troubled(&[], true)).load, Some(label(1)), "it is tried again when that is due");
        let partial = HeldImage { complete: false, ..whole(1) };
        assert_eq!(plan(wanted, &troubled(&[partial], false)).load, Some(label(2)));
        // The next version is loading when the other's try is due: it goes on, or it would never end.
        let loading = Held { loading: Some(content(2)), ..troubled(&[], true) };
        assert_eq!(plan(wanted, &loading).load, Some(label(2)));
        // Reported, it makes the alignment go on.
        let there = plan(wanted, &troubled(&[HeldImage { served: false, ..whole(2) }], false));
        assert_eq!((there.report, there.load), (BTreeSet::from([content(2)]), None));
        // What was never tried comes first even so.
        assert_eq!(plan(wanted, &Held { loading: Some(content(2)), ..Held::default() }).load, Some(label(1)));
    }

    #[test]
    fn what_was_shown_before_is_shown_again_while_the_aligned_version_cannot_be_loaded() {
        let wanted = table(3, Some(2));
        let held = Held { troubled: in_trouble(&[(2, false)]), shelved: Some(label(1)), ..Held::default() };
        assert_eq!(plan(wanted, &held).load, Some(label(1)), "before the target: nothing is shown");
        let disk = Wanted::Table { target: Some(label(2)), aligned: Some(label(2)), retain: RetainOld::Disk };
        assert_eq!(plan(disk, &held).load, Some(label(1)), "however images are retained");
        let restored = Held { images: vec![whole(1)], shelved: None, ..held };
        assert_eq!(plan(wanted, &restored).serve, Some(content(1)));
        let never_shown = HeldImage { served: false, ..whole(3) };
        assert_eq!(plan(wanted, &Held { images: vec![never_shown], ..restored }).serve, None, "a target is not shown");
    }

    #[test]
    fn a_pair_does_not_give_up_a_whole_target_for_what_was_tried_in_vain() {
        let target = HeldImage { served: false, ..whole(3) };
        let held = Held { troubled: in_trouble(&[(2, true)]), ..holding(&[whole(1), target], Some(1)) };
        let kept = plan(table(3, Some(2)), &held);
        assert_eq!((kept.load, kept.withdraw), (None, vec![]));
        // Neither is whole: they take turns.
        let partial = HeldImage { complete: false, ..target };
        let both = Held { images: vec![whole(1), partial], troubled: in_trouble(&[(2, true), (3, false)]), ..held };
        assert_eq!(plan(table(3, Some(2)), &both).withdraw, vec![content(3)]);
    }

    #[test]
    fn an_empty_server_loads_what_is_shown_before_what_comes_next() {
        assert_eq!(plan(table(2, Some(1)), &Held::default()).load, Some(label(1)));
        assert_eq!(plan(table(2, Some(1)), &holding(&[whole(1)], Some(1))).load, Some(label(2)));
    }

    #[test]
    fn a_server_that_missed_a_flip_keeps_showing_what_it_has() {
        let held = holding(&[whole(1)], Some(1));
        let behind = plan(table(2, Some(2)), &held);
        assert_eq!((behind.serve, behind.load), (Some(content(1)), Some(label(2))));
        let partial = HeldImage { complete: false, covers: false, reported: false, served: false, ..whole(2) };
        let half = plan(table(2, Some(2)), &holding(&[whole(1), partial], Some(1)));
        assert_eq!((half.serve, half.load), (Some(content(1)), Some(label(2))));
        assert_eq!(half.report, BTreeSet::from([content(1), content(2)]), "for the slots it covers");
        assert_eq!(plan(table(2, Some(2)), &holding(&[partial], None)).serve, Some(content(2)), "better than nothing");
    }

    #[test]
    fn a_server_that_gained_a_slot_flips_before_the_new_parts_are_there() {
        let grown = |number| HeldImage { complete: false, ..whole(number) };
        let flip = plan(table(2, Some(2)), &holding(&[grown(1), grown(2)], Some(1)));
        assert_eq!((flip.serve, flip.load), (Some(content(2)), Some(label(2))));
        assert!(flip.withdraw.is_empty() && flip.drop.is_empty());
    }

    #[test]
    fn a_pair_without_the_aligned_content_gives_up_the_target() {
        let preloaded = HeldImage { served: false, ..whole(3) };
        let missed = plan(table(3, Some(2)), &holding(&[whole(1), preloaded], Some(1)));
        assert_eq!((missed.serve, missed.load), (Some(content(1)), None));
        assert_eq!(missed.withdraw, vec![content(3)]);
    }

    #[test]
    fn a_failed_alignment_drops_the_target_that_was_never_shown() {
        let target = HeldImage { served: false, ..whole(2) };
        let failed = plan(table(1, Some(1)), &holding(&[whole(1), target], Some(1)));
        assert_eq!((failed.serve, failed.withdraw), (Some(content(1)), vec![content(2)]));
    }

    #[test]
    fn retaining_on_disk_frees_the_memory_after_the_flip() {
        let wanted = Wanted::Table { target: Some(label(2)), aligned: Some(label(2)), retain: RetainOld::Disk };
        let flipped = plan(wanted, &holding(&[whole(1), whole(2)], Some(2)));
        assert_eq!((flipped.serve, flipped.withdraw), (Some(content(2)), vec![content(1)]));
    }

    #[test]
    fn a_dropped_table_is_shown_no_more_and_goes_after_its_withdrawal() {
        let held = holding(&[whole(1), HeldImage { reported: false, ..whole(2) }], Some(2));
        let gone = plan(Wanted::Nothing, &held);
        assert_eq!((gone.serve, gone.load), (None, None));
        assert_eq!((gone.withdraw, gone.drop), (vec![content(1)], vec![content(2)]));
        assert!(gone.report.is_empty());
    }

    /// A small world that follows plans: loads succeed, reports are acknowledged, both after arbitrary delays.
    fn follow(held: &mut Held, wanted: Wanted, load_succeeds: bool, ack: bool) {
        let plan = plan(wanted, held);
        held.serving = plan.serve;
        for image in &mut held.images {
            image.served |= plan.serve == Some(image.content);
            if ack {
                image.reported = plan.report.contains(&image.content);
            }
        }
        held.images.retain(|image| !plan.drop.contains(&image.content));
        if load_succeeds && let Some(label) = plan.load {
            held.images.retain(|image| image.content != label.content);
            held.images.push(HeldImage {
                content: label.content,
                complete: true,
                covers: true,
                served: false,
                // A report may be on its way the moment the image exists.
                reported: true,
            });
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_there_are_two_images_at_most_and_targets_are_not_shown(
            steps in prop::collection::vec((1..6_u8, prop::option::of(1..6_u8), any::<(bool, bool, bool)>()), 1..60)
        ) {
            let mut held = Held::default();
            let mut aligned_once = BTreeSet::new();
            for (target, aligned, (load_succeeds, ack, exists)) in steps {
                let wanted = if exists { table(target, aligned) } else { Wanted::Nothing };
                if exists {
                    aligned_once.extend(aligned.map(content));
                }
                let before = held.clone();
                follow(&mut held, wanted, load_succeeds, ack);
                prop_assert!(held.images.len() <= IMAGES_MAX);
                if let Some(serving) = held.serving {
                    prop_assert!(aligned_once.contains(&serving), "only content that was aligned is shown");
                    prop_assert!(held.images.iter().any(|image| image.content == serving), "what is shown is held");
                }
                for image in before.images.iter().filter(|image| image.reported) {
                    prop_assert!(
                        held.images.iter().any(|now| now.content == image.content) || ack,
                        "a reported image is not dropped before its withdrawal is acknowledged"
                    );
                }
            }
            // Once the wishes stop changing, the server gets there.
            for _ in 0..8 {
                follow(&mut held, table(7, Some(6)), true, true);
            }
            prop_assert_eq!(held.serving, Some(content(6)));
            let contents: BTreeSet<ContentId> = held.images.iter().map(|image| image.content).collect();
            prop_assert_eq!(contents, BTreeSet::from([content(6), content(7)]));
        }
    }
}
