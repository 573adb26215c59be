use std::sync::Arc;
use std::time::Duration;

use fkv_env::Env;
use fkv_meta::embedded::EmbeddedStore;
use fkv_meta::lease::{LeaseKeeper, LeaseState};
use fkv_meta::store::{MetaError, MetaStore};

use crate::clock::ManualClock;
use crate::faulty::{Fault, Faulty};

const TTL: Duration = Duration::from_secs(9);

struct Setting {
    clock: Arc<ManualClock>,
    store: Arc<Faulty>,
    keeper: LeaseKeeper,
}

impl Setting {
    fn new() -> Self {
        let mut env = Env::real(1).expect("threads start");
        let clock = ManualClock::new();
        env.clock = Arc::<ManualClock>::clone(&clock);
        let store = Faulty::over(Arc::new(EmbeddedStore::in_memory(&env)));
        let keeper = LeaseKeeper::start(&env, Arc::<Faulty>::clone(&store), TTL);
        Self { clock, store, keeper }
    }

    async fn pass_time_until<T>(&self, done: impl Future<Output = T>) -> T {
        let mut done = std::pin::pin!(done);
        loop {
            tokio::select! {
                biased;
                result = &mut done => return result,
                () = self.clock.until_somebody_sleeps() => {}
            }
            self.clock.advance(Duration::from_millis(200));
            // The keeper and the store get their turns before time moves on.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn a_lease_is_renewed_beyond_its_time_to_live() {
    let setting = Setting::new();
    let lease = setting.keeper.held().await;
    let mut renewals = setting.store.renewals.subscribe();
    let began = fkv_env::Clock::monotonic(&*setting.clock);
    setting.pass_time_until(async { renewals.wait_for(|count| *count >= 10).await.map(drop) }).await.expect("renewed");
    let lived = fkv_env::Clock::monotonic(&*setting.clock) - began;
    assert!(lived > TTL * 2, "ten renewals in {lived:?}");
    assert!(lived < TTL * 4, "ten renewals took {lived:?}");
    assert_eq!(*setting.keeper.subscribe().borrow(), LeaseState::Held(lease));
    assert_eq!(setting.store.renew(lease).await, Ok(()));
}

#[tokio::test]
async fn a_lease_ended_by_the_store_is_signalled_and_replaced_on_request_only() {
    let setting = Setting::new();
    let first = setting.keeper.held().await;
    // Asked while one is held: nothing happens, now or after the loss.
    setting.keeper.regrant();
    setting.store.revoke(first).await.expect("revoked");
    setting.pass_time_until(setting.keeper.lost(first)).await;
    assert_eq!(*setting.keeper.subscribe().borrow(), LeaseState::Lost(first));
    assert_eq!(*setting.store.grants.borrow(), 1);
    setting.keeper.regrant();
    let second = setting.pass_time_until(setting.keeper.held()).await;
    assert_ne!(first, second);
    assert_eq!(setting.store.renew(second).await, Ok(()));
}

#[tokio::test]
async fn a_lease_that_could_not_be_renewed_in_time_counts_as_lost() {
    let setting = Setting::new();
    let lease = setting.keeper.held().await;
    setting.store.set(Fault::Down);
    let began = fkv_env::Clock::monotonic(&*setting.clock);
    setting.pass_time_until(setting.keeper.lost(lease)).await;
    let lived = fkv_env::Clock::monotonic(&*setting.clock) - began;
    assert!(lived <= TTL + Duration::from_millis(400), "lost after {lived:?}, later than the store may end it");
    assert!(lived >= TTL / 2, "given up after {lived:?} although it could have been renewed");

    setting.keeper.regrant();
    let mut grants = setting.store.grants.subscribe();
    setting.pass_time_until(async { grants.wait_for(|count| *count >= 4).await.map(drop) }).await.expect("it tries on");
    setting.store.set(Fault::None);
    let next = setting.pass_time_until(setting.keeper.held()).await;
    assert_ne!(next, lease);
}

#[tokio::test]
async fn a_lease_survives_a_store_that_is_away_for_less_than_its_time() {
    let setting = Setting::new();
    let lease = setting.keeper.held().await;
    setting.store.set(Fault::Down);
    let mut renewals = setting.store.renewals.subscribe();
    renewals.borrow_and_update();
    setting.pass_time_until(async { renewals.changed().await }).await.expect("tried in vain");
    setting.store.set(Fault::None);
    let before = *renewals.borrow_and_update();
    setting
        .pass_time_until(async { renewals.wait_for(|count| *count >= before + 6).await.map(drop) })
        .await
        .expect("ok");
    assert_eq!(*setting.keeper.subscribe().borrow(), LeaseState::Held(lease));
}

#[tokio::test]
async fn a_revoked_keeper_takes_its_lease_with_it() {
    let setting = Setting::new();
    let lease = setting.keeper.held().await;
    setting.keeper.revoke().await;
    assert_eq!(setting.store.renew(lease).await, Err(MetaError::LeaseGone));
}
