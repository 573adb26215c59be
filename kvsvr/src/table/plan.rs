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
//! image is dropped only after the report without it was acknowledged.

use std::collections::BTreeSet;

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
    /// An image that was shown and is on disk only.
    pub(crate) shelved: Option<Label>,
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
    let find = |content: ContentId| held.images.iter().find(|image| image.content == content);
    let load = [aligned, target]
        .into_iter()
        .flatten()
        .find(|label| find(label.content).is_none_or(|image| !image.complete))
        // After a restart the image that was kept for a rollback comes back, too, once all else is there.
        .or(held.shelved.filter(|_| retain == RetainOld::Ram && held.images.len() < IMAGES_MAX && serve.is_some()));

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

    // A load of something new needs a place in the pair.
    let mut load_now = load;
    if let Some(label) = load
        && find(label.content).is_none()
        && held.images.len() >= IMAGES_MAX
    {
        let victims = held.images.iter().filter(|image| serve != Some(image.content));
        // Nothing needs an idle image; otherwise the image on the other side of the pair gives way, because aligned
        // content (`load` prefers it) comes before a target.
        if let Some(victim) = victims.min_by_key(|image| (!idle(image), image.content)) {
            leaving.insert(victim.content);
        }
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

/// Default reads: the aligned content if it answers for all that is answered now; else what was shown before; else
/// what there is of the aligned.
fn serve(aligned: Option<Label>, held: &Held) -> Option<ContentId> {
    let aligned = aligned?;
    let image = held.images.iter().find(|image| image.content == aligned.content);
    if image.is_some_and(|image| image.complete || image.covers) {
        return Some(aligned.content);
    }
    let before = held.serving.filter(|content| held.images.iter().any(|image| image.content == *content));
    before.or(image.map(|image| image.content))
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
        Held { images: images.to_vec(), serving: serving.map(content), shelved: None }
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
