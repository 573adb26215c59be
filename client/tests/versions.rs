//! Version skews between servers: whatever they show, an answer is of one content and never older than the last.

mod fake;

use std::time::Duration;

use fake::*;
use fkv_client::{ClientError, Consistency, Keys, ReadOptions};
use fkv_env::{Clock, Entropy, SeededEntropy, SystemClock};
use fkv_formats::id::{Epoch, Version};
use fkv_rpc::packed::{SectionStatus, Selector};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_over_several_roles_comes_back_in_the_order_asked() {
    let module = Module::start(&[("a", 3), ("b", 2)]).await;
    let client = module.client().await;
    let keys = keys();
    let answer = read(&client, &keys).await.expect("all is well");
    assert_eq!((answer.label.version, answer.label.content), (Version(1), content(1)));
    assert_eq!((answer.label.epoch, answer.label.as_of_s, answer.mixed), (Epoch(1), 100, false));
    let asked = module.take_asked();
    assert_eq!(asked.keys().map(String::as_str).collect::<Vec<_>>(), ["a/0", "a/1", "a/2"], "one sect, all roles");
    assert!(asked.values().all(|asked| asked.len() == 1 && asked[0].selector == Selector::Aligned));
    assert_eq!(asked.values().map(|asked| asked[0].keys).sum::<usize>(), keys.len());
    let mut times = asked.values().map(|asked| asked[0].read_ts_ms);
    let first = times.next();
    assert!(times.all(|time| Some(time) == first), "one read_ts for all roles");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn amid_a_flip_only_the_roles_behind_are_asked_again() {
    let module = Module::start(&[("a", 3)]).await;
    module.show_all(shown(1, 1), &[shown(2, 2)]);
    module.server("a", 0).state().show(shown(2, 2), &[shown(1, 1)]);
    let client = module.client().await;
    let answer = client
        .batch_get(&[fkv_client::TableRead { table: TABLE, keys: Keys::U64(&keys()) }], &ReadOptions::default())
        .await
        .expect("all hold version 2");
    check_content(&answer.tables[0], &keys(), content(2));
    assert_eq!(answer.effort.syncs, 1);
    let asked = module.take_asked();
    assert_eq!(asked["a/0"].len(), 1);
    for role in ["a/1", "a/2"] {
        let selectors: Vec<_> = asked[role].iter().map(|asked| asked.selector).collect();
        assert_eq!(selectors, [Selector::Aligned, Selector::Content(content(2))], "{role}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_replies_disagree_later_calls_ask_for_the_content_at_once() {
    let module = Module::start(&[("a", 3)]).await;
    module.show_all(shown(1, 1), &[shown(2, 2)]);
    module.server("a", 0).state().show(shown(2, 2), &[shown(1, 1)]);
    let client = module.client().await;
    read(&client, &keys()).await.expect("settled on version 2");
    module.take_asked();
    read(&client, &keys()).await.expect("still version 2");
    for (role, asked) in module.take_asked() {
        assert_eq!(asked.len(), 1, "{role} is asked once");
        assert_eq!(asked[0].selector, Selector::Content(content(2)), "{role}");
    }
    // The flip has reached all: one more call by content, after which nothing is remembered.
    module.show_all(shown(2, 2), &[shown(1, 1)]);
    read(&client, &keys()).await.expect("version 2");
    module.take_asked();
    read(&client, &keys()).await.expect("version 2");
    assert!(module.take_asked().values().flatten().all(|asked| asked.selector == Selector::Aligned));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_the_content_is_replaced_by_another_sect_with_another_number_of_roles() {
    let module = Module::start(&[("a", 3), ("b", 2)]).await;
    module.show_all(shown(2, 2), &[shown(1, 1)]);
    module.server("a", 1).state().show(shown(1, 1), &[]);
    let client = module.client().await;
    let answer = read(&client, &keys()).await.expect("sect b holds version 2");
    assert_eq!(answer.label.content, content(2));
    let asked = module.take_asked();
    assert_eq!(asked["a/1"].len(), 1, "it said that it holds version 1 only");
    let elsewhere: Vec<_> = ["b/0", "b/1"].iter().flat_map(|role| asked.get(*role)).flatten().collect();
    assert!(!elsewhere.is_empty());
    assert!(elsewhere.iter().all(|asked| asked.selector == Selector::Content(content(2))));
    assert_eq!(elsewhere.iter().map(|asked| asked.keys).sum::<usize>(), asked["a/1"][0].keys);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_nobody_can_complete_the_newer_content_the_common_older_one_is_answered() {
    let module = Module::start(&[("a", 3)]).await;
    module.show_all(shown(1, 1), &[]);
    module.server("a", 0).state().show(shown(2, 2), &[shown(1, 1)]);
    let client = module.client().await;
    let answer = read(&client, &keys()).await.expect("all hold version 1");
    assert_eq!(answer.label.content, content(1));
    assert_eq!(answer.label.aligned.map(|aligned| aligned.epoch), Some(Epoch(2)), "the label tells of the newer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_common_content_the_call_fails_and_nothing_is_mixed() {
    let module = Module::start(&[("a", 3), ("b", 2)]).await;
    module.show_all(shown(1, 1), &[]);
    for role in 0..2 {
        module.server("b", role).state().show(shown(3, 3), &[]);
    }
    module.server("a", 0).state().show(shown(2, 2), &[]);
    let mut config = module.config();
    config.restarts_max = 1;
    let client = module.client_with(config).await;
    module.server("b", 0).state().mood = Mood::Refuses(SectionStatus::DataFault);
    let error = read(&client, &keys()).await.expect_err("no content is everywhere");
    assert!(matches!(&error, ClientError::NoCommonVersion { table, .. } if table == TABLE), "{error}");
    assert!(error.is_transient());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_meets_no_common_content_waits_for_the_flip_to_arrive() {
    let module = Module::start(&[("a", 2)]).await;
    module.server("a", 0).state().show(shown(2, 2), &[]);
    let mut config = module.config();
    config.restarts_max = 1000;
    let client = module.client_with(config).await;
    let keys = keys();
    let reading = read(&client, &keys);
    let arriving = async {
        // Not before the call has begun anew at least once.
        while module.server("a", 1).state().asked.len() < 3 {
            tokio::task::yield_now().await;
        }
        module.server("a", 1).state().show(shown(2, 2), &[shown(1, 1)]);
    };
    let (answer, ()) = tokio::join!(reading, arriving);
    assert_eq!(answer.expect("in the end all show version 2").label.content, content(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_floor_never_falls() {
    let module = Module::start(&[("a", 2), ("b", 2)]).await;
    module.show_all(shown(2, 2), &[shown(1, 1)]);
    let mut config = module.config();
    config.restarts_max = 1;
    let client = module.client_with(config).await;
    assert_eq!(read(&client, &keys()).await.expect("version 2").label.content, content(2));

    // Both sects fall back to a state from before, as if cut off. What they still hold is asked for by content.
    module.show_all(shown(1, 1), &[shown(2, 2)]);
    assert_eq!(read(&client, &keys()).await.expect("held as the other").label.content, content(2));

    // They do not hold it any more: no answer is better than an older one.
    module.show_all(shown(1, 1), &[]);
    let error = read(&client, &keys()).await.expect_err("version 1 is below the floor");
    assert!(matches!(error, ClientError::NoCommonVersion { .. }), "{error}");

    // A rollback shows the same content at a higher epoch: that is news, and above the floor.
    module.show_all(shown(1, 3), &[]);
    let answer = read(&client, &keys()).await.expect("rolled back to version 1");
    assert_eq!((answer.label.content, answer.label.epoch), (content(1), Epoch(3)));

    // And now version 2 at its old epoch is below the floor in turn.
    module.show_all(shown(2, 2), &[]);
    assert!(read(&client, &keys()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stale_sect_does_not_take_a_client_back() {
    let module = Module::start(&[("a", 2), ("b", 3)]).await;
    module.show_all(shown(2, 2), &[]);
    let client = module.client().await;
    read(&client, &keys()).await.expect("version 2");
    for role in 0..2 {
        module.server("a", role).state().show(shown(1, 1), &[]);
    }
    let answer = read(&client, &keys()).await.expect("sect b still has it");
    assert_eq!(answer.label.content, content(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pinned_reads_get_their_version_and_leave_the_floor_alone() {
    let module = Module::start(&[("a", 2), ("b", 2)]).await;
    module.show_all(shown(3, 3), &[shown(2, 2)]);
    let client = module.client().await;
    let pinned = |version| ReadOptions { consistency: Consistency::Pinned(Version(version)), ..ReadOptions::default() };
    let keys = keys();
    let answer = client.get(TABLE, Keys::U64(&keys), &pinned(3)).await.expect("version 3 is held");
    check_content(&answer, &keys, content(3));
    let answer = client.get(TABLE, Keys::U64(&keys), &pinned(2)).await.expect("version 2 is held");
    check_content(&answer, &keys, content(2));
    let error = client.get(TABLE, Keys::U64(&keys), &pinned(9)).await.expect_err("version 9 is nowhere");
    assert!(matches!(error, ClientError::NoCommonVersion { .. }), "{error}");
    // Had the pinned reads moved the floor, version 1 would be below it.
    module.show_all(shown(1, 1), &[]);
    assert_eq!(read(&client, &keys).await.expect("no floor yet").label.content, content(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canary_reads_are_flagged_and_leave_the_floor_alone() {
    let module = Module::start(&[("a", 2)]).await;
    module.show_all(shown(9, 9), &[]);
    let client = module.client().await;
    let canary = ReadOptions { canary: true, ..ReadOptions::default() };
    let answer = client.get(TABLE, Keys::U64(&keys()), &canary).await.expect("the canary answers");
    check_content(&answer, &keys(), content(9));
    assert!(module.take_asked().values().flatten().all(|asked| asked.canary));
    module.show_all(shown(1, 1), &[]);
    assert_eq!(read(&client, &keys()).await.expect("no floor yet").label.content, content(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn available_reads_take_what_is_there_and_say_that_it_is_mixed() {
    let module = Module::start(&[("a", 2)]).await;
    module.server("a", 0).state().show(shown(2, 2), &[]);
    let client = module.client().await;
    let options = ReadOptions { consistency: Consistency::Available, ..ReadOptions::default() };
    let answer = client.get(TABLE, Keys::U64(&keys()), &options).await.expect("something is there");
    assert!(answer.mixed);
    assert_eq!(answer.label.content, content(2), "the label is the newest");
    module.show_all(shown(2, 2), &[]);
    let answer = client.get(TABLE, Keys::U64(&keys()), &options).await.expect("something is there");
    assert!(!answer.mixed);
    check(&answer, &keys());
}

/// Servers flip, lag, lose contents, fail and recover while several callers read at once. Whatever happens, every answer
/// is of one content (`read` checks every value against the label's), and for each caller epochs never fall but for the
/// same content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_skews_never_give_a_mixed_or_an_older_answer() {
    const CALLS: usize = 150;
    let module = Module::start(&[("a", 3), ("b", 2), ("c", 1)]).await;
    let mut config = module.config();
    config.sect = None;
    config.deadline = Duration::from_secs(5);
    let client = module.client_with(config).await;
    let keys = keys();
    let done = std::sync::atomic::AtomicUsize::new(0);
    let (callers, relaxed) = (3, std::sync::atomic::Ordering::Relaxed);

    let calling = async |_: usize| {
        let (mut answered, mut last) = (0, None::<(fkv_formats::id::ContentId, Epoch)>);
        for _ in 0..CALLS {
            match read(&client, &keys).await {
                Ok(answer) => {
                    answered += 1;
                    let label = answer.label;
                    if let Some((content, epoch)) = last {
                        assert!(content == label.content || label.epoch > epoch, "{label:?} after epoch {epoch}");
                    }
                    let epoch = last.map_or(label.epoch, |(_, epoch)| epoch.max(label.epoch));
                    last = Some((label.content, epoch));
                }
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
        done.fetch_add(1, relaxed);
        answered
    };
    let skewing = async {
        let entropy = SeededEntropy::new(2024);
        // History: epoch e shows content `history[e]`; now and then a rollback shows the one before again.
        let mut history = vec![1_u8, 1];
        while done.load(relaxed) < callers {
            if entropy.below(4) == 0 {
                let shown = |back: usize| history[history.len() - back];
                let rolled_back = entropy.below(4) == 0;
                history.push(if rolled_back { shown(2) } else { shown(1) % 250 + 1 });
            }
            let servers: Vec<&Server> = module.servers().collect();
            let server = servers[usize::try_from(entropy.below(servers.len() as u64)).expect("small")];
            let newest = history.len() - 1;
            let lag = usize::try_from(entropy.below(3)).expect("small").min(newest - 1);
            let at = |epoch: usize| shown(history[epoch], epoch as u64);
            {
                let mut state = server.state();
                match entropy.below(6) {
                    0 => state.show(at(newest - lag), &[]),
                    1 => state.show(at(newest - lag), &[at(newest)]),
                    2 => state.mood = Mood::Refuses(SectionStatus::NotLoaded),
                    3 => state.mood = Mood::Fails(fkv_rpc::status::ErrorKind::Unavailable),
                    _ => {
                        state.mood = Mood::Well;
                        state.show(at(newest), &[at(newest - 1)]);
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        // Trouble ends: everybody shows the newest.
        let newest = history.len() - 1;
        for server in module.servers() {
            let mut state = server.state();
            state.mood = Mood::Well;
            state.show(shown(history[newest], newest as u64), &[]);
        }
    };
    let (one, two, three, ()) = tokio::join!(calling(0), calling(1), calling(2), skewing);
    // How many are answered meanwhile is a matter of timing.
    assert!(one + two + three > 0, "some calls are answered");
    // Servers that were found sick come back one by one, as they are probed.
    let clock = SystemClock::new();
    loop {
        match read(&client, &keys).await {
            Ok(_) => break,
            Err(error) => assert!(clock.monotonic() < Duration::from_secs(60), "reads do not come back: {error}"),
        }
        clock.sleep(Duration::from_millis(10)).await;
    }
}
