use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fkv_env::Env;
use fkv_formats::id::{Epoch, TableUid, TaskId, Version};
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_meta::embedded::EmbeddedStore;
use fkv_meta::key::Keys;
use fkv_meta::mirror::Mirror;
use fkv_meta::record::RetainOld;
use fkv_meta::store::{MetaStore, Op, Revision, Txn, TxnOutcome};
use fkv_meta::{Meta, View, txn};

use crate::clock::ManualClock;
use crate::faulty::{Fault, Faulty};

struct Setting {
    env: Env,
    clock: Arc<ManualClock>,
    store: Arc<Faulty>,
    meta: Meta,
}

impl Setting {
    fn new() -> Self {
        let mut env = Env::real(1).expect("threads start");
        let behind: Arc<dyn MetaStore> = Arc::new(EmbeddedStore::in_memory(&env));
        let clock = ManualClock::new();
        env.clock = Arc::<ManualClock>::clone(&clock);
        // The test writes past the faults.
        let meta = Meta::new(Arc::clone(&behind), Keys::new("m").expect("a good name"));
        Self { env, clock, store: Faulty::over(behind), meta }
    }

    fn mirror(&self) -> Mirror {
        Mirror::start(&self.env, Arc::<Faulty>::clone(&self.store), self.meta.keys.clone())
    }

    async fn create(&self, name: &str) -> TableUid {
        let schema = Schema {
            kind: TableKind::Mem,
            key: KeyType::U64,
            value: ValueType::I64,
            storage: Storage::Native,
            f16_overflow: F16Overflow::Reject,
            ttl: false,
        };
        let new = txn::NewTable {
            name: name.into(),
            schema,
            retain_versions: 1,
            retain_old: RetainOld::Ram,
            filter: Default::default(),
        };
        let change = self.meta.change(|view| txn::create_table(view, new.clone(), 1)).await.expect("created");
        TableUid(change.revision.0)
    }

    async fn put(&self, key: &str, value: &'static [u8]) -> Revision {
        let op = Op::Put { key: key.to_owned(), value: Bytes::from_static(value), lease: None };
        match self.meta.run(Txn { compares: vec![], ops: vec![op] }).await {
            Ok(TxnOutcome::Committed(revision)) => revision,
            other => panic!("{other:?}"),
        }
    }

    /// Moves time on, step by step, until `done`.
    async fn pass_time_until<T>(&self, done: impl Future<Output = T>) -> T {
        let mut done = std::pin::pin!(done);
        loop {
            tokio::select! {
                biased;
                result = &mut done => return result,
                () = self.clock.until_somebody_sleeps() => {}
            }
            self.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
        }
    }
}

fn names(view: &View) -> Vec<&str> {
    view.tables().map(|table| table.value.name.as_str()).collect()
}

#[tokio::test]
async fn a_mirror_shows_what_was_and_what_comes() {
    let setting = Setting::new();
    let before = setting.create("before").await;
    let mirror = setting.mirror();
    assert_eq!((mirror.view().revision(), mirror.view().connected()), (Revision(0), false));
    let view = mirror.ready().await;
    assert_eq!(view.table_by_uid(before).map(|table| table.value.name.as_str()), Some("before"));
    let after = setting.create("after").await;
    let view = mirror.wait_for(|view| view.table("after").is_some()).await;
    assert_eq!((view.revision().0, view.table("after").map(fkv_meta::Stamped::uid)), (after.0, Some(after)));
    assert!(mirror.wait_for(View::connected).await.connected());

    setting.meta.change(|view| txn::drop_table(view, "before", None, 2)).await.expect("dropped");
    let view = mirror.wait_for(|view| view.table("before").is_none()).await;
    assert!(view.table_by_uid(before).is_none());
    assert_eq!(view.dropped().map(|(uid, _)| uid).collect::<Vec<_>>(), [before]);
    // A view once taken never changes.
    let again = setting.create("before").await;
    let newest = mirror.wait_for(|view| view.table("before").is_some()).await;
    assert!(view.table("before").is_none());
    assert_eq!(newest.table_by_uid(again).map(|table| table.value.epoch), Some(Epoch(0)));
}

#[tokio::test]
async fn a_value_that_cannot_be_read_hides_only_itself() {
    let setting = Setting::new();
    let uid = setting.create("good").await;
    let keys = &setting.meta.keys;
    setting.put(&keys.table("garbled"), b"{not json").await;
    setting.put(&keys.version(uid, Version(1)), br#"{"v":99}"#).await;
    setting.put(&format!("{}unheard-of/key", keys.all()), b"x").await;
    setting.put(&format!("{}tasks/nonsense", keys.all()), b"x").await;
    let mirror = setting.mirror();
    let view = mirror.ready().await;
    assert_eq!(names(&view), ["good"]);
    let unreadable: Vec<&str> = view.unreadable().map(|unreadable| unreadable.key.as_str()).collect();
    assert_eq!(
        unreadable,
        ["/fkv/m/tables/garbled", "/fkv/m/tasks/nonsense", "/fkv/m/unheard-of/key", &keys.version(uid, Version(1))]
    );
    let reasons: Vec<&str> = view.unreadable().map(|unreadable| unreadable.reason.as_str()).collect();
    assert!(reasons[3].contains("format 99 is unknown"), "{reasons:?}");

    // A good value turns bad while it is watched: the older one is not acted upon any longer.
    setting.put(&keys.table("good"), b"[]").await;
    let view = mirror.wait_for(|view| view.unreadable().count() == 5).await;
    assert!(view.table("good").is_none() && view.table_by_uid(uid).is_none());
    let plan = txn::drop_table(&view, "good", None, 3);
    assert_eq!(plan, Err(fkv_meta::Refusal::NoTable("good".into())));

    // And is mended.
    setting
        .meta
        .store
        .txn(Txn { compares: vec![], ops: vec![Op::Delete { key: keys.table("good") }] })
        .await
        .expect("ok");
    setting.create("good").await;
    let view = mirror.wait_for(|view| view.table("good").is_some()).await;
    assert_eq!(view.unreadable().count(), 4);
}

#[tokio::test]
async fn a_store_that_is_away_is_said_and_survived() {
    let setting = Setting::new();
    setting.create("one").await;
    let mirror = setting.mirror();
    mirror.wait_for(View::connected).await;
    setting.store.set(Fault::Down);
    let view = mirror.wait_for(|view| !view.connected()).await;
    assert_eq!(names(&view), ["one"], "what is known stays in use");
    setting.create("two").await;
    let lists = *setting.store.lists.borrow();
    setting.store.set(Fault::None);
    let view = setting.pass_time_until(mirror.wait_for(|view| view.table("two").is_some() && view.connected())).await;
    assert_eq!(names(&view), ["one", "two"]);
    assert_eq!(*setting.store.lists.borrow(), lists, "the watch goes on where it stopped: nothing is listed again");
}

#[tokio::test]
async fn a_mirror_started_while_the_store_is_away_catches_up() {
    let setting = Setting::new();
    setting.create("one").await;
    setting.store.set(Fault::Down);
    let mirror = setting.mirror();
    let mut lists = setting.store.lists.subscribe();
    setting.pass_time_until(async { lists.wait_for(|count| *count >= 3).await.map(drop) }).await.expect("tried");
    assert_eq!(mirror.view().revision(), Revision(0));
    setting.store.set(Fault::None);
    let view = setting.pass_time_until(mirror.ready()).await;
    assert_eq!(names(&view), ["one"]);
}

#[tokio::test]
async fn a_watch_that_was_compacted_is_replaced_by_a_list() {
    let setting = Setting::new();
    setting.create("one").await;
    let mirror = setting.mirror();
    mirror.wait_for(View::connected).await;
    for round in 1..=3_u32 {
        let (lists, mut watches) = (*setting.store.lists.borrow(), setting.store.watches.subscribe());
        watches.borrow_and_update();
        setting.store.set(Fault::Compacted(round));
        watches.changed().await.expect("watched again");
        assert!(*setting.store.lists.borrow() > lists, "it may have missed something");
        let name = format!("after-{round}");
        setting.create(&name).await;
        mirror.wait_for(|view| view.table(&name).is_some()).await;
    }
}

#[tokio::test]
async fn a_silent_watch_is_checked_by_listing_now_and_then() {
    let setting = Setting::new();
    setting.create("one").await;
    let mirror = setting.mirror();
    mirror.wait_for(View::connected).await;
    let mut lists = setting.store.lists.subscribe();
    let before = *lists.borrow_and_update();
    setting.pass_time_until(async { lists.wait_for(|count| *count > before).await.map(drop) }).await.expect("listed");
    assert!(mirror.view().connected());
}

#[tokio::test]
async fn a_dropped_mirror_watches_no_longer() {
    let setting = Setting::new();
    let mirror = setting.mirror();
    mirror.ready().await;
    let mut views = mirror.subscribe();
    drop(mirror);
    while views.changed().await.is_ok() {}
}

#[tokio::test]
async fn a_view_follows_a_snapshot_and_its_events_to_the_same_end() {
    // Every record once, by list and by watch: both views show the same.
    let setting = Setting::new();
    let mirror = setting.mirror();
    mirror.wait_for(View::connected).await;
    let uid = setting.create("t").await;
    let spec = fkv_meta::record::LoadSpec {
        inputs: vec!["file:///in".into()],
        mode: fkv_meta::record::LoadMode::Full,
        format: fkv_meta::record::InputFormat::Parquet,
        key_column: "id".into(),
        value_columns: vec!["v".into()],
        expiry_column: None,
        delete_column: None,
        nulls: fkv_meta::record::NullPolicy::Skip,
        duplicates: fkv_meta::record::Duplicates::Last,
        max_bad_rows: 0,
        require_success: false,
    };
    let view = setting.meta.view().await.expect("read");
    let Ok(txn::Submitted::New(plan)) = txn::submit(&view, "t", None, "s", &spec, 1) else { panic!("a new task") };
    setting.meta.run(plan.txn).await.expect("submitted");
    let progress = fkv_meta::record::Progress { stage: "build".into(), ..Default::default() };
    setting.meta.run(txn::put_progress(&setting.meta.keys, uid, TaskId(1), &progress)).await.expect("written");
    let lease = setting.meta.store.grant(Duration::from_secs(60)).await.expect("granted");
    let worker = fkv_meta::record::WorkerRecord { addr: "h:1".into(), started_ms: 1 };
    let announce = txn::put_worker(&setting.meta.keys, "w", &worker, lease).expect("a good name");
    setting.meta.run(announce).await.expect("written");
    let listed = setting.meta.view().await.expect("read");
    let watched = mirror.wait_for(|view| view.revision() == listed.revision()).await;
    for view in [&listed, &*watched] {
        assert_eq!(view.task(uid, TaskId(1)).map(|task| task.value.submit_id.as_str()), Some("s"));
        assert_eq!(view.tasks(uid).count(), 1);
        assert_eq!(view.tasks(TableUid(uid.0 + 1)).count(), 0);
        assert_eq!(view.progress(uid, TaskId(1)).map(|progress| progress.value.stage.as_str()), Some("build"));
        assert_eq!(view.workers().map(|(name, _)| name).collect::<Vec<_>>(), ["w"]);
        assert_eq!(view.unreadable().count(), 0);
    }
}
