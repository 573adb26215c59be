//! A store that fails when it is told to.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::error::StoreError;
use crate::object::{ObjectMeta, ObjectStore, ObjectWriter, Store};

/// A call that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `get`, `get_range`, `get_range_of`.
    Get,
    /// `head`.
    Head,
    /// `list`.
    List,
    /// `put`.
    Put,
    /// `writer` and its `write`.
    Write,
    /// A writer's `finish`.
    Finish,
    /// `delete`.
    Delete,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done; `Unavailable`.
    Unavailable,
    /// It is done, but the answer is lost; `Unavailable`. Not for listings.
    AnswerLost,
    /// Nothing is done; `Denied`.
    Denied,
    /// A read that succeeds with one bit flipped in the middle.
    BitFlip,
}

struct Rule {
    operation: Operation,
    path_part: String,
    fault: Fault,
    left: usize,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    calls: Vec<(Operation, String)>,
}

/// A store that fails when it is told to, and remembers what it was asked.
#[derive(Clone)]
pub struct Faults {
    store: Store,
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Faults {
    /// `store`, failing only once it is told to.
    #[must_use]
    pub fn over(store: Store) -> Self {
        Self { store, state: Arc::default() }
    }

    /// This as a store; what is told to one handle holds for all.
    #[must_use]
    pub fn store(&self) -> Store {
        Arc::new(self.clone())
    }

    /// The next `times` calls of `operation` on a path that contains `path_part` fail with `fault`.
    pub fn fail(&self, operation: Operation, path_part: &str, fault: Fault, times: usize) {
        self.state().rules.push(Rule { operation, path_part: path_part.to_owned(), fault, left: times });
    }

    /// No more faults.
    pub fn heal(&self) {
        self.state().rules.clear();
    }

    /// The paths of the calls of `operation` so far.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> Vec<String> {
        let state = self.state();
        state.calls.iter().filter(|(called, _)| *called == operation).map(|(_, path)| path.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call; the fault it meets.
    fn next(&self, operation: Operation, path: &str) -> Option<Fault> {
        let mut state = self.state();
        state.calls.push((operation, path.to_owned()));
        let met = |rule: &&mut Rule| rule.left > 0 && rule.operation == operation && path.contains(&rule.path_part);
        let rule = state.rules.iter_mut().find(met)?;
        rule.left -= 1;
        Some(rule.fault)
    }

    async fn meet<T>(
        &self,
        operation: Operation,
        path: &str,
        call: impl Future<Output = Result<T, StoreError>> + Send,
        flip: impl FnOnce(T) -> T + Send,
    ) -> Result<T, StoreError> {
        let url = || format!("{}/{path}", self.store.url());
        let unavailable = |reason: &str| StoreError::Unavailable { path: url(), reason: reason.into() };
        match self.next(operation, path) {
            None => call.await,
            Some(Fault::Unavailable) => Err(unavailable("injected")),
            Some(Fault::Denied) => Err(StoreError::Denied { path: url(), reason: "injected".into() }),
            Some(Fault::AnswerLost) => {
                call.await?;
                Err(unavailable("injected: the answer is lost"))
            }
            Some(Fault::BitFlip) => call.await.map(flip),
        }
    }
}

fn flip(bytes: Bytes) -> Bytes {
    let mut bytes = BytesMut::from(bytes);
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x10;
    }
    bytes.freeze()
}

#[async_trait]
impl ObjectStore for Faults {
    fn url(&self) -> &str {
        self.store.url()
    }

    async fn get(&self, path: &str) -> Result<Bytes, StoreError> {
        self.meet(Operation::Get, path, self.store.get(path), flip).await
    }

    async fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.meet(Operation::Get, path, self.store.get_range(path, range), flip).await
    }

    async fn get_range_of(&self, object: &ObjectMeta, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.meet(Operation::Get, &object.path, self.store.get_range_of(object, range), flip).await
    }

    async fn head(&self, path: &str) -> Result<ObjectMeta, StoreError> {
        self.meet(Operation::Head, path, self.store.head(path), |meta| meta).await
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let path = format!("{}/{prefix}", self.store.url());
        let reason = "injected".to_owned();
        match self.next(Operation::List, prefix) {
            None => self.store.list(prefix),
            Some(Fault::Denied) => stream::iter([Err(StoreError::Denied { path, reason })]).boxed(),
            Some(_) => stream::iter([Err(StoreError::Unavailable { path, reason })]).boxed(),
        }
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<(), StoreError> {
        self.meet(Operation::Put, path, self.store.put(path, bytes), |()| ()).await
    }

    async fn writer(&self, path: &str) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let writer = self.meet(Operation::Write, path, self.store.writer(path), |writer| writer).await?;
        Ok(Box::new(FaultyWriter { writer, faults: self.clone(), path: path.to_owned() }))
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.meet(Operation::Delete, path, self.store.delete(path), |()| ()).await
    }
}

struct FaultyWriter {
    writer: Box<dyn ObjectWriter>,
    faults: Faults,
    path: String,
}

#[async_trait]
impl ObjectWriter for FaultyWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        self.faults.meet(Operation::Write, &self.path, self.writer.write(bytes), |()| ()).await
    }

    async fn finish(self: Box<Self>) -> Result<(), StoreError> {
        self.faults.meet(Operation::Finish, &self.path, self.writer.finish(), |()| ()).await
    }

    async fn abort(self: Box<Self>) {
        self.writer.abort().await;
    }
}
