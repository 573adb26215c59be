//! Version skews as labels, and what is decided.

use fkv_formats::id::{TableUid, Version};
use fkv_rpc::packed::HeldContent;
use proptest::prelude::*;

use super::*;

fn content(number: u8) -> ContentId {
    ContentId([number; 32])
}

/// Content `number` as version `number`, at `epoch`.
fn shown(number: u8, epoch: u64) -> Shown {
    Shown { version: Version(number.into()), content: content(number), epoch: Epoch(epoch) }
}

/// A server that serves what it believes to be aligned.
fn label(aligned: Shown, other: Option<u8>) -> SectionLabel {
    served(aligned, aligned, other)
}

fn served(served: Shown, aligned: Shown, other: Option<u8>) -> SectionLabel {
    let other = other.map(|number| HeldContent { version: Version(number.into()), content: content(number) });
    SectionLabel { served: Some(served), aligned: Some(aligned), other, ..SectionLabel::unknown(TableUid(1)) }
}

fn evidence(labels: &[SectionLabel]) -> Evidence {
    let mut evidence = Evidence::default();
    labels.iter().for_each(|label| evidence.note(label));
    evidence
}

fn decided(memory: &Memory, labels: &[SectionLabel], failed: &[u8]) -> Decision {
    let failed = failed.iter().map(|number| content(*number)).collect();
    let rules = Rules { memory: Some(memory), failed: &failed, now: Duration::ZERO };
    decide(rules, &evidence(labels), labels)
}

fn settle(memory: &mut Memory, number: u8, labels: &[SectionLabel]) -> Option<Shown> {
    memory.settle(content(number), &evidence(labels), labels, Duration::ZERO)
}

/// What a client remembers after an answer of `number` at `epoch`.
fn after(number: u8, epoch: u64) -> Memory {
    let mut memory = Memory::default();
    let labels = [label(shown(number, epoch), None)];
    settle(&mut memory, number, &labels).expect("nothing is below it");
    memory
}

#[test]
fn replies_of_one_content_are_the_answer() {
    let labels = [label(shown(1, 1), None), label(shown(1, 1), Some(2))];
    assert_eq!(decided(&Memory::default(), &labels, &[]), Decision::Accept(content(1)));
}

#[test]
fn equal_content_under_two_epochs_is_one_content() {
    let labels = [label(shown(1, 1), None), label(shown(1, 5), None)];
    assert_eq!(decided(&Memory::default(), &labels, &[]), Decision::Accept(content(1)));
    assert_eq!(evidence(&labels).shown(content(1)).expect("seen").epoch, Epoch(5));
}

#[test]
fn amid_a_flip_the_newer_content_is_asked_for() {
    let labels = [label(shown(1, 1), Some(2)), label(shown(2, 2), Some(1))];
    assert_eq!(decided(&Memory::default(), &labels, &[]), Decision::Ask(content(2)));
}

#[test]
fn a_rollback_is_newer_although_its_version_is_lower() {
    let labels = [label(shown(7, 7), Some(3)), label(shown(3, 8), Some(7))];
    assert_eq!(decided(&Memory::default(), &labels, &[]), Decision::Ask(content(3)));
}

#[test]
fn when_the_newer_cannot_be_had_the_older_that_all_hold_is() {
    let labels = [label(shown(1, 1), None), label(shown(2, 2), Some(1))];
    assert_eq!(decided(&Memory::default(), &labels, &[2]), Decision::Ask(content(1)));
}

#[test]
fn an_older_content_below_the_floor_is_never_fallen_back_to() {
    let labels = [label(shown(1, 1), None), label(shown(2, 2), Some(1))];
    assert_eq!(decided(&after(2, 2), &labels, &[2]), Decision::Nothing);
}

#[test]
fn content_held_but_never_shown_is_not_fallen_back_to() {
    // Both hold content 9, a target not shown anywhere yet.
    let labels = [label(shown(1, 1), Some(9)), label(shown(2, 2), Some(9))];
    assert_eq!(decided(&Memory::default(), &labels, &[2]), Decision::Nothing);
}

#[test]
fn a_stale_sect_is_asked_for_what_the_client_saw_last() {
    let labels = [label(shown(1, 1), Some(2)), label(shown(1, 1), Some(2))];
    assert_eq!(decided(&after(2, 2), &labels, &[]), Decision::Ask(content(2)));
    assert_eq!(decided(&after(2, 2), &labels, &[2]), Decision::Nothing);
}

#[test]
fn agreeing_replies_that_know_of_newer_content_try_for_it_first() {
    let reloading = served(shown(1, 1), shown(2, 2), None);
    let labels = [reloading, reloading];
    assert_eq!(decided(&Memory::default(), &labels, &[]), Decision::Ask(content(2)));
    assert_eq!(decided(&Memory::default(), &labels, &[2]), Decision::Accept(content(1)));
}

#[test]
fn another_content_at_the_floors_epoch_is_below_it() {
    let labels = [label(shown(3, 2), None)];
    assert_eq!(decided(&after(2, 2), &labels, &[]), Decision::Ask(content(2)));
}

#[test]
fn calls_without_a_floor_take_any_common_content() {
    let failed = BTreeSet::new();
    let rules = Rules { memory: None, failed: &failed, now: Duration::ZERO };
    let canary = served(shown(9, 9), shown(1, 1), Some(1));
    assert_eq!(decide(rules, &evidence(&[canary]), &[canary]), Decision::Accept(content(9)));
}

#[test]
fn a_verdict_lasts_while_replies_disagree() {
    let mut memory = Memory::default();
    // Settled on 1 while 2 at epoch 2 could not be had everywhere.
    let labels = [label(shown(1, 1), None), served(shown(1, 1), shown(2, 2), Some(2))];
    assert!(settle(&mut memory, 1, &labels).is_some());
    assert_eq!(memory.start(Duration::ZERO), Some(content(1)));
    assert_eq!(memory.start(VERDICT_LASTS), None, "only for a moment");
    assert_eq!(decided(&memory, &labels, &[]), Decision::Accept(content(1)), "the way to it is saved");
    let news = [labels[0], served(shown(1, 1), shown(3, 3), None)];
    assert_eq!(decided(&memory, &news, &[]), Decision::Ask(content(3)), "a higher epoch overturns it");
    let agreed = [label(shown(2, 2), None), label(shown(2, 2), None)];
    assert!(settle(&mut memory, 2, &agreed).is_some());
    assert_eq!(memory.start(Duration::ZERO), None, "all show the same again");
}

/// Content 1 is shown again at epoch 3. A server that has not heard of that serves the right content under epoch 1.
#[test]
fn the_floors_content_keeps_its_epoch_whatever_stale_servers_call_it() {
    let mut memory = after(1, 3);
    let stale = [label(shown(1, 1), None)];
    assert_eq!(settle(&mut memory, 1, &stale), Some(shown(1, 3)));
    let between = [label(shown(2, 2), None)];
    assert_eq!(settle(&mut memory, 2, &between), None, "the floor is still at epoch 3");
}

#[test]
fn an_answer_that_was_outrun_is_not_given() {
    let mut memory = after(1, 1);
    let newer = [label(shown(2, 2), None)];
    let older = [label(shown(1, 1), None)];
    assert!(settle(&mut memory, 2, &newer).is_some());
    assert!(settle(&mut memory, 1, &older).is_none());
    assert!(settle(&mut memory, 2, &newer).is_some());
}

fn any_label() -> impl Strategy<Value = SectionLabel> {
    // Content n is shown from epoch n on; a rollback shows an older one at a higher epoch.
    let shown_at = (0..6_u8, 0..3_u64).prop_map(|(number, later)| shown(number, u64::from(number) + later * 10));
    (shown_at.clone(), shown_at, prop::option::of(0..6_u8), any::<bool>())
        .prop_map(|(one, two, other, plain)| if plain { label(one, other) } else { served(one, two, other) })
}

proptest! {
    /// Whatever labels say, in whatever order of answers: a content is accepted only if all pieces are of it, what is
    /// asked for was not given up before and differs somewhere, and what is settled never goes below the floor.
    #[test]
    fn decisions_keep_their_promises(
        calls in prop::collection::vec(
            (prop::collection::vec(any_label(), 1..5), prop::collection::btree_set(0..6_u8, 0..4)), 1..12)
    ) {
        let mut memory = Memory::default();
        let mut last: Option<Shown> = None;
        for (labels, failed) in calls {
            let failed: BTreeSet<ContentId> = failed.into_iter().map(content).collect();
            let evidence = evidence(&labels);
            let rules = Rules { memory: Some(&memory), failed: &failed, now: Duration::ZERO };
            match decide(rules, &evidence, &labels) {
                Decision::Accept(accepted) => {
                    prop_assert_eq!(common_content(&labels), Some(accepted));
                    let settled = memory.settle(accepted, &evidence, &labels, Duration::ZERO);
                    let settled = settled.expect("what is accepted settles");
                    if let Some(last) = last {
                        let same = last.content == accepted && settled.epoch >= last.epoch;
                        prop_assert!(same || settled.epoch > last.epoch, "below the floor");
                    }
                    last = Some(settled);
                }
                Decision::Ask(asked) => {
                    prop_assert!(!failed.contains(&asked));
                    prop_assert!(common_content(&labels) != Some(asked), "there is something to bring over");
                }
                Decision::Nothing => {}
            }
        }
    }
}
