//! Both stores keep one contract, and random operations from one seed give equal histories on both.

use std::sync::Arc;

use async_trait::async_trait;
use fkv_env::Env;
use fkv_meta::embedded::EmbeddedStore;
use fkv_meta::etcd::EtcdStore;
use fkv_meta::store::{MetaStore, Revision};
use fkv_meta::suite::{self, Subject};
use fkv_meta::testing::EtcdProcess;

struct Embedded(Arc<EmbeddedStore>);

#[async_trait]
impl Subject for Embedded {
    fn store(&self) -> Arc<dyn MetaStore> {
        Arc::<EmbeddedStore>::clone(&self.0)
    }

    async fn compact(&self, at: Revision) {
        self.0.compact(at);
    }
}

struct Etcd(Arc<EtcdStore>);

#[async_trait]
impl Subject for Etcd {
    fn store(&self) -> Arc<dyn MetaStore> {
        Arc::<EtcdStore>::clone(&self.0)
    }

    async fn compact(&self, at: Revision) {
        self.0.compact(at).await.expect("compacted");
    }
}

fn env() -> Env {
    Env::real(1).expect("threads start")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_in_memory_keeps_the_contract() {
    let env = env();
    suite::run(&env, &Embedded(Arc::new(EmbeddedStore::in_memory(&env)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_on_disk_keeps_the_contract() {
    let env = env();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = EmbeddedStore::open(&env, &dir.path().join("metadata.redb")).await.expect("opened");
    suite::run(&env, &Embedded(Arc::new(store))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_the_contract() {
    let env = env();
    let process = EtcdProcess::start().await;
    suite::run(&env, &Etcd(Arc::new(process.store(&env)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_operations_give_equal_histories_on_both() {
    const SEEDS: u64 = 40;
    const STEPS: usize = 150;
    let env = env();
    let process = EtcdProcess::start().await;
    let etcd = process.store(&env);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("metadata.redb");
    let mut embedded = EmbeddedStore::open(&env, &path).await.expect("opened");
    for seed in 0..SEEDS {
        let prefix = format!("/history/{seed}/");
        let one = suite::history(&env, &embedded, &prefix, seed, STEPS).await;
        let other = suite::history(&env, &etcd, &prefix, seed, STEPS).await;
        for (step, (one, other)) in one.iter().zip(&other).enumerate() {
            assert_eq!(one, other, "seed {seed}, step {step}: embedded on the left, etcd on the right");
        }
        assert_eq!(one.len(), other.len(), "seed {seed}");
        assert!(one.iter().any(|seen| seen.contains("committed")), "seed {seed} changed nothing");
        if seed % 10 == 9 {
            // What is on disk is what was answered.
            let before = embedded.list("", None).await.expect("listed");
            embedded.close().await;
            embedded = EmbeddedStore::open(&env, &path).await.expect("opened again");
            assert_eq!(embedded.list("", None).await, Ok(before), "seed {seed}");
        }
    }
}
